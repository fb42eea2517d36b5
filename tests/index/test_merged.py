"""Several indexes searched as one: the same answers as from one index of all notes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from noterec import storage
from noterec.config import IndexConfig
from noterec.errors import ArtefactError, InputError
from noterec.index import Index, build_index, neighbours
from noterec.index.changing import add_notes, remove_notes
from noterec.index.merged import MergedIndex
from noterec.index.selection import Finder, Selection, find
from noterec.serving.query import query

from .conftest import embeddings_table, unit, write_dataset, write_shards

N = 50
IDS = [f"n{i:02d}" for i in range(N)]
VECTORS = unit(np.random.default_rng(9).normal(size=(N, 4)))
VECTORS[30:40] = VECTORS[2]  # ties over both shards
PARTS = (np.flatnonzero(np.arange(N) % 3 == 1), np.flatnonzero(np.arange(N) % 3 != 1))


def build(
    folder: Path, name: str, rows: np.ndarray, version: str = "m1", dimension: int = 4, **extra: list[object]
) -> Path:
    write_shards(
        folder / f"{name}-e", embeddings_table([IDS[i] for i in rows], unit(VECTORS[rows, :dimension]), version)
    )
    columns = {
        "note_id": [IDS[i] for i in rows],
        "author_id": [f"a{i % 5}" for i in rows],
        "created_at": [datetime(2026, 11, 1 + i % 25, tzinfo=UTC) for i in rows],
        "title": [f"title {i}" for i in rows],
        **extra,
    }
    write_dataset(folder / f"{name}-d", a=columns)
    build_index(folder / f"{name}-e", notes=folder / f"{name}-d", out=folder / name)
    return folder / name


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path, Path]:
    return build(tmp_path, "all", np.arange(N)), build(tmp_path, "a", PARTS[0]), build(tmp_path, "b", PARTS[1])


def named(index: Index | MergedIndex, rows: np.ndarray) -> list[list[str]]:
    return [[index.ids[int(row)] for row in part if row >= 0] for part in rows]


@pytest.mark.parametrize(
    "selection",
    [
        Selection(),
        Selection(candidates="new"),
        Selection(candidates=["n01", "n02", "n03"]),
        Selection(where={"author_id": ["a1", "a2"]}, exclude=["n11"]),
        Selection(per_author=2, duplicates=0.99),
        Selection(diversity=0.5),
    ],
)
@pytest.mark.parametrize("k", [1, 12, 80])
def test_it_answers_as_one_index(paths: tuple[Path, Path, Path], selection: Selection, k: int) -> None:
    whole, merged = Index.open(paths[0]), MergedIndex.open(paths[1:])
    own = np.array([2, 7, -1, 33])
    there = np.array([-1 if row < 0 else merged.row(IDS[row]) for row in own])
    queries = VECTORS[[2, 7, 8, 33]]
    scores, rows = find(whole, queries, k, selection, exclude=own)
    merged_scores, merged_rows = find(merged, queries, k, selection, exclude=there)
    assert named(merged, merged_rows) == named(whole, rows)
    np.testing.assert_allclose(merged_scores, scores, atol=1e-6)
    assert len(merged) == N
    np.testing.assert_array_equal(merged.vectors([there[0], there[3]]), VECTORS[[2, 33]])


def test_query_and_neighbours_take_it(paths: tuple[Path, Path, Path], tmp_path: Path) -> None:
    merged = MergedIndex.open(paths[1:])
    assert query(merged, note_id="n07", k=5).equals(query(paths[0], note_id="n07", k=5))
    neighbours(paths[0], out=tmp_path / "whole.parquet", k=4)
    neighbours(merged, out=tmp_path / "merged.parquet", k=4)
    tables = [storage.read_table(tmp_path / f"{name}.parquet") for name in ("whole", "merged")]
    rows = [
        sorted(zip(*(table[c].to_pylist() for c in ("query_id", "rank", "note_id")), strict=True)) for table in tables
    ]
    assert rows[0] == rows[1]
    with pytest.raises(InputError, match="the index keeps no words"):
        query(merged, note_id="n07", fuse=True)
    with pytest.raises(InputError, match="none of the 2 indexes has the note"):
        query(merged, note_id="n7")


def test_one_note_in_two_indexes_is_named(paths: tuple[Path, Path, Path], tmp_path: Path) -> None:
    twice = build(tmp_path, "c", np.array([4, 5]))
    with pytest.raises(InputError, match=r"note 'n04' stands in .*/a/.* and in .*/c/.* \(1 notes do\)"):
        MergedIndex.open([paths[1], twice])


def test_indexes_that_do_not_belong_together(paths: tuple[Path, Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"model version m2, and the index .* holds those of m1"):
        MergedIndex.open([build(tmp_path, "c", PARTS[0], "m2"), paths[2]])
    with pytest.raises(ArtefactError, match="D = 3"):
        MergedIndex.open([paths[2], build(tmp_path, "d", PARTS[0], dimension=3)])
    typed = build(tmp_path, "f", PARTS[0], author_id=list(range(len(PARTS[0]))), title=[None] * len(PARTS[0]))
    MergedIndex.open([typed, paths[2]])  # ids of authors become text, and nulls fit
    for name, values, rows in (("g", [1.5] * 17, PARTS[0]), ("h", ["a"] * 33, PARTS[1])):
        write_shards(tmp_path / f"{name}-e", embeddings_table([IDS[i] for i in rows], VECTORS[rows]))
        write_dataset(tmp_path / f"{name}-d", a={"note_id": [IDS[i] for i in rows], "extra": values})
        config = IndexConfig(attributes=["extra"])
        build_index(tmp_path / f"{name}-e", notes=tmp_path / f"{name}-d", out=tmp_path / name, config=config)
    with pytest.raises(ArtefactError, match="an attribute has different types"):
        MergedIndex.open([tmp_path / "g", tmp_path / "h"])
    with pytest.raises(InputError, match="no index was given"):
        MergedIndex.open([])


def test_a_note_may_move_from_one_to_another(paths: tuple[Path, Path, Path]) -> None:
    remove_notes(paths[1], ["n01"])
    add_notes(paths[2], embeddings_table(["n01"], VECTORS[1:2]), model_version="m1")
    merged = MergedIndex.open(paths[1:])
    assert merged.row("n01") >= N
    assert len(merged) == N
    expected = query(paths[0], note_id="n02", k=N)
    assert query(merged, note_id="n02", k=N)["note_id"].to_list() == expected["note_id"].to_list()
    assert merged.version == "+".join(shard.version for shard in merged.shards)


def test_new_notes_are_marked_in_all_or_in_none(paths: tuple[Path, Path, Path], tmp_path: Path) -> None:
    write_shards(tmp_path / "m-e", embeddings_table(["z1", "z2"], VECTORS[:2]))
    build_index(tmp_path / "m-e", out=tmp_path / "m", new=["z1"])
    with pytest.raises(InputError, match=r"doesn't mark its new notes, and another of the indexes does"):
        MergedIndex.open([paths[1], tmp_path / "m"]).new()
    with pytest.raises(InputError, match="doesn't mark its new notes"):
        Finder(MergedIndex.open([paths[1], tmp_path / "m"]), Selection(candidates="new"))
    assert MergedIndex.open([tmp_path / "m"]).new().tolist() == [True, False]
