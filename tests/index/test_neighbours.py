"""The neighbours table: every query, never itself, in both directions, whole or resumed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from noterec import schema, storage
from noterec.errors import ArtefactError, InputError
from noterec.index import Index, build_index, neighbours
from noterec.index.changing import add_notes, remove_notes
from noterec.index.selection import Selection, find
from noterec.ranking.topk import top_k

from .conftest import embeddings_table, unit, write_dataset, write_shards

N = 60
IDS = [f"n{i:02d}" for i in range(N)]
VECTORS = unit(np.random.default_rng(2).normal(size=(N, 6)))
NEW = np.arange(N) % 5 == 0


@pytest.fixture
def index(tmp_path: Path) -> Path:
    write_shards(tmp_path / "e", embeddings_table(IDS, VECTORS))
    build_index(tmp_path / "e", out=tmp_path / "i", new=[IDS[i] for i in np.flatnonzero(NEW)])
    return tmp_path / "i"


def expected(queries: np.ndarray, candidates: np.ndarray, k: int) -> list[tuple[str, str, int]]:
    place = {row: column for column, row in enumerate(candidates)}
    own = np.array([place.get(row, -1) for row in queries])
    _, columns = top_k(VECTORS[queries], VECTORS[candidates], k, exclude=own)
    return [
        (IDS[query], IDS[candidates[column]], rank)
        for query, row in zip(queries, columns, strict=True)
        for rank, column in enumerate(row, start=1)
        if column >= 0
    ]


def read(path: Path) -> list[tuple[str, str, int]]:
    return pl.DataFrame(storage.read_table(path)).select("query_id", "note_id", "rank").rows()


@pytest.mark.parametrize("out", ["n.parquet", "n"])
@pytest.mark.parametrize(("queries", "candidates"), [("all", "all"), ("warm", "new"), ("new", "all"), ("new", "new")])
def test_both_directions_equal_the_reference(
    tmp_path: Path, index: Path, queries: str, candidates: str, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink(monkeypatch)
    groups = {"all": np.arange(N), "warm": np.flatnonzero(~NEW), "new": np.flatnonzero(NEW)}
    summary = neighbours(index, out=tmp_path / out, queries=queries, candidates=candidates, k=11)  # type: ignore[arg-type]
    wanted = expected(groups[queries], groups[candidates], 11)
    assert read(tmp_path / out) == wanted
    counts = pl.Series([query for query, _, _ in wanted]).value_counts()["count"]
    assert (summary.rows, summary.queries) == (len(wanted), len(groups[queries]))
    assert summary.short == (counts < 11).sum()
    assert summary.candidates == len(groups[candidates])
    assert storage.read_table(tmp_path / out).schema.remove_metadata() == schema.NEIGHBOURS
    assert storage.read_origin(tmp_path / out)["model_version"] == "m1"


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["noterec.index.neighbours"]
    monkeypatch.setattr(module, "BATCH_QUERIES", 7)
    monkeypatch.setattr(module, "SHARD_QUERIES", 14)


def test_queries_from_a_table_of_ids(tmp_path: Path, index: Path) -> None:
    storage.write_table(pa.table({"note_id": ["n31", "n02", "n31"]}), tmp_path / "q.parquet")
    neighbours(index, out=tmp_path / "n.parquet", queries=tmp_path / "q.parquet", k=3)
    assert read(tmp_path / "n.parquet") == expected(np.array([2, 31]), np.arange(N), 3)
    storage.write_table(pa.table({"note_id": ["n31", "gone"]}), tmp_path / "q.parquet")
    with pytest.raises(InputError, match="1 of 2 query notes are not in the index, the first is 'gone'"):
        neighbours(index, out=tmp_path / "n.parquet", queries=tmp_path / "q.parquet")


def test_queries_from_an_embeddings_table(tmp_path: Path, index: Path) -> None:
    write_shards(tmp_path / "q", embeddings_table(["n05", "outside"], VECTORS[[5, 8]]))
    neighbours(index, out=tmp_path / "n.parquet", queries=tmp_path / "q", k=2)
    found = read(tmp_path / "n.parquet")
    assert found[:2] == expected(np.array([5]), np.arange(N), 2)  # it is in the index and doesn't find itself
    assert found[2] == ("outside", "n08", 1)
    write_shards(tmp_path / "q2", embeddings_table(["n05"], VECTORS[:1], "m2"))
    with pytest.raises(ArtefactError, match="model version m2"):
        neighbours(index, out=tmp_path / "n.parquet", queries=tmp_path / "q2", k=2)


def test_a_killed_job_goes_on_where_its_last_shard_ends(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink(monkeypatch)
    opened, asked = Index.open(index), []
    search = Index.search_rows

    def counted(self: Index, queries: np.ndarray, *args: object, **kwargs: object) -> object:
        asked.append(len(queries))
        if sum(asked) > 40:
            raise KeyboardInterrupt
        return search(self, queries, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Index, "search_rows", counted)
    with pytest.raises(KeyboardInterrupt):
        neighbours(opened, out=tmp_path / "n", k=4)
    asked.clear()
    summary = neighbours(opened, out=tmp_path / "n", k=4)
    assert sum(asked) == N - 28  # two shards of 14 were whole
    assert read(tmp_path / "n") == expected(np.arange(N), np.arange(N), 4)
    assert summary.rows == 4 * N
    with pytest.raises(ArtefactError, match="another origin"):
        neighbours(opened, out=tmp_path / "n", k=5)


def test_an_interrupted_file_is_never_half_written(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    neighbours(index, out=tmp_path / "n.parquet", k=2)
    before = (tmp_path / "n.parquet").read_bytes()
    shrink(monkeypatch)
    monkeypatch.setattr(Index, "search_rows", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        neighbours(index, out=tmp_path / "n.parquet", k=3)
    assert (tmp_path / "n.parquet").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir() if file.name.endswith(".tmp")] == []


def test_a_selection_is_one_of_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)
    write_shards(tmp_path / "e", embeddings_table(IDS, VECTORS))
    columns = {"note_id": IDS, "author_id": [f"a{i % 4}" for i in range(N)], "language": ["en", "de"] * (N // 2)}
    write_dataset(tmp_path / "d", a=columns)
    build_index(tmp_path / "e", notes=tmp_path / "d", out=tmp_path / "i")
    storage.write_table(pa.table({"note_id": IDS[:10]}), tmp_path / "seen.parquet")
    index = Index.open(tmp_path / "i")
    given = dict(where={"language": "en"}, per_author=2, duplicates=0.9, diversity=0.2)
    for exclude in (tmp_path / "seen.parquet", IDS[:10]):
        for out in ("n", "n.parquet"):
            summary = neighbours(index, out=tmp_path / out, k=6, exclude=exclude, **given)  # type: ignore[arg-type]
            _, rows = find(index, VECTORS, 6, Selection(exclude=IDS[:10], **given), exclude=np.arange(N))  # type: ignore[arg-type]
            assert read(tmp_path / out) == [
                (IDS[query], IDS[row], rank)
                for query, found in enumerate(rows)
                for rank, row in enumerate(found, start=1)
                if row >= 0
            ]
            # Notes of two authors are left (every second note), two of each may stand together.
            assert (summary.candidates, summary.short, summary.rows) == (25, N, 4 * N)
    with pytest.raises(ArtefactError, match="another origin"):
        neighbours(index, out=tmp_path / "n", k=6, exclude=IDS[:9], **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("out", ["n.parquet", "n"])
def test_notes_that_are_gone_neither_ask_nor_are_found(tmp_path: Path, index: Path, out: str) -> None:
    remove_notes(index, ["n04", "n10"])
    add_notes(index, embeddings_table(["n07", "a-new"], VECTORS[[9, 9]]), model_version="m1")
    summary = neighbours(index, out=tmp_path / out, k=N)
    found = read(tmp_path / out)
    there = {*IDS, "a-new"} - {"n04", "n10"}
    assert {query for query, _, _ in found} == {note for _, note, _ in found} == there
    assert (summary.queries, summary.candidates, summary.short) == (N - 1, N - 1, N - 1)
    assert [note for query, note, _ in found if query == "n09"][:2] == ["a-new", "n07"]
    storage.write_table(pa.table({"note_id": ["n04"]}), tmp_path / "q.parquet")
    with pytest.raises(InputError, match="the first is 'n04'"):
        neighbours(index, out=tmp_path / "n3", queries=tmp_path / "q.parquet")


def test_other_vectors_of_the_same_notes_do_not_go_on(tmp_path: Path, index: Path) -> None:
    for name, vectors in (("q", VECTORS[:2]), ("q2", VECTORS[2:4])):
        write_shards(tmp_path / name, embeddings_table(["x", "y"], vectors))
    neighbours(index, out=tmp_path / "n", queries=tmp_path / "q", k=2)
    (tmp_path / "q").rename(tmp_path / "old")
    (tmp_path / "q2").rename(tmp_path / "q")
    with pytest.raises(ArtefactError, match="another origin"):
        neighbours(index, out=tmp_path / "n", queries=tmp_path / "q", k=2)


def test_bad_arguments(tmp_path: Path, index: Path) -> None:
    with pytest.raises(InputError, match="candidates='old'"):
        neighbours(index, out=tmp_path / "n", candidates="old")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="k=0"):
        neighbours(index, out=tmp_path / "n", k=0)
    with pytest.raises(InputError, match="queries='nwe': no such file; expected 'all', 'new', 'warm'"):
        neighbours(index, out=tmp_path / "n", queries="nwe")


def test_no_new_note_gives_an_empty_table(tmp_path: Path) -> None:
    write_shards(tmp_path / "e", embeddings_table(IDS, VECTORS))
    build_index(tmp_path / "e", out=tmp_path / "i", new=[])
    summary = neighbours(tmp_path / "i", out=tmp_path / "n.parquet", queries="warm", candidates="new", k=3)
    assert (summary.rows, summary.short, summary.candidates) == (0, N, 0)
    assert storage.read_table(tmp_path / "n.parquet", schema.NEIGHBOURS).num_rows == 0
