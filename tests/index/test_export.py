"""An index in Milvus: the same notes, vectors and attributes, and the same answers, or no collection at all."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from noterec import storage
from noterec.config import IndexConfig
from noterec.errors import GateError, InputError
from noterec.index import Index, build_index
from noterec.index.changing import add_notes, remove_notes
from noterec.index.export import _batches, export
from noterec.index.milvus import attribute_fields, named

from .conftest import embeddings_table, unit, write_shards

pymilvus = pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")
pytestmark = pytest.mark.milvus

HOSTILE = ["'; drop", '"q"', "🦊", "x" * 10_000, "\\n", "a\nb", " "]
N = 60
IDS = [*HOSTILE, *(f"n{i:02d}" for i in range(N - len(HOSTILE)))]
VECTORS = unit(np.random.default_rng(4).normal(size=(N, 8)))
TIMES = [None if i % 7 == 0 else datetime(2026, 1, 1, 0, 0, i, i, tzinfo=UTC) for i in range(N)]
COLUMNS: dict[str, Any] = {
    "title": pa.array([None if i % 5 == 0 else f'title "{i}" 猫' for i in range(N)]),
    "exposure": pa.array([None if i % 3 == 0 else i * 10**15 for i in range(N)], pa.int64()),
    "created_at": pa.array(TIMES, pa.timestamp("us", tz="UTC")),
    "hashtags": pa.array([[], ["a", "b'"], None][i % 3] for i in range(N)),
    "ad": pa.array([[True, False, None][i % 3] for i in range(N)]),
    "price": pa.array([[0.1, None, float("nan")][i % 3] for i in range(N)]),
    "weight": pa.array([0.1] * N, pa.float32()),
    "day": pa.array([date(2026, 1, 1 + i % 28) for i in range(N)]),
}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    write_shards(folder / "e", embeddings_table(IDS, VECTORS))
    storage.write_table(pa.table({"note_id": IDS, **COLUMNS}), folder / "d/notes/a.parquet")
    config = IndexConfig(attributes=list(COLUMNS))
    build_index(folder / "e", notes=folder / "d", out=folder / "i", config=config)
    return folder / "i"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One file of Milvus Lite for the module: opening one takes a second."""
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    uri = str(tmp_path_factory.mktemp("milvus") / "notes.db")
    client = pymilvus.MilvusClient(uri)
    yield uri
    client.close()


def rows_of(uri: str, collection: str) -> dict[str, dict[str, Any]]:
    client = pymilvus.MilvusClient(uri)
    client.load_collection(collection)
    found = client.query(collection, filter="", output_fields=["*"], limit=1000)
    client.close()
    return {row["note_id"]: row for row in found}


def test_everything_arrives_in_its_type(index: Path, database: str) -> None:
    summary = export(index, uri=database, collection="typed")
    assert summary.fields == {
        "title": "VARCHAR",
        "exposure": "INT64",
        "created_at": "INT64 (microseconds)",
        "hashtags": "ARRAY<VARCHAR>",
        "ad": "BOOL",
        "price": "DOUBLE",
        "weight": "FLOAT",
        "day": "INT64 (microseconds)",
    }
    assert (summary.notes, summary.queries, summary.agreement, summary.collection) == (N, N, 1.0, "typed")
    found = rows_of(database, "typed")
    assert set(found) == set(IDS)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    for i, note_id in enumerate(IDS):
        row = found[note_id]
        np.testing.assert_allclose(row["embedding"], VECTORS[i], atol=1e-7)
        assert row["title"] == COLUMNS["title"][i].as_py()
        assert row["exposure"] == COLUMNS["exposure"][i].as_py()
        moment = TIMES[i]
        assert row["created_at"] == (None if moment is None else round((moment - epoch).total_seconds() * 1e6))
        assert (None if row["hashtags"] is None else list(row["hashtags"])) == COLUMNS["hashtags"][i].as_py()
        assert row["ad"] == COLUMNS["ad"][i].as_py()
        assert row["price"] == pytest.approx(COLUMNS["price"][i].as_py(), nan_ok=True)
        assert row["day"] == (date(2026, 1, 1 + i % 28) - date(1970, 1, 1)).days * 86_400_000_000


def test_it_answers_and_filters_as_the_index(index: Path, database: str) -> None:
    export(index, uri=database, collection="asked")
    opened = Index.open(index)
    client = pymilvus.MilvusClient(database)
    client.load_collection("asked")
    hits = client.search("asked", data=list(VECTORS[:10]), limit=5, filter="exposure > 20000000000000000")
    client.close()
    expected = opened.search(VECTORS[:10], 5, where={"exposure": {"above": 2 * 10**16}})
    assert [hit["note_id"] for part in hits for hit in part] == expected["note_id"].to_pylist()
    scores = [hit["distance"] for part in hits for hit in part]
    np.testing.assert_allclose(scores, expected["score"].to_numpy(), atol=1e-5)


def test_only_live_notes_and_the_newest_vectors(index: Path, database: str, tmp_path: Path) -> None:
    live = tmp_path / "i"
    shutil.copytree(index, live)
    remove_notes(live, ["n01", "🦊"])
    add_notes(live, embeddings_table(["n02", "late"], VECTORS[[5, 6]]), model_version="m1")
    assert export(live, uri=database, collection="live").notes == N - 1
    found = rows_of(database, "live")
    assert set(found) == {*IDS, "late"} - {"n01", "🦊"}
    np.testing.assert_allclose(found["n02"]["embedding"], VECTORS[5], atol=1e-7)


def test_a_collection_is_replaced_only_when_told_to(index: Path, database: str, tmp_path: Path) -> None:
    export(index, uri=database, collection="twice")
    with pytest.raises(InputError, match="there is a collection 'twice' already; give another name, or --overwrite"):
        export(index, uri=database, collection="twice")
    write_shards(tmp_path / "e", embeddings_table(["only"], VECTORS[:1]))
    build_index(tmp_path / "e", out=tmp_path / "i")
    assert export(tmp_path / "i", uri=database, collection="twice", overwrite=True).notes == 1
    assert set(rows_of(database, "twice")) == {"only"}


@pytest.mark.parametrize("spoil", ["vector", "title", "missing", "killed"])
def test_a_collection_that_differs_is_not_put_in_place(
    index: Path, database: str, spoil: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"spoilt_{spoil}"
    export(index, uri=database, collection=name)
    insert = pymilvus.MilvusClient.insert

    def spoilt(self: Any, collection: str, data: list[dict[str, Any]], **options: Any) -> Any:
        if spoil == "killed":
            raise KeyboardInterrupt
        if spoil == "missing":
            data = data[1:]
        elif spoil == "vector":
            data = [row | {"embedding": row["embedding"][::-1].copy()} for row in data]
        else:
            data = [row | {"title": "another"} for row in data]
        return insert(self, collection, data, **options)

    monkeypatch.setattr(pymilvus.MilvusClient, "insert", spoilt)
    expected = {
        "vector": (GateError, "the vectors differ"),
        "title": (GateError, "has title = another in the collection"),
        "missing": (GateError, "has 59 rows after 60 were written"),
        "killed": (KeyboardInterrupt, None),
    }
    kind, message = expected[spoil]
    with pytest.raises(kind, match=message):
        export(index, uri=database, collection=name, overwrite=True)
    client = pymilvus.MilvusClient(database)
    assert [found for found in client.list_collections() if found.startswith(name)] == [name]
    client.close()
    assert len(rows_of(database, name)) == N  # the old one


def test_the_old_collection_stands_until_the_new_one_does(
    index: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(index, uri=database, collection="swap")
    rename = pymilvus.MilvusClient.rename_collection

    def fails(self: Any, old: str, new: str) -> Any:
        if new == "swap" and not old.endswith("_old"):
            raise pymilvus.MilvusException(1, "no")
        return rename(self, old, new)

    monkeypatch.setattr(pymilvus.MilvusClient, "rename_collection", fails)
    with pytest.raises(InputError, match="no \\(from Milvus\\)"):
        export(index, uri=database, collection="swap", overwrite=True)
    client = pymilvus.MilvusClient(database)
    assert [name for name in client.list_collections() if name.startswith("swap")] == ["swap"]
    client.close()
    assert len(rows_of(database, "swap")) == N


def test_what_finds_other_notes_is_not_put_in_place(
    index: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = pymilvus.MilvusClient.search

    def worst(self: Any, *args: Any, limit: int, **options: Any) -> Any:
        return [part[-limit:] for part in search(self, *args, limit=N, **options)]

    monkeypatch.setattr(pymilvus.MilvusClient, "search", worst)
    with pytest.raises(GateError, match=r"finds .*% of what the index finds .* expected 99\.9%"):
        export(index, uri=database, collection="worst")


def test_what_a_killed_export_left_is_removed(index: Path, database: str) -> None:
    client = pymilvus.MilvusClient(database)
    client.create_collection("left_building_0a", dimension=4)
    export(index, uri=database, collection="left")
    assert [name for name in client.list_collections() if name.startswith("left")] == ["left"]
    client.close()


def test_what_milvus_can_not_hold_is_named() -> None:
    ids = pl.Series("note_id", ["a", "b"])
    for column, message in [
        (pl.Series("my column", [1, 2]), "attribute 'my column' can't be a field"),
        (pl.Series("embedding", [1, 2]), "attribute 'embedding' can't be a field"),
        (pl.Series("title", ["a", "é" * 40_000]), "title of note 'b' takes 80000 bytes; Milvus holds 65535"),
        (pl.Series("tags", [["é" * 40_000], []]), "tags of note 'a' takes 80000 bytes"),
        (pl.Series("tags", [["a", None], []]), "attribute tags: a list holds null"),
        (pl.Series("tags", [["a"] * 5000, []]), "a list of 5000 elements; Milvus holds 4096"),
        (pl.Series("what", [{"x": 1}, {"x": 2}]), "attribute what is Struct"),
        (pl.Series("large", [2**63, 1], dtype=pl.UInt64), "9223372036854775808 is more than an INT64"),
    ]:
        with pytest.raises(InputError, match=message):
            attribute_fields(pl.DataFrame([ids, column]))
    with pytest.raises(InputError, match=r"note_id of note 'é{80}' takes 80000 bytes"):
        attribute_fields(pl.DataFrame({"note_id": ["é" * 40_000]}))


def test_batches_are_small_however_long_the_texts() -> None:
    attributes = pl.DataFrame({"note_id": [str(i) for i in range(5000)], "title": ["é" * 20_000] * 300 + [None] * 4700})
    parts = list(_batches(attributes, 64))
    assert [parts[0].start, *(part.stop for part in parts)] == [*(part.start for part in parts), 5000]
    for part in parts:
        assert part.stop - part.start <= 2000
        assert attributes[part]["title"].str.len_bytes().fill_null(0).sum() <= 8 << 20
    assert len(parts) == 4
    assert list(_batches(attributes[:0], 64)) == []


def test_bad_arguments(index: Path, tmp_path: Path) -> None:
    for options, message in [
        ({"uri": "notes.txt"}, "expected a server such as http://localhost:19530, or a file ending in .db"),
        ({"uri": "notes.db", "to": "oracle"}, "to='oracle'; expected 'milvus'"),
        ({"uri": "notes.db", "collection": "my notes"}, "collection 'my notes': Milvus wants a letter"),
        ({"uri": "notes.db", "index_type": "BEST"}, "index_type='BEST'; expected one of FLAT, HNSW"),
    ]:
        with pytest.raises(InputError, match=message):
            export(index, **options)  # type: ignore[arg-type]
    assert named("http://root:secret@host:19530/db") == "http://host:19530/db"


def test_a_server_that_is_not_there(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noterec.index.milvus.SECONDS", 0.5)
    with pytest.raises(InputError, match=r"http://127\.0\.0\.1:9: .*check the address") as refused:
        export(index, uri="http://root:secret@127.0.0.1:9")
    assert "secret" not in str(refused.value)


def test_importing_the_client_leaves_logging_as_it_is() -> None:
    """It would close the handlers that are there, and absl's closes standard error with it."""
    code = (
        "import io, logging, sys\n"
        "handler = logging.StreamHandler(io.StringIO()); handler.close = lambda: print('closed')\n"
        "logging.getLogger().addHandler(handler)\n"
        "from noterec.index import milvus\n"
        "with milvus._logging_kept(): import pymilvus\n"
        "print(logging.config.dictConfig.__name__, len(logging.getLogger().handlers))\n"
        "handler.close = lambda: None\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["dictConfig", "1"]
