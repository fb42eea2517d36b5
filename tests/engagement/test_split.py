"""Splits: nothing leaks, everything is counted, the folder is whole or absent."""

from __future__ import annotations

import datetime as dt
import random

import polars as pl
import pyarrow as pa
import pytest

from noterec import schema, storage
from noterec.config import PairsConfig, SplitConfig, load
from noterec.config.settings import make
from noterec.engagement import split as split_module
from noterec.engagement.pairs import pairs
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


def read(out):
    lists = {name: pl.DataFrame(storage.read_table(out / f"{name}.parquet", schema.PAIRS)) for name in LISTS}
    new = pl.DataFrame(storage.read_table(out / "new-notes.parquet"))
    parts = {part: set(new.filter(pl.col("part") == part)["note_id"]) for part in ("valid", "test")}
    return Dataset(out / "train"), lists, parts


@pytest.mark.parametrize("by", ["random", "time"])
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
    assert summary.train_events + hidden == len(grouped_events())
    assert summary.test_queries + summary.test_without_relevant == 8
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
    monkeypatch.setattr(split_module, "_FILE_BYTES", 1)
    split(folder, out=tmp_path / "s")
    assert Dataset(tmp_path / "s" / "train").note_ids.len() == 28


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
        ({"test_from": "2024-02-03"}, "belong together"),
        ({"by": "random", "test_from": "2024-02-03", "valid_from": "2024-02-03"}, "are for by=time"),
        ({"test_from": "2024-02-03", "valid_from": "2024-02-04"}, "not be later"),
        ({"test_from": "soon", "valid_from": "2024-02-04"}, "test_from"),
    ],
)
def test_moments_that_fit_no_split(given, words):
    with pytest.raises(ConfigError, match=words):
        make(SplitConfig, {"by": "time", **given}, where="test")
