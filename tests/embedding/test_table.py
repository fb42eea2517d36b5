"""The upkeep of an output: its status adds up, compacting loses nothing, repairing strikes out what is damaged and only that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from noterec import schema, storage
from noterec.embedding import table as module
from noterec.embedding.record import RunRecord
from noterec.embedding.table import compact_embeddings, embeddings_status, repair_embeddings
from noterec.errors import ArtefactError, InputError, LockedError

from .outputs import ORIGIN, KilledError, files, held, many, run, vector_of, write


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """An output of 25 notes in shards of 10, of which 3 then changed, 2 were withdrawn and 1 is new: 31 rows, 24 notes."""
    notes = many(25)
    run(write(tmp_path / "d", notes), tmp_path / "e")
    for i in (0, 7, 12):
        notes[f"n{i:03d}"] = f"changed {i}"
    notes["new"] = "new"
    write(tmp_path / "d", {key: text for key, text in notes.items() if key not in ("n003", "n024")})
    run(tmp_path / "d", tmp_path / "e")
    return tmp_path / "e"


def test_status_adds_up(used: Path) -> None:
    before = files(used)
    found = embeddings_status(used)
    assert (found.rows, found.notes, found.superseded, found.tombstones) == (31, 24, 5, 2)
    assert found.compactable == pytest.approx(7 / 31)
    assert (found.shards, found.bytes) == (5, sum(file.stat().st_size for file in used.glob("*.parquet")))
    assert (found.kind, found.model_version, found.dimension) == ("embeddings", "m1", 4)
    assert (found.dtype, found.precision) == ("float32", "fp32")
    assert (found.epoch, found.complete, found.incomplete, found.damage, found.checked) == (0, True, None, {}, "sizes")
    assert (found.last_run, found.last_outcome) == (None, None)
    assert embeddings_status(used, deep=True).checked == "checksums"
    assert files(used) == before


def test_status_tells_the_last_run_and_a_killed_epoch(used: Path) -> None:
    folder = storage.ShardFolder(used, origin=ORIGIN)
    with pytest.raises(KilledError), RunRecord(folder, command="embed").kept():
        run(used.parent / "d", used, full=True, kill=1)
    found = embeddings_status(used)
    assert (found.epoch, found.complete, found.last_outcome) == (1, False, "KilledError: ")
    assert (
        found.incomplete == f"the full run begun {storage.ShardFolder(used, origin=ORIGIN).state['full']} is unfinished"
    )
    assert found.last_run is not None
    assert found.last_run.startswith("20")


def test_status_names_damage_and_counts_the_rest(used: Path) -> None:
    first, second, third, *_ = storage.parquet_files(used)
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1])
    data = bytearray(third.read_bytes())
    data[len(data) // 4] ^= 1
    third.write_bytes(bytes(data))
    found = embeddings_status(used)
    assert found.damage.items() >= {first.name: "is missing"}.items()
    assert "bytes instead of" in found.damage[second.name]
    assert "other bytes" in embeddings_status(used, deep=True).damage[third.name]
    assert embeddings_status(used, deep=True).rows == 6  # 3 changed, 1 new, 2 tombstones


def test_status_of_a_shard_that_is_what_the_manifest_says_and_cant_be_read(used: Path) -> None:
    folder = storage.ShardFolder(used, origin=ORIGIN)
    file = folder.files()[0]
    file.write_bytes(bytes(100))
    folder.shards[0] |= {"bytes": 100, "sha256": storage.file_hash(file)}
    folder.commit()
    for found in (embeddings_status(used).damage, repair_embeddings(used).struck):
        assert list(found) == [file.name]
        assert "not a readable Parquet file" in found[file.name]


@pytest.mark.parametrize("shard_rows", [5, 7, 10, 1000])
def test_compacting_keeps_the_newest_row_of_every_note(used: Path, shard_rows: int) -> None:
    before, old = held(used), embeddings_status(used)
    summary = compact_embeddings(used, shard_rows=shard_rows)
    assert (summary.notes, summary.rows_freed, summary.shards_before) == (24, 7, 5)
    after = held(used)
    assert list(after) == list(before)
    np.testing.assert_array_equal(np.stack(list(after.values())), np.stack(list(before.values())))
    np.testing.assert_allclose(after["n007"], vector_of("changed 7"), atol=1e-6)
    table = storage.read_table(used)
    assert table.num_rows == 24
    assert table.schema.equals(schema.embeddings_schema(4), check_metadata=False)
    assert table["content_hash"].null_count == 0
    found = embeddings_status(used, deep=True)
    assert (found.rows, found.superseded, found.tombstones, found.compactable, found.damage) == (24, 0, 0, 0, {})
    assert found.bytes == old.bytes - summary.bytes_freed
    folder = storage.ShardFolder(used, origin=ORIGIN)
    assert [record["rows"] for record in folder.shards] == [shard_rows] * (24 // shard_rows) + [24 % shard_rows] * (
        24 % shard_rows > 0
    )
    assert {file.name for file in used.glob("*.parquet")} == {record["name"] for record in folder.shards}
    assert all(storage.read_origin(file) == ORIGIN for file in folder.files())
    assert run(used.parent / "d", used)[1] == []


def test_a_shard_that_is_full_and_counts_stays_and_so_does_a_tidy_table(tmp_path: Path) -> None:
    notes = many(35)
    run(write(tmp_path / "d", notes), tmp_path / "e")
    before = files(tmp_path / "e")
    assert compact_embeddings(tmp_path / "e", shard_rows=10).rows_freed == 0
    assert files(tmp_path / "e") == before
    write(tmp_path / "d", {**notes, "n015": "changed"})
    run(tmp_path / "d", tmp_path / "e")
    whole = [file.name for file in storage.parquet_files(tmp_path / "e")[:3:2]]
    compact_embeddings(tmp_path / "e", shard_rows=10)
    after = [file.name for file in storage.parquet_files(tmp_path / "e")]
    assert set(whole) < set(after)
    assert len(after) == 4
    assert len(held(tmp_path / "e")) == 35


def test_compacting_in_the_middle_of_a_full_run_keeps_epochs_apart(tmp_path: Path) -> None:
    notes = many(25)
    data, out = write(tmp_path / "d", notes), tmp_path / "e"
    run(data, out)
    with pytest.raises(KilledError):
        run(data, out, full=True, kill=1)
    state = storage.ShardFolder(out, origin=ORIGIN).state
    compact_embeddings(out, shard_rows=100)
    folder = storage.ShardFolder(out, origin=ORIGIN)
    assert [(record["epoch"], record["rows"]) for record in folder.shards] == [(0, 15), (1, 10)]
    assert folder.state == state
    assert (state["epoch"], state["complete"]) == (1, False)
    assert run(data, out)[1] == list(notes)[10:]


def test_a_table_without_any_note_left(used: Path) -> None:
    run(write(used.parent / "d", {}, deleted=(*many(25), "new")), used, mode="delta")
    assert compact_embeddings(used).notes == 0
    assert (embeddings_status(used).rows, embeddings_status(used).shards, embeddings_status(used).compactable) == (
        0,
        0,
        0,
    )


def test_a_compaction_that_is_killed_has_changed_nothing(used: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, vectors = files(used), held(used)
    write_shard, calls = storage.write_shard, []

    def third_is_fatal(*given: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KilledError
        return write_shard(*given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(module.storage, "write_shard", third_is_fatal)
        with pytest.raises(KilledError):
            compact_embeddings(used, shard_rows=5)
    assert before.items() <= files(used).items()
    assert list(held(used)) == list(vectors)
    compact_embeddings(used, shard_rows=5)
    assert list(held(used)) == list(vectors)
    assert len(list(used.glob("*.parquet"))) == 5  # what the killed one had written is gone


def test_a_damaged_table_is_not_compacted(used: Path) -> None:
    file = storage.parquet_files(used)[1]
    file.write_bytes(file.read_bytes()[:-3])
    before = files(used)
    with pytest.raises(ArtefactError, match=rf"{file.name}.*noterec embeddings repair"):
        compact_embeddings(used)
    assert files(used) == before


def test_repairing_strikes_out_what_is_damaged_and_only_that(used: Path) -> None:
    vectors = held(used)
    assert repair_embeddings(used).struck == {}
    first, second, *rest = storage.parquet_files(used)
    first.unlink()
    data = bytearray(second.read_bytes())
    data[len(data) // 4] ^= 1  # only the checksum tells
    second.write_bytes(bytes(data))
    found = repair_embeddings(used)
    assert (list(found.struck), found.rows_struck, found.shards, found.rows) == ([first.name, second.name], 20, 3, 11)
    assert storage.parquet_files(used) == rest
    status = embeddings_status(used)
    assert (status.complete, status.incomplete) == (False, "2 shards were struck out by `noterec embeddings repair`")
    due = run(used.parent / "d", used)[1]
    assert due == [f"n{i:03d}" for i in range(20) if i not in (0, 3, 7, 12)]
    assert list(held(used)) == list(vectors)
    assert embeddings_status(used).complete


def test_a_full_run_after_a_repair_makes_every_note_again(used: Path) -> None:
    first, _, _, last, *_ = storage.parquet_files(used)
    first.unlink()
    repair_embeddings(used)
    last.unlink()
    repair_embeddings(used)
    state = storage.ShardFolder(used, origin=ORIGIN).state
    assert state == {"epoch": 0, "complete": False, "struck": 2}
    assert len(run(used.parent / "d", used, full=True)[1]) == 24
    assert storage.ShardFolder(used, origin=ORIGIN).state == {"epoch": 1, "complete": True}


def test_an_older_row_that_comes_back_is_due_again(used: Path) -> None:
    storage.parquet_files(used)[3].unlink()  # the changed ones
    repair_embeddings(used)
    np.testing.assert_allclose(held(used)["n007"], vector_of("note 7"), atol=1e-6)
    assert run(used.parent / "d", used)[1] == ["n000", "n007", "n012", "new"]
    np.testing.assert_allclose(held(used)["n007"], vector_of("changed 7"), atol=1e-6)


@pytest.mark.parametrize("work", [compact_embeddings, repair_embeddings])
def test_a_table_that_a_job_is_writing_is_left_alone(used: Path, work: Any) -> None:
    before = files(used)
    with (
        storage.ShardFolder(used, origin=ORIGIN).claim("noterec embed"),
        pytest.raises(LockedError, match="noterec embed"),
    ):
        work(used)
    assert files(used) == before
    assert embeddings_status(used).notes == 24


@pytest.mark.parametrize("work", [embeddings_status, compact_embeddings, repair_embeddings])
def test_what_is_no_such_table_is_refused(tmp_path: Path, work: Any) -> None:
    with pytest.raises(InputError, match="nothing there"):
        work(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    storage.ShardFolder(tmp_path / "states", origin={"kind": "states"}).append(pa.table({"x": [1]}))
    with pytest.raises(InputError, match="another table of noterec's; expected the folder that `noterec embed`"):
        work(tmp_path / "states")


def test_a_shard_of_no_rows_is_refused(used: Path) -> None:
    with pytest.raises(InputError, match="shard_rows=0: expected at least 1"):
        compact_embeddings(used, shard_rows=0)


def test_generated_tables_are_kept_up_too(tmp_path: Path) -> None:
    origin = {"kind": "generated", "task": "category", "model_version": "w1", "categories": None, "decoding": {}}
    folder = storage.ShardFolder(tmp_path, origin=origin)
    row = {"task": "category", "answers": ["Food"], "samples": 0, "content_hash": 1, "model_version": "w1"}
    for rows in (
        [{"note_id": "a", **row}, {"note_id": "b", **row}],
        [{"note_id": "a"}, {"note_id": "b", **row, "content_hash": 2}],
    ):
        folder.append(pa.Table.from_pylist(rows, schema=schema.GENERATED), epoch=0)
    found = embeddings_status(tmp_path)
    assert (found.kind, found.rows, found.notes, found.tombstones, found.dimension) == ("generated", 4, 1, 1, None)
    assert compact_embeddings(tmp_path).rows_freed == 3
    assert [(r["note_id"], r["content_hash"]) for r in storage.read_table(tmp_path).to_pylist()] == [("b", 2)]
