"""A window that is kept night by night equals one that is counted anew, whatever happens in between."""

from __future__ import annotations

import datetime as dt
import json
import random

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noterec import schema, storage
from noterec.config import PairsConfig
from noterec.engagement.apart.partial import load_sums, piece, save_sums
from noterec.engagement.apart.standing import Standing
from noterec.engagement.apart.window import windowed_pairs
from noterec.engagement.counting.walking import Sums
from noterec.engagement.pairs import pairs
from noterec.errors import ConfigError, InputError, NoPairsError
from noterec.notes.dataset import write_meta
from noterec.storage.locks import LockedError
from tests.engagement.logs import START, make_dataset

SAME = ("pairs", "anchors", "notes", "users_capped", "rows_capped", "pairs_below_support", "pairs_out_of_bounds")


class Platform:
    """A dataset whose log grows by a file a day, and its pairs both ways."""

    def __init__(self, folder, seed, **config):
        self.folder, self.random = folder, random.Random(seed)
        self.config = PairsConfig(**{"window_days": 4, "top": 6, **config})
        write_meta(folder / "d", clock="time")
        self.notes(25)

    def notes(self, count):
        table = pa.table({"note_id": [f"n{i:02d}" for i in range(count)]})
        storage.write_table(
            schema.conform(table, schema.NOTES, name="notes"), self.folder / "d" / "notes" / "a.parquet"
        )

    def day(self, day, *, name="", events=70, users=60):
        choose = self.random.randrange
        active = self.random.sample(range(users), users // 3)  # the others stay away that day
        rows = [
            (f"u{active[choose(len(active))]:02d}", f"n{min(choose(25), choose(25)):02d}", choose(1440))
            for _ in range(events)
        ]
        log = pa.table(
            {
                "user_id": [user for user, _, _ in rows],
                "note_id": [note for _, note, _ in rows],
                "action": [self.random.choice(["click", "click", "view", "save"]) for _ in rows],
                "timestamp": pa.array([START + dt.timedelta(days=day, minutes=m) for *_, m in rows], schema.TIMESTAMP),
            }
        )
        storage.write_table(log, self.file(day, name))

    def file(self, day, name=""):
        return self.folder / "d" / "engagement" / f"day-{day:02d}{name}.parquet"

    def night(self):
        return windowed_pairs(
            self.folder / "d", state=self.folder / "state", out=self.folder / "kept", config=self.config
        )

    def both(self):
        """The night's summary, after it was compared with a full count."""
        kept = self.night()
        anew = pairs(self.folder / "d", out=self.folder / "anew", config=self.config)
        assert {name: getattr(kept, name) for name in SAME} == {name: getattr(anew, name) for name in SAME}
        one, two = (pl.DataFrame(storage.read_table(self.folder / name)) for name in ("kept", "anew"))
        both = one.join(two, on=["anchor_id", "related_id"], how="full", coalesce=True)
        assert both["score"].null_count() == both["score_right"].null_count() == 0
        assert (both["score"] / both["score_right"] - 1).abs().max() < 1e-6
        return kept


KINDS = [
    {"weighting": "notellm"},
    {"weighting": "cosine", "max_notes_per_user": 3},
    {"weighting": "lift", "min_support": 1},
    {"weighting": "npmi", "actions": {"save": 2, "view": -0.3}},
    {"weighting": "notellm", "half_life_days": 2.5},
    {"weighting": "cosine", "half_life_days": 1, "memory": 2000},
    {"weighting": "count", "window_days": None},
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))
def test_equals_a_full_count_every_night(tmp_path, kind):
    """Nine nights; notes come and go, one night brings a late file, another nothing, another two days at once."""
    platform = Platform(tmp_path, 1, **kind)
    changed = []
    for day in range(10):
        if day != 6:
            platform.notes(18 + day if day != 4 else 12)
            platform.day(day)
        if day == 5:
            platform.day(4, name="-late", events=15)
        if day == 7:
            continue
        night = platform.both()
        assert night.anew == "" or ("memory" in kind and "outgrown the memory" in night.anew)
        changed.append(night.users_changed)
    assert changed[6] == 0  # nothing was added on day 6
    assert max(changed) <= 60
    assert min(changed[1:6]) < night.users


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 10_000))
def test_random_nights(tmp_path_factory, seed):
    platform = Platform(tmp_path_factory.mktemp("nights"), seed, window_days=3, weighting="notellm")
    for day in range(5):
        platform.day(day, events=platform.random.randrange(60, 160))
        platform.both()


def test_only_people_of_the_days_that_come_and_go_are_counted(tmp_path):
    events = [(u, n, 0) for u in ("ann", "bob") for n in "ab"]
    folder = make_dataset(tmp_path / "d", "abc", events)
    config = PairsConfig(window_days=3)
    first = windowed_pairs(folder, state=tmp_path / "s", out=tmp_path / "p", config=config)
    assert (first.users_changed, first.events_entered, first.events_left) == (2, 4, 0)
    more = make_dataset(tmp_path / "e", "abc", [("cat", "a", 1440), ("cat", "c", 1441)])
    (more / "engagement" / "a.parquet").rename(folder / "engagement" / "b.parquet")
    second = windowed_pairs(folder, state=tmp_path / "s", out=tmp_path / "p", config=config)
    assert (second.users_changed, second.users, second.events_entered, second.days) == (1, 3, 2, 2)
    last = make_dataset(tmp_path / "f", "abc", [("dan", "a", 3 * 1440), ("dan", "c", 3 * 1440)])
    (last / "engagement" / "a.parquet").rename(folder / "engagement" / "c.parquet")
    third = windowed_pairs(folder, state=tmp_path / "s", out=tmp_path / "p", config=config)
    assert (third.users_changed, third.users, third.events_left, third.events) == (3, 2, 4, 4)  # Ann and Bob leave


def test_the_same_night_twice_gives_the_same_bytes_and_counts_nobody(tmp_path):
    platform = Platform(tmp_path, 2)
    for day in range(3):
        platform.day(day)
    platform.night()
    bytes_before = (tmp_path / "kept").read_bytes()
    again = platform.night()
    assert again.users_changed == again.events_read == again.events_entered == again.events_left == 0
    assert pl.read_parquet(tmp_path / "kept").equals(pl.read_parquet(pl_bytes(bytes_before)))


def pl_bytes(data):
    import io

    return io.BytesIO(data)


@pytest.mark.parametrize("what", ["changed", "removed", "settings"])
def test_what_was_read_and_is_another_now_makes_everything_be_counted_anew(tmp_path, what, caplog):
    platform = Platform(tmp_path, 3)
    for day in range(4):
        platform.day(day)
    platform.both()
    if what == "changed":
        platform.day(2, events=31)
    elif what == "removed":
        platform.file(2).unlink()
    else:
        platform.config = platform.config.model_copy(update={"max_notes_per_user": 2})
    night = platform.both()
    assert night.anew
    assert "counted anew" in caplog.text
    assert platform.both().anew == ""


def test_a_day_that_left_the_window_may_be_removed_or_rewritten(tmp_path):
    platform = Platform(tmp_path, 4, window_days=2)
    for day in range(4):
        platform.day(day)
        platform.both()
    platform.file(0).unlink()
    platform.day(1, events=5)
    platform.day(4)
    assert platform.both().anew == ""


def log_file(folder, name, events):
    """A file of the log of the dataset in `folder`."""
    made = make_dataset(folder.parent / f"of-{name}", "abc", events)
    (made / "engagement" / "a.parquet").replace(folder / "engagement" / f"{name}.parquet")


DAY = 24 * 60
FIRST = [(u, n, m) for u in "uvw" for m, n in enumerate("abc")]
SEEN = [("u", "a", DAY, "impression"), ("v", "b", DAY, "view")]
LATE = [(u, n, 20 * DAY) for u in "xy" for n in "ab"]


@pytest.mark.parametrize(
    "before", [[], SEEN, [("o", "a", 1), ("o", "b", 2)]], ids=["empty", "seen", "before the window"]
)
def test_a_file_of_which_nothing_was_in_the_window_is_read_again_when_it_changed(tmp_path, before):
    folder = make_dataset(tmp_path / "d", "abc", [(u, n, m + 20 * DAY) for u, n, m in FIRST])
    log_file(folder, "b", before)
    config = PairsConfig(window_days=4)
    assert windowed_pairs(folder, state=tmp_path / "s", out=tmp_path / "p", config=config).users == 3
    log_file(folder, "b", LATE)
    night = windowed_pairs(folder, state=tmp_path / "s", out=tmp_path / "p", config=config)
    assert (night.users, night.anew) == (5, "")


@pytest.mark.parametrize("came", [SEEN, [], [("u", "a", None), ("u", "b", DAY)]], ids=["seen", "empty", "undated"])
def test_a_night_of_which_little_counts_does_not_stop_the_window(tmp_path, came, caplog):
    folder = make_dataset(tmp_path / "d", "abc", FIRST * 3)
    config = PairsConfig(window_days=4)
    windowed_pairs(folder, state=tmp_path / "s", out=tmp_path / "p", config=config)
    log_file(folder, "b", came)
    night = windowed_pairs(folder, state=tmp_path / "s", out=tmp_path / "p", config=config)
    full = pairs(folder, out=tmp_path / "q", config=config)
    assert (night.pairs, night.events_read) == (full.pairs, len(came))
    assert ("1 of 2 new events have no timestamp" in caplog.text) == (night.events_undated == 1)


def test_the_dataset_may_move_and_be_named_from_elsewhere(tmp_path, monkeypatch):
    folder = make_dataset(tmp_path / "d", "abc", FIRST)
    windowed_pairs(folder, state=tmp_path / "s", out=tmp_path / "p")
    folder.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    night = windowed_pairs(".", state=tmp_path / "s", out=tmp_path / "p")
    assert (night.anew, night.events_read) == ("", 0)


def test_times_before_1970_are_times(tmp_path):
    events = [(u, n, m - 60 * 365 * DAY) for u, n, m in FIRST]
    folder = make_dataset(tmp_path / "d", "abc", events)
    config = PairsConfig(window_days=3, half_life_days=2)
    for _ in range(2):
        night = windowed_pairs(folder, state=tmp_path / "s", out=tmp_path / "p", config=config)
        assert (night.pairs, night.anew) == (6, "")


def test_an_event_of_the_future_is_told_and_repaired_without_loss(tmp_path, caplog):
    folder = make_dataset(tmp_path / "d", "abc", FIRST)
    config = PairsConfig(window_days=4)
    windowed_pairs(folder, state=tmp_path / "s", out=tmp_path / "p", config=config)
    log_file(folder, "b", [("u", "a", 500 * 365 * DAY)])
    with pytest.raises(NoPairsError):
        windowed_pairs(folder, state=tmp_path / "s", out=tmp_path / "p", config=config)
    assert "is dated 25" in caplog.text
    assert caplog.text.count("yet to come") == 1
    log_file(folder, "b", [("u", "a", DAY)])
    night = windowed_pairs(folder, state=tmp_path / "s", out=tmp_path / "p", config=config)
    assert (night.pairs, night.events, night.anew) == (6, 10, "")


def test_a_window_that_outgrew_its_memory_is_cut_anew(tmp_path):
    platform = Platform(tmp_path, 8, memory=20_000, min_support=1)
    platform.day(0, events=40)
    assert platform.both().anew == ""
    parts = json.loads((tmp_path / "state" / "state.json").read_text())["people"]
    platform.day(1, events=400)
    platform.both()
    assert "outgrown the memory" in platform.both().anew
    assert json.loads((tmp_path / "state" / "state.json").read_text())["people"] > 2 * parts


def test_blocks_of_sums_that_grew_are_cut(tmp_path):
    standing = Standing(tmp_path, "", blocks={(0, 8): "a.npz", (8, 11): "b.npz"})
    ends = np.array([1, 1, 3, 4, 4, 5, 6, 8])
    sums = Sums(ends, np.arange(8, dtype=np.int32), np.arange(8, dtype=np.int32) + 1, np.arange(8) / 2)
    save_sums(tmp_path / "a.npz", sums)
    save_sums(tmp_path / "b.npz", piece(sums, 0, 3))
    size = (tmp_path / "a.npz").stat().st_size
    assert standing.grown(13, size) == [(0, 8), (8, 13)]
    assert standing.grown(13, size // 2 + 1) == [(0, 4), (4, 8), (8, 10), (10, 13)]
    found = standing.sums((4, 8))
    assert found.ends.tolist() == [0, 1, 2, 4]
    assert found.related.tolist() == [4, 5, 6, 7]
    assert found.weight.tolist() == [2, 2.5, 3, 3.5]
    assert standing.sums((8, 13)).ends.tolist() == [1, 1, 3, 3, 3]
    assert standing.sums((10, 13)).related.tolist() == [1, 2]
    assert standing.sums((11, 13)).ends.tolist() == [0, 0]


@pytest.mark.parametrize("kind", ["gone", "empty", "cut"])
@pytest.mark.parametrize(
    "name", ["state.json", "keys-1.parquet", "tally-1.parquet", "people-*.parquet", "anchors-*.npz"]
)
def test_a_damaged_state_says_what_to_do(tmp_path, name, kind):
    folder = make_dataset(tmp_path / "d", "abc", FIRST)
    windowed_pairs(folder, state=tmp_path / "s", out=tmp_path / "p")
    file = next((tmp_path / "s").rglob(name))
    data = file.read_bytes()
    file.unlink()
    if kind != "gone":
        file.write_bytes(data[: len(data) // 2 * (kind == "cut")])
    log_file(folder, "b", [*LATE, ("u", "a", 20 * DAY)])
    if (name, kind) == ("state.json", "gone"):
        assert windowed_pairs(folder, state=tmp_path / "s", out=tmp_path / "p").events == 14
        return
    with pytest.raises(InputError, match=r"expected a whole state: remove .*/s, and the window is counted anew"):
        windowed_pairs(folder, state=tmp_path / "s", out=tmp_path / "p")


def test_what_left_the_window_leaves_the_sums_however_long_it_runs(tmp_path):
    """After thirty half-lives rounding leaves more than what a fresh weight is; nobody's entries go all the same."""
    platform = Platform(tmp_path, 9, half_life_days=0.2, window_days=2, min_support=1, weighting="count")
    for day in range(14):
        platform.day(day, events=30)
        platform.both()
    for file in (tmp_path / "state").rglob("anchors-*.npz"):
        assert (load_sums(file, 25).support > 0).all()


def test_bounds_top_and_support_may_change_without_counting_anew(tmp_path):
    platform = Platform(tmp_path, 5, weighting="notellm")
    for day in range(3):
        platform.day(day)
    platform.both()
    platform.config = platform.config.model_copy(update={"top": 3, "min_support": 3, "lower": 0.3})
    night = platform.both()
    assert (night.anew, night.users_changed) == ("", 0)


@pytest.mark.parametrize("at", ["window.write_pairs", "night.save_tally", "night.save_sums", "standing.Standing.write"])
def test_a_night_that_dies_leaves_the_one_before(tmp_path, monkeypatch, at):
    platform = Platform(tmp_path, 6)
    for day in range(3):
        platform.day(day)
    platform.both()
    state = json.loads((tmp_path / "state" / "state.json").read_text())
    platform.day(3)

    def die(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(f"noterec.engagement.apart.{at}", die)
        with pytest.raises(KeyboardInterrupt):
            platform.night()
    assert json.loads((tmp_path / "state" / "state.json").read_text()) == state
    night = platform.both()
    assert night.anew == ""
    assert night.events_entered > 0
    named = {part.name for part in (tmp_path / "state").iterdir() if not part.name.startswith(".")}
    assert not any(name.endswith(f"-{state['run']}") and name.startswith("tally") for name in named)


def test_what_a_killed_run_left_is_removed_and_what_counts_is_not(tmp_path):
    platform = Platform(tmp_path, 10)
    platform.day(0)
    platform.night()
    state = tmp_path / "state"
    there = {file.relative_to(state) for file in state.rglob("*")}
    left = ["day-7-2/people-00000.parquet", "day-7-2/.people-00001.parquet.ab.tmp", "sums-2/anchors-00000000.npz"]
    left += [".keys-2.parquet.ab.tmp", ".state.json.cd.tmp", "tally-2.parquet"]
    for name in left:
        (state / name).parent.mkdir(exist_ok=True)
        (state / name).touch()
    assert platform.both().events_read == 0
    after = {file.relative_to(state) for file in state.rglob("*")}
    assert not {str(name) for name in after} & {name for name in left if name != "tally-2.parquet"}
    assert len(after) == len(there)  # the second run's keys and tally in place of the first's


def test_two_at_once_are_refused(tmp_path):
    platform = Platform(tmp_path, 7)
    platform.day(0)
    (tmp_path / "state").mkdir()
    with storage.locks.only_job(tmp_path / "state", "another"), pytest.raises(LockedError):
        platform.night()


def test_what_can_not_be_kept_is_told(tmp_path):
    folder = make_dataset(tmp_path / "d", "ab", [(u, n, 1) for u in "uv" for n in "ab"], clock="none")
    with pytest.raises(InputError, match="needs real times"):
        windowed_pairs(folder, state=tmp_path / "s", out=tmp_path / "p")
    folder = make_dataset(tmp_path / "e", "ab", [(u, n, 1) for u in "uv" for n in "ab"])
    for wrong in ({"weighting": "swing"}, {"per_category_pair": 3}):
        with pytest.raises(ConfigError, match="leave the state out"):
            windowed_pairs(folder, state=tmp_path / "s", out=tmp_path / "p", config=PairsConfig(**wrong))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file: File exists; expected a folder for the window's state"):
        windowed_pairs(folder, state=tmp_path / "file", out=tmp_path / "p")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "holiday.jpg").touch()
    with pytest.raises(InputError, match=r"holiday.jpg: isn't a window's"):
        windowed_pairs(folder, state=tmp_path / "other", out=tmp_path / "p")
    with pytest.raises(NoPairsError, match="no related pair is left in the window"):
        windowed_pairs(folder, state=tmp_path / "s", out=tmp_path / "p", config=PairsConfig(min_support=9))
    assert not (tmp_path / "p").exists()
