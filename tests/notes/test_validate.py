import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noterec.errors import InputError
from noterec.notes.validate import validate


def _dataset(folder: Path, notes: dict, log: dict | None = None) -> Path:
    (folder / "notes").mkdir(parents=True)
    pq.write_table(pa.table(notes), folder / "notes" / "a.parquet")
    if log is not None:
        (folder / "engagement").mkdir()
        pq.write_table(pa.table(log), folder / "engagement" / "a.parquet")
    return folder


def test_counts_by_hand(tmp_path: Path) -> None:
    stamp = [datetime.datetime(2024, 1, day, tzinfo=datetime.UTC) for day in (3, 1, 2, 2)]
    notes = {
        "note_id": ["a", "b", "c", "a", "d", "e"],
        "title": ["four", "x", " ", "older", "gone", None],
        "content": ["", None, None, None, "x", "中文"],
        "hashtags": [["ab", "c"], None, [], None, None, ["t"]],
        "images": pa.array([None, None, [{"bytes": b"x", "path": None}], None, None, None]),
        "language": ["en", "en", None, "en", "en", "zh"],
        "category": ["Food/Tea", "Food", None, "Food", "Food", "Home/Pets"],
        "updated_at": [2, 1, 1, 1, 1, 1],
        "deleted": [False, False, None, False, True, False],
        "price": [1, None, None, 3, 4, 5],
    }
    notes["updated_at"] = pa.array(notes["updated_at"], pa.int64()).cast(pa.timestamp("us", "UTC"))
    log = {
        "user_id": ["u", "u", "v", "u"],
        "note_id": ["a", "ghost", "b", "d"],
        "action": ["view", "click", None, "like"],
        "timestamp": stamp,
    }
    summary = validate(_dataset(tmp_path / "d", notes, log))
    assert (summary.notes, summary.note_rows, summary.duplicates, summary.deleted) == (4, 6, 1, 1)
    assert {k: v for k, v in summary.nulls.items() if v} == {
        "title": 2, "content": 3, "hashtags": 2, "images": 3, "language": 1, "category": 1, "author_id": 4,
        "created_at": 4, "exposure": 4, "deleted": 1, "price": 2,
    }  # fmt: skip
    assert summary.text_characters == {0.05: 1, 0.5: 1, 0.95: 7, 1.0: 7}  # lengths 7, 1, 1 (a blank), 3
    assert summary.hashtags_per_note == {0.05: 0, 0.5: 0, 0.95: 2, 1.0: 2}
    assert (summary.notes_without_text, summary.notes_without_anything) == (1, 0)
    assert summary.languages == {"en": 2, "zh": 1}
    assert summary.categories == {"Food": 2, "Home": 1}
    assert (summary.events, summary.users, summary.events_per_user[1.0]) == (4, 2, 3)
    assert summary.actions == {"view": 1, "click": 2, "like": 1}
    assert (summary.engaged_notes, summary.unknown_notes, summary.unknown_events) == (1, 2, 2)
    assert (summary.first, summary.last, summary.clock) == (stamp[1], stamp[0], "time")


def test_notes_alone(tmp_path: Path) -> None:
    summary = validate(_dataset(tmp_path / "d", {"note_id": [1, 2], "title": ["a" * 1_000_000, None]}))
    assert summary.text_characters[1.0] == 1_000_000
    assert (summary.notes_without_anything, summary.events, summary.first, summary.clock) == (1, 0, None, "none")
    assert summary.events_per_user == {}


def test_an_empty_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no notes"):
        validate(_dataset(tmp_path / "d", {"note_id": pa.array([], pa.string()), "title": pa.array([], pa.string())}))
    with pytest.raises(InputError, match="no dataset there"):
        validate(tmp_path / "none")


def test_damage_is_named(tmp_path: Path) -> None:
    folder = _dataset(
        tmp_path / "d", {"note_id": ["a"], "title": ["t"]}, {"user_id": ["u"], "note_id": ["a"], "action": ["hug"]}
    )
    with pytest.raises(InputError, match="unknown action 'hug' in 1 rows"):
        validate(folder)
    file = folder / "engagement" / "a.parquet"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(InputError, match=r"a\.parquet: not a readable Parquet file"):
        validate(folder)
    mixed = _dataset(tmp_path / "m", {"note_id": [1.5], "title": ["t"]})
    with pytest.raises(InputError, match="a float is no id"):
        validate(mixed)
