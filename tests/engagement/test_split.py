"""Splits: nothing leaks, everything is counted, the folder is whole or absent."""

from __future__ import annotations

import datetime as dt
import random

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from noterec import schema, storage
from noterec.config import PairsConfig, SplitConfig, load
from noterec.config.settings import make
from noterec.engagement import split as split_module
from noterec.engagement import withheld
from noterec.engagement.counting.keys import keys
from noterec.engagement.counting.log import Log, People
from noterec.engagement.pairs import pairs, relevant
from noterec.engagement.split import split
from noterec.errors import ConfigError, InputError
from noterec.notes.dataset import Dataset
from tests.engagement.logs import START, make_dataset, note_ids

LISTS = ("valid-pairs", "test-pairs", "test-pairs-warm", "test-pairs-paper")
DAY = 24 * 60


def grouped_events(seed=0, *, users=60, notes=40, per_user=9):
    """People who stay in one of four groups of notes; a note is only engaged with after the day it was created."""
    rng = random.Random(seed)
    events = []
    for user in range(users):
        group = [n for n in range(notes) if n % 4 == user % 4]
        for note in rng.sample(group, per_user):
            minute = rng.randrange(note * DAY, notes * DAY) + 1
            events.append((f"u{user:02d}", f"n{note:02d}", minute, rng.choice(["view", "click", "like"])))
            events.append((f"u{user:02d}", f"n{note:02d}", minute + 1, "click"))
    return events


@pytest.fixture
def folder(tmp_path):
    """Note n_i is created on day i."""
    return make_dataset(tmp_path / "data", note_ids(40), grouped_events(), created=list(range(40)))


def small_batches(monkeypatch, *, rows):
    """Logs are read by so few rows at a time."""
    real = Dataset.engagement_batches
    monkeypatch.setattr(
        Dataset, "engagement_batches", lambda *args, **given: real(*args, **{**given, "batch_rows": rows})
    )


def read(out):
    lists = {name: pl.DataFrame(storage.read_table(out / f"{name}.parquet", schema.PAIRS)) for name in LISTS}
    new = pl.DataFrame(storage.read_table(out / "new-notes.parquet"))
    parts = {part: set(new.filter(pl.col("part") == part)["note_id"]) for part in ("valid", "test")}
    return Dataset(out / "train"), lists, parts


@pytest.mark.parametrize("by", ["random", "time", "user"])
def test_nothing_leaks(folder, tmp_path, by):
    summary = split(folder, out=tmp_path / "s", config=SplitConfig(by=by, min_support=1))
    train, lists, parts = read(tmp_path / "s")
    everything = set(note_ids(40))
    assert (len(parts["test"]), len(parts["valid"])) == (8, 4)
    assert not parts["test"] & parts["valid"]
    new = parts["test"] | parts["valid"]
    old = everything - new

    # No new id, and no trace of one, in anything that training reads.
    assert set(train.note_ids) == old
    assert set(train.engagement()["note_id"]) <= old
    for file in (tmp_path / "s" / "train").rglob("*.parquet"):
        columns = storage.read_table(file).to_pydict()
        assert not new & {value for column in columns.values() for value in column if isinstance(value, str)}

    # N_u of the training pairs counts the training log alone.
    pairs(tmp_path / "s" / "train", out=tmp_path / "p", config=PairsConfig(weighting="notellm", min_support=1))
    columns = storage.read_table(tmp_path / "p").to_pydict()
    score = dict(zip(zip(columns["anchor_id"], columns["related_id"], strict=True), columns["score"], strict=True))
    distinct = train.engagement(engaged=True).group_by("user_id").agg(pl.col("note_id").n_unique())
    of_user = dict(distinct.iter_rows())
    log = train.engagement().sort("timestamp")
    for (a, b), value in score.items():
        expected = 0.0
        for user in of_user:
            mine = log.filter(pl.col("user_id") == user)
            seen = mine.filter(pl.col("note_id") == a)["timestamp"].min()
            engaged = mine.filter((pl.col("note_id") == b) & (pl.col("action") != "view"))["timestamp"].max()
            expected += 1 / of_user[user] if seen and engaged and seen <= engaged else 0
        assert value == pytest.approx(expected, rel=1e-6)

    # Every list relates what it says.
    assert set(lists["valid-pairs"]["anchor_id"]) <= parts["valid"]
    assert not set(lists["valid-pairs"]["related_id"]) & parts["test"]
    assert set(lists["test-pairs"]["anchor_id"]) <= parts["test"]
    assert set(lists["test-pairs"]["related_id"]) <= everything
    assert set(lists["test-pairs-warm"]["anchor_id"]) <= old
    assert set(lists["test-pairs-warm"]["related_id"]) <= parts["test"]
    assert set(lists["test-pairs-paper"]["anchor_id"]) <= parts["test"]
    assert set(lists["test-pairs-paper"]["related_id"]) <= parts["test"]
    assert all(table.height for table in lists.values())

    # Everything is somewhere.
    assert summary.train_notes + summary.valid_notes + summary.test_notes == 40
    hidden = summary.events_on_valid + summary.events_on_test + summary.events_too_late + summary.events_undated
    hidden += summary.events_of_held_people
    assert summary.train_events + hidden == summary.events == len(grouped_events())
    assert summary.test_queries + summary.test_without_relevant == 8
    assert summary.warm_queries + summary.warm_without_relevant == len(old)
    assert summary.paper_queries + summary.paper_without_relevant == 8
    assert summary.warm_reached == lists["test-pairs-warm"]["related_id"].n_unique()
    assert train.clock == "time"


def test_test_pairs_are_the_strongest_of_the_full_log(folder, tmp_path):
    """The lists agree with `pairs` on the whole dataset, cut to their anchors."""
    split(folder, out=tmp_path / "s", config=SplitConfig(top=3))
    _, lists, parts = read(tmp_path / "s")
    pairs(folder, out=tmp_path / "all", config=PairsConfig(top=3))
    whole = pl.DataFrame(storage.read_table(tmp_path / "all", schema.PAIRS))
    assert lists["test-pairs"].equals(whole.filter(pl.col("anchor_id").is_in(list(parts["test"]))))
    pairs(folder, out=tmp_path / "deep", config=PairsConfig(top=100, weighting="notellm"))
    whole = pl.DataFrame(storage.read_table(tmp_path / "deep", schema.PAIRS))
    among = whole.filter(
        pl.col("anchor_id").is_in(list(parts["test"])), pl.col("related_id").is_in(list(parts["test"]))
    )
    top = among.group_by("anchor_id", maintain_order=True).head(3).select("anchor_id", "related_id", "score")
    assert lists["test-pairs-paper"].select("anchor_id", "related_id", "score").equals(top)


def test_valid_pairs_ignore_what_people_did_with_test_notes(folder, tmp_path):
    """Dropping all events on test notes from the log changes no valid pair."""
    split(folder, out=tmp_path / "s")
    _, lists, parts = read(tmp_path / "s")
    rest = [event for event in grouped_events() if event[1] not in parts["test"]]
    fewer = make_dataset(tmp_path / "fewer" / "data", note_ids(40), [*rest, *[("x", n, 1) for n in parts["test"]],
                                                      *[("y", n, 1) for n in parts["test"]]])  # fmt: skip
    split(fewer, out=tmp_path / "t")
    _, other, other_parts = read(tmp_path / "t")
    assert other_parts == parts
    assert other["valid-pairs"].equals(lists["valid-pairs"])


def test_by_time_the_past_ends_with_the_first_new_note(folder, tmp_path):
    split(folder, out=tmp_path / "s", config=SplitConfig(by="time", min_support=1))
    train, lists, parts = read(tmp_path / "s")
    assert parts["valid"] == set(note_ids(40)[28:32])
    assert parts["test"] == set(note_ids(40)[32:])
    assert train.engagement()["timestamp"].max() < START + dt.timedelta(days=28)
    kept = [e for e in grouped_events() if e[1] < "n28" and e[2] < 28 * DAY]
    assert train.engagement().height == len(kept)
    # Valid is counted on the days before the first test note alone.
    early = [e for e in grouped_events() if e[1] < "n32" and e[2] < 32 * DAY]
    pairs(make_dataset(tmp_path / "early", note_ids(32), early), out=tmp_path / "p", config=PairsConfig(min_support=1))
    wanted = pl.DataFrame(storage.read_table(tmp_path / "p", schema.PAIRS)).filter(pl.col("anchor_id") >= "n28")
    assert lists["valid-pairs"].equals(wanted)


def test_an_event_at_the_very_moment_of_the_first_new_note_is_too_late(tmp_path):
    events = [
        (u, n, t) for u in "uvw" for n, t in (("n00", 0), ("n01", 1), ("n02", 1), ("n08", 9 * DAY), ("n09", 9 * DAY))
    ]
    events += [("u", "n03", 7 * DAY), ("v", "n03", 7 * DAY - 1)]
    folder = make_dataset(tmp_path / "d", note_ids(10), events, created=list(range(10)))
    summary = split(folder, out=tmp_path / "s", config=SplitConfig(by="time", cold=0.2, valid=0.1))
    assert summary.events_too_late == 1
    assert (START + dt.timedelta(days=7)) not in Dataset(tmp_path / "s" / "train").engagement()["timestamp"].to_list()


def test_notes_created_at_once_are_told_apart_by_their_id(tmp_path):
    """n1 ... n7 share a moment: the greatest ids are test, the next valid, wherever they stand in the file."""
    created = [0, *[5] * 7, 3, 3]
    days = dict(zip(note_ids(10), created, strict=True))
    events = [(u, n, days[n] * DAY + 1 + i) for i, u in enumerate("uvw") for n in note_ids(10)]
    for name, order in (("a", slice(None)), ("b", slice(None, None, -1))):
        (tmp_path / name).mkdir()
        data = make_dataset(tmp_path / name / "d", note_ids(10)[order], events[order], created=created[order])
        summary = split(data, out=tmp_path / name / "s", config=SplitConfig(by="time", cold=0.2, valid=0.2))
        assert read(tmp_path / name / "s")[2] == {"test": {"n06", "n07"}, "valid": {"n04", "n05"}}
        # n01, n02 and n03 are old, and everything on them is as late as the new ones.
        assert summary.train_notes == 6 and summary.events_too_late == 9


def test_the_same_seed_gives_the_same_bytes_whatever_the_file_order(folder, tmp_path):
    events = grouped_events()
    (tmp_path / "b").mkdir()
    reordered = make_dataset(tmp_path / "b" / "data", note_ids(40)[::-1], events[::-1], created=list(range(40))[::-1])
    split(folder, out=tmp_path / "1")
    split(folder, out=tmp_path / "2")
    split(reordered, out=tmp_path / "3")
    split(folder, out=tmp_path / "4", config=SplitConfig(seed=1))
    files = sorted(p.relative_to(tmp_path / "1") for p in (tmp_path / "1").rglob("*") if p.is_file())
    assert len(files) == 9
    for file in files:
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes()
        if "train" not in file.parts:
            assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "3" / file).read_bytes()
    assert read(tmp_path / "1")[2] != read(tmp_path / "4")[2]


def test_notes_keep_all_their_columns(tmp_path):
    ids = note_ids(40)
    image = [{"bytes": bytes([i]) * 10, "path": None} for i in range(40)]
    folder = make_dataset(
        tmp_path / "data", ids, grouped_events(), images=pa.array([[i] for i in image], pa.list_(schema.IMAGE)),
        price=[float(i) for i in range(40)],
    )  # fmt: skip
    split(folder, out=tmp_path / "s")
    notes = Dataset(tmp_path / "s" / "train").notes()
    assert notes.height == 28
    for row in notes.iter_rows(named=True):
        number = int(row["note_id"][1:])
        assert row["images"] == [image[number]]
        assert row["price"] == number


def test_notes_are_written_in_files_of_bounded_size(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(withheld, "_FILE_BYTES", 1)
    split(folder, out=tmp_path / "s")
    assert Dataset(tmp_path / "s" / "train").note_ids.len() == 28


def test_events_are_written_in_files_of_bounded_size_and_in_order(folder, tmp_path, monkeypatch):
    split(folder, out=tmp_path / "whole")
    monkeypatch.setattr(withheld, "_FILE_EVENTS", 7)
    small_batches(monkeypatch, rows=50)
    split(folder, out=tmp_path / "s")
    rows = [storage.read_table(file).num_rows for file in Dataset(tmp_path / "s" / "train").engagement_files]
    assert len(rows) > 10 and set(rows[:-1]) == {7} and 1 <= rows[-1] <= 7
    assert read(tmp_path / "s")[0].engagement().equals(read(tmp_path / "whole")[0].engagement())
    assert all(read(tmp_path / "s")[1][name].equals(read(tmp_path / "whole")[1][name]) for name in LISTS)


@pytest.mark.parametrize("by", ["random", "time", "user"])
def test_the_log_is_never_held(folder, tmp_path, monkeypatch, by):
    def whole(*args, **kwargs):
        raise AssertionError("the whole log was read")

    monkeypatch.setattr(Dataset, "engagement", whole)
    assert split(folder, out=tmp_path / "s", config=SplitConfig(by=by, min_support=1)).train_events


def test_a_failed_split_leaves_the_earlier_one_untouched(folder, tmp_path, monkeypatch):
    split(folder, out=tmp_path / "s")
    before = {p: p.read_bytes() for p in (tmp_path / "s").rglob("*") if p.is_file()}

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(split_module, "write_pairs", fail)
        with pytest.raises(InputError, match="No space left"):
            split(folder, out=tmp_path / "s", config=SplitConfig(seed=5))
    assert {p: p.read_bytes() for p in (tmp_path / "s").rglob("*") if p.is_file()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "s"]
    split(folder, out=tmp_path / "s", config=SplitConfig(seed=5))  # an earlier split may be replaced
    assert storage.read_json(tmp_path / "s" / "split.json")["config"]["seed"] == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "s"]


def test_folders_of_others_are_left_alone(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="no earlier split"):
        split(folder, out=other)
    with pytest.raises(InputError, match="no earlier split"):
        split(folder, out=other / "thesis.txt")
    with pytest.raises(InputError, match="holds the dataset"):
        split(folder, out=folder)
    assert (other / "thesis.txt").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    split(folder, out=tmp_path / "empty")
    with pytest.raises(InputError, match="holds the dataset"):
        split(tmp_path / "empty" / "train", out=tmp_path / "empty")


@pytest.mark.parametrize("clock", ["position", "none"])
def test_by_time_needs_real_times(tmp_path, clock):
    folder = make_dataset(tmp_path / "d", note_ids(40), grouped_events(), created=list(range(40)), clock=clock)
    with pytest.raises(InputError, match=rf"needs real times, but this log's clock is '{clock}'"):
        split(folder, out=tmp_path / "s", config=SplitConfig(by="time"))
    assert split(folder, out=tmp_path / "s").test_notes == 8


def test_by_time_needs_created_at(tmp_path):
    folder = make_dataset(tmp_path / "d", note_ids(40), grouped_events())
    with pytest.raises(InputError, match="40 of 40 notes have no created_at"):
        split(folder, out=tmp_path / "s", config=SplitConfig(by="time"))
    created = [None if i == 39 else i for i in range(40)]
    folder = make_dataset(tmp_path / "e", note_ids(40), grouped_events(), created=created)
    summary = split(folder, out=tmp_path / "s", config=SplitConfig(by="time", min_support=1))
    assert summary.notes_undated == 1
    assert "n39" in set(Dataset(tmp_path / "s" / "train").note_ids)


def test_what_cannot_be_split_says_why(tmp_path):
    events = [(u, n, 1) for u in "uv" for n in ("n00", "n01")]
    with pytest.raises(InputError, match="bring more notes"):
        split(make_dataset(tmp_path / "a", note_ids(2), events), out=tmp_path / "s")
    with pytest.raises(InputError, match="no engagement"):
        split(make_dataset(tmp_path / "b", note_ids(40), []), out=tmp_path / "s")
    lonely = [(f"u{i}", f"n{i:02d}", 1) for i in range(40)]
    with pytest.raises(InputError, match="none of the 8 test notes has a relevant note"):
        split(make_dataset(tmp_path / "c", note_ids(40), lonely), out=tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_no_valid_part_is_allowed(folder, tmp_path):
    summary = split(folder, out=tmp_path / "s", config=SplitConfig(valid=0))
    assert (summary.valid_notes, summary.valid_pairs, summary.train_notes) == (0, 0, 32)


def test_split_json_holds_settings_and_counts(folder, tmp_path):
    summary = split(folder, out=tmp_path / "s", config=SplitConfig(by="time", min_support=1))
    record = storage.read_json(tmp_path / "s" / "split.json")
    assert record["config"]["by"] == "time"
    assert record["counts"]["test_without_relevant"] == summary.test_without_relevant
    assert record["first_new_note"].startswith("2024-01-29")


def moments(test_day, valid_day, **settings):
    """The moments at which two days after the first note's begin."""
    times = {"test_from": START + dt.timedelta(days=test_day), "valid_from": START + dt.timedelta(days=valid_day)}
    return SplitConfig(by="time", min_support=1, **times, **settings)


def test_moments_choose_the_parts_and_end_the_past(folder, tmp_path):
    config = moments(33, 30)
    summary = split(folder, out=tmp_path / "s", config=config)
    train, lists, parts = read(tmp_path / "s")
    assert parts["test"] == {f"n{i:02d}" for i in range(33, 40)} and parts["valid"] == {"n30", "n31", "n32"}
    log = train.engagement()
    assert log["timestamp"].max() < config.valid_from and set(log["note_id"]) <= {f"n{i:02d}" for i in range(30)}
    late = pl.DataFrame(storage.read_table(folder / "engagement" / "a.parquet")).filter(
        pl.col("timestamp") >= config.valid_from, pl.col("note_id") < "n30"
    )
    assert summary.events_too_late == late.height > 0
    assert not (set(lists["valid-pairs"]["related_id"]) | set(lists["valid-pairs"]["anchor_id"])) & parts["test"]
    # What is done from test_from on is as if it hadn't been: valid-pairs don't change with it.
    tables = storage.read_table(folder / "engagement" / "a.parquet")
    early = tables.filter(pl.Series(tables["timestamp"]).lt(config.test_from).to_arrow())
    held = tables.filter(pl.Series(tables["note_id"]).is_in(sorted(parts["test"])).to_arrow())
    storage.write_table(pa.concat_tables([early, held]), folder / "engagement" / "a.parquet")
    split(folder, out=tmp_path / "t", config=config)
    assert read(tmp_path / "t")[1]["valid-pairs"].equals(lists["valid-pairs"])


def test_a_note_of_exactly_the_moment_is_on_its_far_side(folder, tmp_path):
    split(folder, out=tmp_path / "s", config=moments(35, 34))
    assert read(tmp_path / "s")[2] == {"test": {f"n{i}" for i in range(35, 40)}, "valid": {"n34"}}
    record = storage.read_json(tmp_path / "s" / "split.json")
    assert record["first_new_note"].startswith("2024-02-04") and record["config"]["valid_from"].startswith("2024-02-04")


def test_equal_moments_leave_valid_empty(folder, tmp_path):
    summary = split(folder, out=tmp_path / "s", config=moments(33, 33))
    assert (summary.valid_notes, summary.valid_pairs, summary.test_notes, summary.train_notes) == (0, 0, 7, 33)
    assert read(tmp_path / "s")[0].engagement()["timestamp"].max() < START + dt.timedelta(days=33)


def test_moments_without_notes_say_what_they_leave(folder, tmp_path):
    for days, words in (((50, 45), "0 notes were created"), ((33, 0), " 0 before"), ((40, 33), r"0 notes .* 7 more")):
        with pytest.raises(InputError, match=words):
            split(folder, out=tmp_path / "s", config=moments(*days))


def test_a_moment_is_the_same_in_every_zone(folder, tmp_path):
    naive = SplitConfig(by="time", test_from="2024-02-03T00:00:00", valid_from="2024-01-31")
    east = SplitConfig(by="time", test_from="2024-02-03T08:00:00+08:00", valid_from="2024-01-31T08:00:00+08:00")
    assert naive == east == moments(33, 30).model_copy(update={"min_support": 2})
    assert naive.model_dump(mode="json") == east.model_dump(mode="json")  # and so is every hash of it
    counts = [
        split(folder, out=tmp_path / name, config=config.model_copy(update={"min_support": 1}))
        for name, config in (("a", naive), ("b", east))
    ]
    assert counts[0] == counts[1] == split(folder, out=tmp_path / "c", config=moments(33, 30))


def test_moments_from_a_settings_file(tmp_path):
    (tmp_path / "s.yaml").write_text("by: time\ntest_from: 2024-02-03\nvalid_from: 2024-01-31 12:00:00\n")
    config = load(SplitConfig, tmp_path / "s.yaml")
    assert config.test_from == dt.datetime(2024, 2, 3, tzinfo=dt.UTC)
    assert config.valid_from == dt.datetime(2024, 1, 31, 12, tzinfo=dt.UTC)
    assert SplitConfig(**config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"by": "random", "users": 0.3}, "users is for by=user"),
        ({"test_from": "2024-02-03"}, "belong together"),
        ({"by": "random", "test_from": "2024-02-03", "valid_from": "2024-02-03"}, "are for by=time"),
        ({"test_from": "2024-02-03", "valid_from": "2024-02-04"}, "not be later"),
        ({"test_from": "soon", "valid_from": "2024-02-04"}, "test_from"),
    ],
)
def test_settings_that_fit_no_split(given, words):
    with pytest.raises(ConfigError, match=words):
        make(SplitConfig, {"by": "time", **given}, where="test")


def people_of(config):
    """The people who are held out: a function from an id to "train", "valid" or "test"."""
    cut = config.users * config.valid / (config.valid + config.cold)
    shares = {"valid": People(0, cut, config.seed), "test": People(cut, config.users, config.seed)}

    def part(user):
        return next((name for name, share in shares.items() if share.of(keys(pa.array([user])))[0]), "train")

    return part


def test_by_user_each_list_is_counted_by_people_whom_training_never_saw(folder, tmp_path):
    """The lists are those of a platform whose only people are the ones who were held out for them."""
    config = SplitConfig(by="user", users=0.6, min_support=1, seed=2)
    summary = split(folder, out=tmp_path / "s", config=config)
    train, lists, parts = read(tmp_path / "s")
    part = people_of(config)
    of = {user: part(user) for user in {event[0] for event in grouped_events()}}
    counts = {name: sum(value == name for value in of.values()) for name in ("train", "valid", "test")}
    assert counts == {"train": summary.train_people, "valid": summary.valid_people, "test": summary.test_people}
    assert all(counts.values()) and 20 <= counts["valid"] + counts["test"] <= 50
    assert {of[user] for user in train.engagement()["user_id"]} == {"train"}
    old = [event for event in grouped_events() if event[1] not in parts["valid"] | parts["test"]]
    assert summary.events_of_held_people == sum(of[event[0]] != "train" for event in old)
    assert summary.train_events == sum(of[event[0]] == "train" for event in old)

    same = config.model_copy(update={"by": "random"})
    for name in ("valid", "test"):
        events = [event for event in grouped_events() if of[event[0]] == name]
        alone = make_dataset(tmp_path / name / "data", note_ids(40), events, created=list(range(40)))
        split(alone, out=tmp_path / name / "s", config=same)
        _, expected, drawn = read(tmp_path / name / "s")
        assert drawn == parts  # notes are drawn as at random
        for entry in LISTS:
            if entry.startswith(name):
                assert lists[entry].height and lists[entry].equals(expected[entry])


@pytest.mark.parametrize(("most", "bytes_each"), [(1, 1 << 40), (3, 1 << 40), (1 << 16, 32)])
def test_people_are_counted_range_by_range_where_they_are_too_many(folder, monkeypatch, most, bytes_each):
    monkeypatch.setattr(withheld, "_MOST_PEOPLE", most)
    monkeypatch.setattr(withheld, "_PERSON_BYTES", bytes_each)
    small_batches(monkeypatch, rows=100)
    config = SplitConfig(by="user")
    held = withheld.HeldPeople(People(0, 1 / 6, 0), People(1 / 6, 1 / 2, 0))
    counts = withheld.count_people(Dataset(folder), held, memory=1000)
    part = people_of(config)
    found = [part(user) for user in {event[0] for event in grouped_events()}]
    assert counts == {name: found.count(name) for name in ("train", "valid", "test")}


def test_by_user_without_valid_notes_or_valid_people(folder, tmp_path, caplog):
    summary = split(folder, out=tmp_path / "s", config=SplitConfig(by="user", valid=0))
    assert (summary.valid_people, summary.valid_events, summary.valid_pairs) == (0, 0, 0) and summary.test_people > 20
    events = [event for event in grouped_events() if people_of(SplitConfig(by="user"))(event[0]) != "valid"]
    fewer = make_dataset(tmp_path / "fewer" / "data", note_ids(40), events)
    assert split(fewer, out=tmp_path / "t", config=SplitConfig(by="user")).valid_queries == 0
    assert "valid-pairs is empty" in caplog.text
    events = [event for event in grouped_events() if people_of(SplitConfig(by="user"))(event[0]) != "test"]
    nobody = make_dataset(tmp_path / "nobody" / "data", note_ids(40), events)
    with pytest.raises(InputError, match="held out for test engaged with nothing"):
        split(nobody, out=tmp_path / "u", config=SplitConfig(by="user"))


def random_platform(folder, seed):
    """A small log with equal times, events without one, views, notes that the dataset doesn't have, and notes created at once."""
    rng = random.Random(seed)
    notes = rng.randrange(8, 16)
    created = [rng.randrange(6) for _ in range(notes)]
    events = []
    for _ in range(rng.randrange(60, 200)):
        note, user = rng.randrange(notes + 1), f"u{rng.randrange(rng.choice([3, 12])):02d}"
        minute = ([*created, 0][note] + rng.randrange(4)) * DAY  # midnights, when notes are created too
        time = None if rng.random() < 0.01 else minute
        events.append((user, f"n{note:02d}", time, rng.choice(["view", "click", "click", "save"])))
    return (
        make_dataset(folder, note_ids(notes), events, created=created),
        events,
        dict(zip(note_ids(notes), created, strict=True)),
    )


@pytest.mark.parametrize("by", ["random", "time", "user"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**9))
def test_no_list_and_no_training_knows_what_is_hidden_from_it(tmp_path, by, seed):
    """Training's log, every count, and every list are those of a log in which what is hidden never happened."""
    place = tmp_path / str(seed)
    place.mkdir(exist_ok=True)
    data, events, created = random_platform(place / "data", seed)
    config = SplitConfig(by=by, min_support=1 + seed % 2, seed=seed % 5, cold=0.25, valid=0.15, top=3)
    try:
        summary = split(data, out=place / "s", config=config)
    except InputError:  # too little is left to ask for
        reject()
    train, lists, parts = read(place / "s")
    part = people_of(config) if by == "user" else None
    first = {name: min((created[n] for n in ids), default=None) for name, ids in parts.items()}

    def early(event, day):
        return by != "time" or (event[2] is not None and event[2] < day * DAY)

    def of(event, name):
        return part is None or part(event[0]) == name

    old = [event for event in events if event[1] not in parts["valid"] | parts["test"]]
    mine = [event for event in old if of(event, "train")]
    seen = [event for event in mine if early(event, min(day for day in first.values() if day is not None))]
    rows = train.engagement().with_columns(minute=(pl.col("timestamp") - START).dt.total_minutes())
    assert rows.select("user_id", "note_id", "minute", "action").rows() == seen
    undated = sum(event[2] is None for event in mine) if by == "time" else 0
    assert (summary.events_of_held_people, summary.events_undated) == (len(old) - len(mine), undated)
    assert summary.events_too_late == len(mine) - len(seen) - undated
    for name in ("valid", "test"):
        assert getattr(summary, f"events_on_{name}") == sum(event[1] in parts[name] for event in events)

    views = {
        "valid": [e for e in events if e[1] not in parts["test"] and early(e, first["test"]) and of(e, "valid")],
        "test": [event for event in events if of(event, "test")],
    }
    assert (summary.valid_events, summary.test_events) == (len(views["valid"]), len(views["test"]))
    everything = set(created)
    asked = {
        "valid-pairs": ("valid", parts["valid"], everything - parts["test"], "cosine"),
        "test-pairs": ("test", parts["test"], everything, "cosine"),
        "test-pairs-warm": ("test", everything - parts["valid"] - parts["test"], parts["test"], "cosine"),
        "test-pairs-paper": ("test", parts["test"], parts["test"], "notellm"),
    }
    for name, (reader, anchors, candidates, weighting) in asked.items():
        if not any(event[3] != "view" for event in views[reader]):
            assert not lists[name].height
            continue
        alone = make_dataset(place / name / "data", sorted(everything), views[reader])
        expected = relevant(
            Log(Dataset(alone)),
            anchors=pl.Series(sorted(anchors), dtype=pl.String),
            candidates=pl.Series(sorted(candidates), dtype=pl.String),
            weighting=weighting,
            top=config.top,
            min_support=config.min_support,
        )
        assert lists[name].equals(expected)
