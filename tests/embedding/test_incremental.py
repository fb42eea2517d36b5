"""Runs over a changing dataset: what is due, what is withdrawn, what a kill and a mistake can't destroy."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noterec import progress, schema, storage
from noterec.config import ImagesConfig
from noterec.embedding import incremental, tombstones
from noterec.embedding.intake import Intake
from noterec.embedding.table import repair_embeddings
from noterec.errors import ArtefactError, ConfigError, InputError
from noterec.notes.dataset import Dataset
from noterec.notes.images.source import ImageSource
from noterec.notes.note import as_table, content_hashes

from .outputs import ORIGIN, KilledError, files, held, increment_of, many, run, shard, vector_of, write


def hash_of(title: str) -> np.ndarray:
    return content_hashes(as_table([{"title": title}]))


def test_only_new_and_changed_notes_are_due(tmp_path: Path) -> None:
    notes = many(25)
    data, out = write(tmp_path / "d", notes), tmp_path / "e"
    first, encoded = run(data, out)
    assert (first.notes, first.unchanged, encoded) == (25, 0, list(notes))
    assert run(data, out)[1] == []
    write(data, {**notes, "n003": "other", "new": "note"})
    second, encoded = run(data, out)
    assert (second.unchanged, second.deleted, encoded) == (24, 0, ["n003", "new"])
    np.testing.assert_allclose(held(out)["n003"], vector_of("other"), atol=1e-6)


def test_a_note_that_left_the_snapshot_is_withdrawn_and_may_come_back(tmp_path: Path) -> None:
    notes = many(25)
    data, out = write(tmp_path / "d", notes), tmp_path / "e"
    run(data, out)
    write(data, {key: text for key, text in notes.items() if key != "n007"}, deleted=("n007",))
    second, encoded = run(data, out)
    assert (second.deleted, encoded, set(held(out))) == (1, [], set(notes) - {"n007"})
    last = storage.read_table(storage.parquet_files(out)[-1]).to_pylist()
    assert last == [{"note_id": "n007", "embedding": None, "content_hash": None, "model_version": None}]
    assert storage.ShardFolder(out, origin=ORIGIN).shards[-1]["tombstones"] == 1
    assert run(data, out)[0].deleted == 0
    assert len(storage.parquet_files(out)) == 4
    write(data, notes)
    assert run(data, out)[1] == ["n007"]
    assert set(held(out)) == set(notes)


def test_a_delta_withdraws_only_what_it_says(tmp_path: Path) -> None:
    notes = many(25)
    out = tmp_path / "e"
    run(write(tmp_path / "d", notes), out)
    delta = write(tmp_path / "delta", {"n001": "changed", "n100": "new"}, deleted=("n002", "never-seen"))
    found, encoded = run(delta, out, mode="delta")
    assert (found.notes, found.deleted, encoded) == (2, 1, ["n001", "n100"])
    assert set(held(out)) == set(notes) - {"n002"} | {"n100"}
    only = write(tmp_path / "only", {}, deleted=("n003", "n004"))
    assert run(only, out, mode="delta")[0].deleted == 2
    assert run(only, out, mode="delta")[0].deleted == 0
    with pytest.raises(InputError, match="has no notes"):
        run(only, out)
    nothing, encoded = run(write(tmp_path / "none", {}), out, mode="delta")  # a night in which nothing happened
    assert (nothing.notes, nothing.deleted, encoded) == (0, 0, [])
    assert len(held(out)) == 23


def test_a_delta_withdraws_what_it_emptied_however_few_notes_it_has(tmp_path: Path) -> None:
    notes = many(40)
    out = tmp_path / "e"
    run(write(tmp_path / "d", notes), out)
    found, encoded = run(write(tmp_path / "a", {"n000": "x", "n001": " ", "n002": "y"}), out, mode="delta")
    assert (found.rejects, found.deleted, encoded) == (["n001"], 1, ["n000", "n002"])
    assert (
        run(write(tmp_path / "b", {"n003": None, "n004": "", "new": " "}), out, mode="delta", max_rejected=0.08)[
            0
        ].deleted
        == 2
    )  # 3 of 39
    assert set(held(out)) == set(notes) - {"n001", "n003", "n004"}
    assert run(write(tmp_path / "c", {"a": "x", "b": None}), tmp_path / "fresh", mode="delta")[0].rejects == ["b"]


def test_a_delta_that_is_broken_withdraws_nothing(tmp_path: Path) -> None:
    notes = many(1000)
    out = tmp_path / "e"
    run(write(tmp_path / "d", notes), out, rows=1000)
    emptied = {f"n{i:03d}": None for i in range(60)}
    said = "60 of 61 notes have no text to encode, more than 5 % .*of the 1000 in the output"
    with pytest.raises(InputError, match=said):
        run(write(tmp_path / "share", {**emptied, "n100": "x"}, deleted=("n999",)), out, mode="delta")
    blank = write(tmp_path / "blank", dict(list(emptied.items())[:21]))
    with pytest.raises(InputError, match="21 of 21 notes have no text to encode, which is the whole delta"):
        run(blank, out, mode="delta")
    assert set(held(out)) == set(notes)
    assert run(blank, out, mode="delta", max_rejected=1)[0].deleted == 21


def test_a_delta_where_a_deleted_note_was_posted_again(tmp_path: Path) -> None:
    """The newest row of an id says whether it is deleted."""
    out = tmp_path / "e"
    run(write(tmp_path / "d", many(5)), out)
    delta = tmp_path / "delta"
    rows: list[dict[str, Any]] = [
        {"note_id": "n001", "deleted": True, "updated_at": 2_000_000},
        {"note_id": "n001", "title": "again", "updated_at": 3_000_000},
        {"note_id": "n002", "title": "note 2", "updated_at": 2_000_000},
        {"note_id": "n002", "deleted": True, "updated_at": 3_000_000},
    ]
    storage.write_table(pa.Table.from_pylist(rows, schema=schema.NOTES), delta / "notes" / "a.parquet")
    found, encoded = run(delta, out, mode="delta")
    assert (found.deleted, encoded) == (1, ["n001"])
    assert "n002" not in held(out)


@pytest.mark.parametrize("mode", ["snapshot", "delta"])
def test_too_many_withdrawals_are_refused_before_the_first(tmp_path: Path, mode: str) -> None:
    notes = many(10)
    data, out = write(tmp_path / "d", notes), tmp_path / "e"
    run(data, out)
    gone = ("n000", "n001")
    write(
        data, {**{key: text for key, text in notes.items() if key not in gone}, "new": "x", "n002": " "}, deleted=gone
    )
    settings: dict[str, Any] = dict(mode=mode, max_rejected=1)
    said = r"3 of the 10 notes in .*e would be withdrawn, more than 29 % \(max_deleted\): 2 .* and 1 have no text.*max_deleted=0.3"
    with pytest.raises(InputError, match=said) as refused:
        run(data, out, max_deleted=0.29, **settings)
    assert ("source=delta" in str(refused.value)) == (mode == "snapshot")
    assert set(held(out)) == {*notes, "new"}  # what is new was kept
    found, encoded = run(data, out, max_deleted=0.3, **settings)
    assert (found.deleted, encoded, len(held(out))) == (3, [], 8)


def test_an_empty_table_withdraws_nothing(tmp_path: Path) -> None:
    data, out = write(tmp_path / "d", many(5)), tmp_path / "e"
    run(data, out)
    write(data, {})
    before = files(out)
    with pytest.raises(InputError, match="has no notes"):
        run(data, out)
    assert files(out) == before


def test_a_note_that_lost_its_text_is_withdrawn(tmp_path: Path) -> None:
    notes = many(40)
    data, out = write(tmp_path / "d", notes), tmp_path / "e"
    run(data, out)
    write(data, {**notes, "n003": " \n", "blank": None})
    found, _ = run(data, out)
    assert (found.rejects, found.deleted) == (["n003", "blank"], 1)
    assert "n003" not in held(out)
    listed = storage.read_table(out / "rejects.parquet", schema.REJECTS).to_pylist()
    assert [(row["key"], row["reason"]) for row in listed] == [("n003", "no text"), ("blank", "no text")]
    write(data, notes)
    assert run(data, out)[1] == ["n003"]
    assert not (out / "rejects.parquet").exists()


def test_too_many_rejects_withdraw_nothing(tmp_path: Path) -> None:
    notes = many(20)
    data, out = write(tmp_path / "d", notes), tmp_path / "e"
    run(data, out)
    write(data, dict.fromkeys(notes))
    with pytest.raises(InputError, match="20 of 20 notes have no text to encode, more than 5 %"):
        run(data, out)
    assert set(held(out)) == set(notes)


def test_a_delta_keeps_what_is_known_of_notes_that_it_doesnt_name(tmp_path: Path) -> None:
    out = tmp_path / "e"
    run(write(tmp_path / "d", {**many(60), "blank": None, "empty": "", "void": " "}), out)
    run(write(tmp_path / "delta", {"n001": "x", "blank": "text now"}, deleted=("void",)), out, mode="delta")
    assert storage.read_table(out / "rejects.parquet")["key"].to_pylist() == ["empty"]


def test_a_full_run_that_was_killed_is_continued_by_either_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    notes = many(35)
    data, out = write(tmp_path / "d", notes), tmp_path / "e"
    run(data, out)
    names = list(notes)
    with pytest.raises(KilledError):
        run(data, out, full=True, kill=2)
    assert len(held(out)) == 35  # nothing of the epoch before is lost
    begun = storage.ShardFolder(out, origin=ORIGIN).state["full"]
    told: list[str] = []
    monkeypatch.setattr(progress, "say", told.append)
    with pytest.raises(KilledError), caplog.at_level("INFO"):
        run(data, out, full=True, kill=1)
    assert told == [f"continuing the full run begun {begun}"]
    assert told[0] in caplog.text
    assert run(data, out)[1] == names[30:]
    folder = storage.ShardFolder(out, origin=ORIGIN)
    assert folder.state == {"epoch": 1, "complete": True}
    assert [record["epoch"] for record in folder.shards] == [0] * 4 + [1] * 4
    assert run(data, out)[1] == []
    assert run(data, out, full=True)[1] == names
    assert storage.ShardFolder(out, origin=ORIGIN).state == {"epoch": 2, "complete": True}


def test_a_full_run_that_was_killed_in_its_first_shard_is_continued(tmp_path: Path) -> None:
    data, out = write(tmp_path / "d", many(5)), tmp_path / "e"
    run(data, out)
    with pytest.raises(KilledError):
        run(data, out, full=True, kill=0)
    assert len(run(data, out)[1]) == 5


def test_a_full_run_into_a_new_output_is_continued_too(tmp_path: Path) -> None:
    data, out = write(tmp_path / "d", many(25)), tmp_path / "e"
    with pytest.raises(KilledError):
        run(data, out, full=True, kill=1)
    assert len(run(data, out, full=True)[1]) == 15
    assert storage.ShardFolder(out, origin=ORIGIN).state == {"epoch": 0, "complete": True}


def test_a_full_run_after_a_first_one_that_failed_encodes_all(tmp_path: Path) -> None:
    """What that one left isn't a full run's, though no run has been through."""
    notes = many(8)
    data, out = write(tmp_path / "d", {**notes, "blank": None}), tmp_path / "e"
    with pytest.raises(InputError, match="1 of 9 notes have no text"):
        run(data, out)
    assert run(data, out, full=True, max_rejected=0.2)[1] == list(notes)


def test_a_delta_leaves_a_full_run_unfinished_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notes = many(25)
    data, out = write(tmp_path / "d", notes), tmp_path / "e"
    run(data, out)
    with pytest.raises(KilledError):
        run(data, out, full=True, kill=1)
    state = storage.ShardFolder(out, origin=ORIGIN).state
    run(write(tmp_path / "delta", {"n020": "changed"}), out, mode="delta")
    assert storage.ShardFolder(out, origin=ORIGIN).state == state
    assert f"the full run begun {state['full']} is unfinished, which a delta doesn't mend: run once over" in caplog.text
    write(data, {**notes, "n020": "changed"})
    assert run(data, out, full=True)[1] == [key for key in list(notes)[10:] if key != "n020"]
    caplog.clear()
    run(tmp_path / "delta", out, mode="delta")
    assert not caplog.records


def test_a_full_run_over_a_delta_is_refused(tmp_path: Path) -> None:
    data, out = write(tmp_path / "d", many(5)), tmp_path / "e"
    run(data, out)
    before = files(out)
    with pytest.raises(ConfigError, match="a full run needs the whole table; give source=snapshot"):
        run(data, out, mode="delta", full=True)
    assert files(out) == before


def test_deltas_alone_complete_nothing(tmp_path: Path) -> None:
    data, out = write(tmp_path / "d", many(5)), tmp_path / "e"
    run(data, out, mode="delta")
    assert storage.ShardFolder(out, origin=ORIGIN).state == {"epoch": 0, "complete": False}
    assert run(data, out)[1] == []
    assert storage.ShardFolder(out, origin=ORIGIN).state == {"epoch": 0, "complete": True}


def test_once_stopped_nothing_more_is_read_and_the_run_cant_be_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = many(100)
    data, out = write(tmp_path / "d", notes), tmp_path / "e"
    run(data, out)
    write(data, {key: text if key == "n000" else f"{text}, changed" for key, text in notes.items()})
    before = files(out)
    read: list[int] = []
    batches = Dataset.note_batches

    def counted(self: Dataset, *given: Any, **named: Any) -> Any:
        for table in batches(self, *given, **named):
            read.append(table.num_rows)
            yield table

    monkeypatch.setattr(Dataset, "note_batches", counted)
    increment = increment_of(data, storage.ShardFolder(out, origin=ORIGIN))
    shards = increment.shards(10, progress.Bar())
    next(shards)
    taken = len(read)
    increment.stop.set()
    assert list(shards) == []
    assert len(read) <= taken + 1 < 10
    with pytest.raises(RuntimeError, match="ended early"):
        increment.finish()
    assert files(out) == before


def test_a_stop_in_the_last_batch_counts_too(tmp_path: Path) -> None:
    data = write(tmp_path / "d", many(6))
    write(data, {f"b{i}": "text" for i in range(6)}, name="b")
    increment = increment_of(data, storage.ShardFolder(tmp_path / "e", origin=ORIGIN))
    for _ in increment.shards(10, progress.Bar()):
        increment.stop.set()
    with pytest.raises(RuntimeError, match="ended early"):
        increment.finish()


def test_batches_without_anything_due_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = many(300)
    data, out = write(tmp_path / "d", notes), tmp_path / "e"
    run(data, out, rows=100)
    write(data, {**notes, "n000": "changed", "n299": "changed"})
    joined: list[int] = []
    concat = pa.concat_tables

    def counted(tables: list[pa.Table]) -> pa.Table:
        joined.append(len(tables))
        return concat(tables)

    monkeypatch.setattr(incremental.pa, "concat_tables", counted)
    increment = increment_of(data, storage.ShardFolder(out, origin=ORIGIN))
    increment.intake.batch_rows = 1
    assert [table["note_id"].to_pylist() for table in increment.shards(100, progress.Bar())] == [["n000", "n299"]]
    assert joined == [2]


def test_a_run_over_what_is_new_may_be_killed_and_the_epoch_stays_complete(tmp_path: Path) -> None:
    data, out = write(tmp_path / "d", many(5)), tmp_path / "e"
    run(data, out)
    write(data, many(25))
    with pytest.raises(KilledError):
        run(data, out, kill=1)
    assert len(run(data, out, full=True)[1]) == 25


def test_an_output_of_an_earlier_version_counts_as_complete(tmp_path: Path) -> None:
    data, out = write(tmp_path / "d", many(5)), tmp_path / "e"
    run(data, out)
    manifest = storage.read_json(out / "manifest.json")
    shards = [{key: record[key] for key in ("name", "rows", "sha256")} for record in manifest["shards"]]
    storage.write_json(out / "manifest.json", {"origin": manifest["origin"], "shards": shards})
    assert run(data, out)[1] == []
    assert len(run(data, out, full=True)[1]) == 5


def test_what_only_reads_writes_nothing(tmp_path: Path) -> None:
    notes = many(25)
    data, out = write(tmp_path / "d", notes), tmp_path / "e"
    run(data, out)
    write(data, {**dict(list(notes.items())[3:]), "n010": " ", "new": "x"})
    before = files(out)
    for full, due in ((False, 1), (True, 22)):
        increment = increment_of(data, storage.ShardFolder(out, origin=ORIGIN), read_only=True, full=full)
        tables = list(increment.shards(10, progress.Bar()))
        increment.finish()
        assert (sum(table.num_rows for table in tables), increment.deleted, len(increment.rejects)) == (due, 4, 1)
    assert files(out) == before
    increment_of(data, storage.ShardFolder(tmp_path / "new", origin=ORIGIN), read_only=True)
    assert not (tmp_path / "new").exists()


class Untouched:
    """A gallery that nothing may be put into."""

    images = 2

    def clear(self) -> None:
        """Nothing is there."""


@pytest.mark.parametrize("view", ["both", "image"])
def test_what_only_reads_counts_pictures_and_decodes_none(tmp_path: Path, view: str) -> None:
    picture = {"bytes": b"x" * 1000, "path": None}
    rows: list[dict[str, Any]] = [
        {"note_id": "a", "title": "text", "images": [picture] * 3},
        {"note_id": "b", "images": [picture]},
        {"note_id": "none"},
        {"note_id": "c", "title": "more", "images": [picture]},
        {"note_id": "d", "title": "no picture any more", "images": None},
    ]
    storage.write_table(pa.Table.from_pylist(rows, schema=schema.NOTES), tmp_path / "d" / "notes" / "a.parquet")
    out = tmp_path / "e"
    listed = {"table": "images", "key": "c", "reason": "timeout (image 0): slow", "source": "s"}
    intake = Intake(ImageSource.below(None, ImagesConfig()), cast("Any", Untouched()), view=view)
    (table,) = Dataset(tmp_path / "d").note_batches(intake.columns)
    folder = storage.ShardFolder(out, origin=ORIGIN)
    folder.append(shard(table.append_column("content_hash", pa.array(intake.hashes(table))).slice(3)), epoch=0)
    storage.write_table(pa.Table.from_pylist([listed], schema=schema.REJECTS), out / "rejects.parquet")
    before = files(out)
    increment = increment_of(tmp_path / "d", folder, read_only=True, intake=intake, max_rejected=0.4)
    tables = list(increment.shards(2, progress.Bar()))
    increment.finish()
    due = pa.concat_tables(tables)
    assert due.nbytes < 1000
    assert due["note_id"].to_pylist() == ["a", "b"]
    assert intake.glanced(due).tolist() == [2, 1]
    assert due["title"].to_pylist()[0] == ("text" if view == "both" else None)
    assert (increment.unchanged, increment.rejects) == ((2, ["none"]) if view == "both" else (1, ["none", "d"]))
    assert files(out) == before


def test_tombstones_that_a_kill_prevented_are_written_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tombstones, "ROWS", 2)
    notes = many(25)
    data, out = write(tmp_path / "d", notes), tmp_path / "e"
    run(data, out)
    write(data, dict(list(notes.items())[:18]))
    append, calls = storage.ShardFolder.append, []

    def third_is_fatal(self: storage.ShardFolder, table: pa.Table, **facts: Any) -> Any:
        calls.append(table["note_id"].to_pylist())
        if len(calls) == 3:
            raise KilledError
        return append(self, table, **facts)

    with monkeypatch.context() as patched:
        patched.setattr(storage.ShardFolder, "append", third_is_fatal)
        with pytest.raises(KilledError):
            run(data, out)
    assert calls == [["n018", "n019"], ["n020", "n021"], ["n022", "n023"]]
    assert run(data, out)[0].deleted == 3
    assert set(held(out)) == set(list(notes)[:18])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_vectors_of_equal_contents_are_found_in_the_output(tmp_path: Path, dtype: str) -> None:
    data, out = write(tmp_path / "d", many(25)), tmp_path / "e"
    folder = storage.ShardFolder(out, origin={**ORIGIN, "dtype": dtype})
    increment = increment_of(data, folder)
    for table in increment.shards(10, progress.Bar()):
        folder.append(shard(table, dtype), epoch=increment.epoch)
    again = increment_of(data, folder)
    asked = np.concatenate([hash_of(f"note {i}") for i in (24, 3, 99, 17, 3)])
    shards, rows = again.find(asked)
    assert (shards.tolist(), rows.tolist()) == ([2, 0, -1, 1, 0], [4, 3, -1, 7, 3])
    here = shards >= 0
    found = again.vectors_of(shards[here], rows[here])
    assert found.dtype == np.float32
    np.testing.assert_allclose(
        found, [vector_of(f"note {i}") for i in (24, 3, 17, 3)], atol=1e-6 if dtype == "float32" else 1e-3
    )
    assert again.vectors_of(shards[:0], rows[:0]).shape == (0, 4)


def test_contents_of_this_run_are_found_and_those_of_another_epoch_are_not(tmp_path: Path) -> None:
    data, out = write(tmp_path / "d", many(12)), tmp_path / "e"
    increment, _ = run(data, out)
    shards, rows = increment.find(hash_of("note 11"))
    np.testing.assert_allclose(increment.vectors_of(shards, rows), [vector_of("note 11")], atol=1e-6)
    full = increment_of(data, storage.ShardFolder(out, origin=ORIGIN), full=True)
    assert full.find(hash_of("note 11"))[0].tolist() == [-1]
    write(data, {"n000": "note 0"})
    run(data, out)
    assert increment_of(data, storage.ShardFolder(out, origin=ORIGIN)).find(hash_of("note 11"))[0].tolist() == [-1]


def test_one_thread_reads_while_another_tells_what_is_written(tmp_path: Path) -> None:
    data = write(tmp_path / "d", {f"n{i}": f"text {i % 500}" for i in range(4000)})
    folder = storage.ShardFolder(tmp_path / "e", origin=ORIGIN)
    increment = increment_of(data, folder)
    seen: list[pa.Table] = []
    early: list[int] = []
    ready: queue.Queue[pa.Table | None] = queue.Queue()

    def read() -> None:
        for table in increment.shards(20, progress.Bar()):
            shards, _ = increment.find(table["content_hash"].to_numpy())
            early.extend(shards[shards >= len(seen)].tolist())
            seen.append(table)
            ready.put(table)
        ready.put(None)

    reader = threading.Thread(target=read)
    reader.start()
    told = 0
    while (table := ready.get(timeout=60)) is not None:
        record = {"name": f"s{told}", "rows": table.num_rows}
        increment.written(table["note_id"], table["content_hash"].to_numpy(), record)
        told += 1
    reader.join()
    assert (told, early) == (200, [])
    shards, rows = increment.find(np.concatenate([hash_of(f"text {i}") for i in range(500)]))
    assert all(seen[s]["title"][r].as_py() == f"text {i}" for i, (s, r) in enumerate(zip(shards, rows, strict=True)))


def test_damaged_output_is_named_and_repaired_notes_are_due_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notes = many(25)
    data, out = write(tmp_path / "d", notes), tmp_path / "e"
    run(data, out)
    file = storage.parquet_files(out)[1]
    file.unlink()
    with pytest.raises(ArtefactError, match=rf"{file.name}.*noterec embeddings repair"):
        run(data, out)
    with pytest.raises(ArtefactError, match="the next run over a snapshot makes it again"):
        run(data, out)
    repair_embeddings(out)
    run(write(tmp_path / "delta", {"n000": "note 0"}), out, mode="delta")
    assert (
        "1 shards were struck out by `noterec embeddings repair`, which a delta doesn't mend: run once" in caplog.text
    )
    assert len(held(out)) == 15
    assert run(data, out)[1] == list(notes)[10:20]
    assert len(held(out)) == 25
    assert storage.ShardFolder(out, origin=ORIGIN).state == {"epoch": 0, "complete": True}


def test_a_lost_tombstone_is_written_again(tmp_path: Path) -> None:
    notes = many(25)
    data, out = write(tmp_path / "d", notes), tmp_path / "e"
    run(data, out)
    write(data, dict(list(notes.items())[:-1]))
    run(data, out)
    storage.parquet_files(out)[-1].unlink()
    repair_embeddings(out)
    assert "n024" in held(out)
    assert run(data, out)[0].deleted == 1
    assert "n024" not in held(out)


def test_an_input_shard_that_the_manifest_names_is_gone(tmp_path: Path) -> None:
    folder = storage.ShardFolder(tmp_path / "d" / "notes", origin={})
    for part in (0, 1):
        rows = [{"note_id": f"n{part}{i}", "title": f"{part} {i}"} for i in range(20)]
        folder.append(pa.Table.from_pylist(rows, schema=schema.NOTES))
    gone = folder.files()[1]
    data = gone.read_bytes()
    gone.unlink()
    with pytest.raises(InputError, match=rf"{gone.name}: no such file"):
        run(tmp_path / "d", tmp_path / "e")
    gone.write_bytes(data)
    assert len(run(tmp_path / "d", tmp_path / "e")[1]) == 40


def test_an_input_file_vanishes_while_it_is_read(tmp_path: Path) -> None:
    data, out = write(tmp_path / "d", {f"a{i}": f"x {i}" for i in range(20)}), tmp_path / "e"
    write(data, {f"b{i}": f"y {i}" for i in range(20)}, name="b")
    run(write(tmp_path / "before", {"old": "old"}), out)
    folder = storage.ShardFolder(out, origin=ORIGIN)
    increment = increment_of(data, folder)
    with pytest.raises(InputError, match=r"b\.parquet: no such file"):
        for table in increment.shards(10, progress.Bar()):
            folder.append(shard(table), epoch=increment.epoch)
            (data / "notes" / "b.parquet").unlink(missing_ok=True)
    assert set(held(out)) == {"old", *(f"a{i}" for i in range(20))}  # kept, and nothing withdrawn


def test_an_input_file_that_is_replaced_while_it_is_read_withdraws_nothing(tmp_path: Path) -> None:
    data = write(tmp_path / "d", many(30))
    source = Dataset(data)
    assert source.note_count == 30
    write(data, many(20))
    with pytest.raises(InputError, match=r"a\.parquet: it was written to while it was read"):
        list(source.note_batches(["title"]))


def test_ids_of_any_kind(tmp_path: Path) -> None:
    ids = ["", " ", "x" * 200_000, "x" * 200_000 + "y", "手冲", "../../etc", "a\x00b", "a\x00", "a"]
    data, out = write(tmp_path / "d", dict.fromkeys(ids, "text")), tmp_path / "e"
    assert sorted(run(data, out)[1]) == sorted(ids)
    assert run(data, out)[1] == []
    write(data, {note_id: "text" for note_id in ids if note_id != "a\x00"})
    assert run(data, out)[0].deleted == 1
    assert sorted(held(out)) == sorted(set(ids) - {"a\x00"})


STEP = st.tuples(
    st.sampled_from(["snapshot", "delta"]),
    st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from(["one", "two", "three", " "]), max_size=8),
    st.sets(st.sampled_from("abcdefgh"), max_size=3),
    st.booleans(),
    st.none() | st.integers(0, 3),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(STEP, max_size=6))
def test_any_story_ends_in_what_was_last_said_of_each_note(
    tmp_path_factory: pytest.TempPathFactory, story: list[tuple[str, dict[str, str], set[str], bool, int | None]]
) -> None:
    """An oracle that knows nothing of shards: a mapping of notes to texts."""
    base = tmp_path_factory.mktemp("story")
    out = base / "e"
    truth: dict[str, str] = {}
    epoch_of: dict[str, int] = {}
    epoch, under_way = 0, False
    for number, (mode, notes, deleted, full, kill) in enumerate(story):
        said = {note_id: text for note_id, text in notes.items() if note_id not in deleted}
        data = write(base / str(number), dict(said), deleted=tuple(sorted(deleted)))
        if not said and mode == "snapshot":
            continue
        if full and mode == "delta":
            with pytest.raises(ConfigError):
                run(data, out, mode=mode, full=True)
            continue
        texts = {note_id: text for note_id, text in said.items() if text.strip()}
        if full and not under_way:
            epoch, under_way = epoch + 1, True
        due = [key for key, text in texts.items() if truth.get(key) != text or epoch_of[key] != epoch]
        killed = kill is not None and 2 * kill < len(due)
        done = due[: 2 * kill] if killed and kill is not None else due
        try:
            encoded = run(data, out, rows=2, kill=kill, mode=mode, full=full, max_rejected=1)[1]
            assert not killed
            assert encoded == due
        except KilledError:
            assert killed
        truth.update({key: texts[key] for key in done})
        epoch_of.update(dict.fromkeys(done, epoch))
        if not killed:
            under_way &= mode == "delta"
            left = set(truth) - set(texts) if mode == "snapshot" else deleted | (set(said) - set(texts))
            for note_id in left:
                truth.pop(note_id, None)
        if truth:
            found = held(out)
            assert set(found) == set(truth)
            for note_id, text in truth.items():
                np.testing.assert_allclose(found[note_id], vector_of(text), atol=1e-6)
