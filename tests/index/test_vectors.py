"""An embeddings table is read whole and checked, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noterec import schema, storage
from noterec.errors import ArtefactError, InputError
from noterec.index import load_embeddings, table
from noterec.index.vectors import write_vectors

from .conftest import embeddings_table, unit, write_shards

A, B, C = unit([[1, 0], [0, 1], [3, 4]])


def test_rows_are_ordered_by_id_and_the_last_of_a_note_counts(tmp_path: Path) -> None:
    first = embeddings_table(["n9", "n10", "x"], [A, B, A])
    second = embeddings_table(["n9", "b"], [C, B])
    found = load_embeddings(write_shards(tmp_path / "e", first, second))
    assert found.ids.to_list() == ["b", "n10", "n9", "x"]
    np.testing.assert_allclose(found.vectors, [B, B, C, A], atol=1e-6)
    assert (found.dimension, found.model_version, found.superseded, len(found)) == (2, "m1", 1, 4)
    assert found.vectors.dtype == np.float32


def tombstones(ids: list[str], dimension: int = 2, dtype: pa.DataType | None = None) -> pa.Table:
    columns = schema.embeddings_schema(dimension, dtype)
    return pa.table([pa.array(ids), *(pa.nulls(len(ids), field.type) for field in list(columns)[1:])], schema=columns)


@pytest.mark.parametrize("dtype", [pa.float32(), pa.float16()])
def test_withdrawn_notes_are_left_out_until_they_come_again(tmp_path: Path, dtype: pa.DataType) -> None:
    parts = [
        embeddings_table(["a", "b", "c", "d"], [A, B, C, A], dtype=dtype),
        tombstones(["c", "a", "nobody"], dtype=dtype),
        pa.concat_tables(
            [
                tombstones(["d"], dtype=dtype),
                embeddings_table(["e", "a"], [B, C], dtype=dtype),
                tombstones(["e"], dtype=dtype),
            ]
        ),
    ]
    found = load_embeddings(write_shards(tmp_path / "e", *parts))
    assert found.ids.to_list() == ["a", "b"]
    np.testing.assert_allclose(found.vectors, [C, B], atol=1e-3)
    assert (found.superseded, found.model_version) == (9, "m1")


def test_a_table_of_which_every_note_was_withdrawn(tmp_path: Path) -> None:
    write_shards(tmp_path / "e", embeddings_table(["a", "b"], [A, B]), tombstones(["a", "b"]))
    with pytest.raises(InputError, match="every note was withdrawn"):
        load_embeddings(tmp_path / "e")


@pytest.mark.parametrize("step", ["_head", "_batches"])
def test_a_table_that_is_compacted_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = write_shards(tmp_path / "e", embeddings_table(["a", "b"], [A, A]), embeddings_table(["b"], [B]))
    folder = storage.ShardFolder(path, origin={"stage": "embed"})
    read = getattr(table, step)
    files: list[str] = []

    def beaten(file: storage.Place) -> Any:
        found = read(file)
        if step == "_batches":
            found = list(found)
        if not files:
            whole = embeddings_table(["a", "b"], [A, B])
            folder.replace([storage.write_shard(path, whole, origin=folder.origin)])
        files.append(file.name)
        return found

    monkeypatch.setattr(table, step, beaten)
    found = load_embeddings(path)
    assert (found.ids.to_list(), found.superseded) == (["a", "b"], 0)
    np.testing.assert_allclose(found.vectors, [A, B], atol=1e-6)
    assert files == ["shard-000000.parquet", folder.shards[0]["name"]]


def test_a_table_with_a_missing_shard(tmp_path: Path) -> None:
    path = write_shards(tmp_path / "e", embeddings_table(["a"], [A]), embeddings_table(["b"], [B]))
    (path / "shard-000001.parquet").unlink()
    with pytest.raises(
        ArtefactError, match=r"missing \(.*shard-000001.*`noterec embeddings repair .*` strikes them out"
    ):
        load_embeddings(path)


def test_a_withdrawn_bad_vector_does_no_harm_and_a_null_one_with_a_hash_is_no_tombstone(tmp_path: Path) -> None:
    write_shards(tmp_path / "e", embeddings_table(["a", "b"], [[np.nan, 0], B]), tombstones(["a"]))
    assert load_embeddings(tmp_path / "e").ids.to_list() == ["b"]
    one = embeddings_table(["a", "b"], [A, B])
    null = pa.concat_tables(
        [
            one.slice(0, 1),
            tombstones(["b"])
            .set_column(2, "content_hash", pa.array([7], pa.uint64()))
            .set_column(3, "model_version", pa.array(["m1"])),
        ]
    )
    with pytest.raises(InputError, match=r"1 notes have no embedding .*'b'"):
        load_embeddings(write_shards(tmp_path / "n", null))


def test_rejects_beside_a_table_take_nothing_away(tmp_path: Path) -> None:
    write_shards(tmp_path / "e", embeddings_table(["a", "b"], [A, B]))
    rows = [{"table": "notes", "source": "s", "row": None, "key": "a", "reason": "no text"}]
    storage.write_table(pa.Table.from_pylist(rows, schema=schema.REJECTS), tmp_path / "e" / "rejects.parquet")
    assert load_embeddings(tmp_path / "e").ids.to_list() == ["a", "b"]


def test_a_single_file_and_half_precision_give_cosines(tmp_path: Path) -> None:
    vectors = unit(np.random.default_rng(0).normal(size=(50, 33)))
    storage.write_table(embeddings_table([f"n{i:02d}" for i in range(50)], vectors, dtype=pa.float16()), tmp_path / "e")
    found = load_embeddings(tmp_path / "e")
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(found.vectors, vectors, atol=1e-3)


def test_lists_without_a_fixed_size_are_read_when_they_agree(tmp_path: Path) -> None:
    columns = {"note_id": ["a", "b"], "embedding": [[1.0, 0.0], [0.0, 1.0]], "model_version": ["m", "m"]}
    pq.write_table(pa.table(columns), tmp_path / "e.parquet")
    assert load_embeddings(tmp_path / "e.parquet").vectors.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        ([np.nan, 1], r"1 of 3 vectors hold NaN or infinity: 'bad'"),
        ([np.inf, 0], r"1 of 3 vectors hold NaN or infinity: 'bad'"),
        ([0, 0], r"1 of 3 vectors are not unit-norm .*norm 0\).*'bad'"),
        ([0.9, 0], r"not unit-norm .*norm 0.9\).*'bad'.*1 ± 0.01"),
    ],
)
def test_a_bad_vector_is_named(tmp_path: Path, vector: list[float], message: str) -> None:
    write_shards(tmp_path / "e", embeddings_table(["a", "bad", "c"], [A, vector, B]))
    with pytest.raises(InputError, match=message):
        load_embeddings(tmp_path / "e")


def test_a_bad_vector_that_was_replaced_does_no_harm(tmp_path: Path) -> None:
    write_shards(tmp_path / "e", embeddings_table(["a"], [[np.nan, 0]]), embeddings_table(["a"], [B]))
    assert load_embeddings(tmp_path / "e").vectors.tolist() == [[0, 1]]


def test_two_model_versions_are_refused(tmp_path: Path) -> None:
    write_shards(tmp_path / "e", embeddings_table(["a", "b"], [A, B], ["m1", "m2"]))
    with pytest.raises(ArtefactError, match=r"2 model versions .m1, m2."):
        load_embeddings(tmp_path / "e")


def test_two_lengths_are_refused(tmp_path: Path) -> None:
    write_shards(tmp_path / "e", embeddings_table(["a"], [A]), embeddings_table(["b"], unit([[1, 1, 1]])))
    with pytest.raises(InputError, match="several lengths"):
        load_embeddings(tmp_path / "e")


def test_odd_lists_nulls_and_other_types_are_named(tmp_path: Path) -> None:
    def refused(embedding: pa.Array, message: str) -> None:
        table = pa.table({"note_id": ["a", "b"], "embedding": embedding, "model_version": ["m", "m"]})
        pq.write_table(table, tmp_path / "e.parquet")
        with pytest.raises(InputError, match=message):
            load_embeddings(tmp_path / "e.parquet")

    refused(pa.array([[1.0, 0.0], [1.0]]), r"several lengths \(1, 2\), first at 'b'")
    refused(pa.array([[1.0, 0.0], None]), r"1 notes have no embedding .*'b'")
    refused(pa.array([[1.0, 0.0], [None, 1.0]]), "1 elements of the vectors are null")
    refused(pa.array(["x", "y"]), "embedding is string")
    refused(pa.array([[], []], pa.list_(pa.float32())), "length 0")


def test_nothing_there_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_embeddings(tmp_path / "none")
    write_shards(tmp_path / "empty", embeddings_table([], np.zeros((0, 2))))
    with pytest.raises(InputError, match="is empty"):
        load_embeddings(tmp_path / "empty")
    storage.ShardFolder(tmp_path / "no-shards", origin={}).commit()
    with pytest.raises(InputError, match="no Parquet files"):
        load_embeddings(tmp_path / "no-shards")
    pq.write_table(pa.table({"note_id": ["a"]}), tmp_path / "notes.parquet")
    with pytest.raises(InputError, match="no column 'embedding'"):
        load_embeddings(tmp_path / "notes.parquet")
    pq.write_table(
        pa.table({"note_id": ["a"], "embedding": [[1.0]], "model_version": pa.array([None], pa.string())}),
        tmp_path / "unversioned.parquet",
    )
    with pytest.raises(InputError, match="no model_version"):
        load_embeddings(tmp_path / "unversioned.parquet")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_file_of_vectors_holds_what_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Literal["float32", "float16"]
) -> None:
    monkeypatch.setattr(table, "BATCH_ROWS", 3)  # no batch holds a whole shard, as with a table larger than memory
    random = np.random.default_rng(0)
    ids = [f"n{number}" for number in random.permutation(40)]
    vectors = unit(random.normal(size=(40, 5)))
    write_shards(
        tmp_path / "e",
        *(embeddings_table(ids[low : low + 8], vectors[low : low + 8]) for low in range(0, 40, 8)),
        embeddings_table(ids[:3], -vectors[:3]),
        tombstones(ids[3:5], dimension=5),
    )
    loaded = load_embeddings(tmp_path / "e")
    read: list[int] = []
    found = write_vectors(tmp_path / "e", tmp_path / "v.npy", dtype=dtype, advance=read.append)
    assert found.ids.to_list() == loaded.ids.to_list() == sorted(ids[:3] + ids[5:])
    np.testing.assert_allclose(found.vectors, loaded.vectors, atol=1e-7 if dtype == "float32" else 1e-3)
    assert isinstance(found.vectors, np.memmap)
    assert np.load(tmp_path / "v.npy").dtype == dtype
    assert (found.superseded, found.total, sum(read), max(read)) == (45 - 38, 38, 45, 3)

    keep, drop = pl.Series([*ids[5:20], "elsewhere"]), pl.Series([ids[6], ids[30]])
    some = write_vectors(tmp_path / "e", tmp_path / "s.npy", keep=keep, drop=drop)
    assert some.ids.to_list() == sorted(set(ids[5:20]) - {ids[6]})
    assert (some.total, some.dropped) == (38, 1)
    for note_id, vector in zip(some.ids, some.vectors, strict=True):
        np.testing.assert_allclose(vector, vectors[ids.index(note_id)], atol=1e-6)
    with pytest.raises(InputError, match="each of its 38 notes was removed from the index"):
        write_vectors(tmp_path / "e", tmp_path / "n.npy", drop=pl.Series(ids))
