"""Notes taken out of a table: they are in none of its bytes, and all others stay."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from noterec import storage
from noterec.embedding.table import embeddings_status, is_table
from noterec.embedding.tombstones import withdraw_notes
from noterec.errors import ArtefactError, InputError, LockedError
from noterec.index.vectors import load_embeddings
from noterec.storage.locks import only_job
from tests.embedding import outputs
from tests.embedding.outputs import many, write


def held(out: Path) -> set[str]:
    return set(load_embeddings(out).ids)


def rows(out: Path) -> list[str]:
    """The ids of all rows of all files, also of those that no longer count or that no manifest names."""
    return [text for file in out.glob("*.parquet") for text in pq.read_table(file)["note_id"].to_pylist()]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Thirty notes in shards of ten, some of them written twice."""
    outputs.run(write(tmp_path / "d", many(30)), tmp_path / "e")
    outputs.run(write(tmp_path / "d", {**many(30), "n003": "another text"}), tmp_path / "e")
    return tmp_path / "e"


def test_a_note_goes_with_its_older_rows(table: Path) -> None:
    assert rows(table).count("n003") == 2
    assert withdraw_notes(table, {"n003", "n030", "n3"}) == 1
    assert "n003" not in rows(table) and held(table) == set(many(30)) - {"n003"}
    status = embeddings_status(table, deep=True)
    assert (status.notes, status.rows, status.tombstones, status.damage) == (29, 29, 0, {})
    assert withdraw_notes(table, {"n003"}) == 0 and held(table) == set(many(30)) - {"n003"}


def test_a_note_that_was_withdrawn_before_leaves_no_trace(table: Path, tmp_path: Path) -> None:
    notes = {note_id: text for note_id, text in many(30).items() if note_id != "n003"}
    outputs.run(write(tmp_path / "d", notes), table)
    assert "n003" in rows(table) and "n003" not in held(table)
    assert withdraw_notes(table, {"n003"}) == 0
    assert "n003" not in rows(table)


def test_all_notes(table: Path, tmp_path: Path) -> None:
    assert withdraw_notes(table, set(many(30))) == 30
    assert rows(table) == [] and is_table(table)
    assert withdraw_notes(table, {"n003"}) == 0
    outputs.run(tmp_path / "d", table)
    assert held(table) == set(many(30))  # it is the same table as before


def test_the_next_run_encodes_only_what_is_missing(table: Path, tmp_path: Path) -> None:
    withdraw_notes(table, {"n003"})
    increment, encoded = outputs.run(tmp_path / "d", table)
    assert (increment.unchanged, encoded) == (29, ["n003"]) and held(table) == set(many(30))


@pytest.mark.parametrize("step", ["withdraw_unseen", "compact_embeddings"])
def test_killed_and_run_again(table: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def killed(*arguments: object, **keywords: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(f"noterec.embedding.tombstones.{step}", killed)
        with pytest.raises(KeyboardInterrupt):
            withdraw_notes(table, {"n003"})
    withdraw_notes(table, {"n003"})
    assert "n003" not in rows(table)


def test_what_is_no_table_and_one_that_is_written(table: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert not is_table(tmp_path / "other") and not is_table(tmp_path / "nothing") and is_table(table)
    with pytest.raises(InputError, match="nothing there"):
        withdraw_notes(tmp_path / "other", {"n003"})
    with only_job(table, "noterec embed"), pytest.raises(LockedError, match="noterec embed"):
        withdraw_notes(table, {"n003"})
    (table / storage.MANIFEST).write_text("{}")
    with pytest.raises(ArtefactError):
        is_table(table)
