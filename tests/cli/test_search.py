"""query, neighbours and export on the command line: every option reaches the search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from noterec import storage
from noterec.index import Index, build_index
from noterec.index.selection import Selection, find
from tests.index.conftest import embeddings_table, unit, write_dataset, write_shards

from .test_cli import Run, noterec  # noqa: F401

N = 40
IDS = [f"n{i:02d}" for i in range(N)]
VECTORS = unit(np.random.default_rng(3).normal(size=(N, 4)))
VECTORS[10:14] = VECTORS[1]


def build(folder: Path, name: str, rows: range) -> Path:
    write_shards(folder / f"{name}-e", embeddings_table([IDS[i] for i in rows], VECTORS[rows.start : rows.stop]))
    columns = {
        "note_id": [IDS[i] for i in rows],
        "author_id": [f"a{i % 4}" for i in rows],
        "category": [["Travel/Asia", "Food", None][i % 3] for i in rows],
        "exposure": list(rows),
        "title": ["cold brew" if i % 9 == 0 else "a map" for i in rows],
    }
    write_dataset(folder / f"{name}-d", a=columns)
    build_index(folder / f"{name}-e", notes=folder / f"{name}-d", out=folder / name)
    return folder / name


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return build(tmp_path, "index", range(N))


def asked(run: Run, *arguments: Any) -> list[dict[str, Any]]:
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("arguments", "selection"),
    [
        (
            ["--where", "category=Travel/*", "--where", "exposure>=5"],
            {"where": {"category": {"under": "Travel"}, "exposure": {"min": 5}}},
        ),
        (["--exclude", "n10", "--exclude", "n12"], {"exclude": ["n10", "n12"]}),
        (["--per-author", "1"], {"per_author": 1}),
        (["--duplicates", "0.99"], {"duplicates": 0.99}),
        (["--diversity", "0.6"], {"diversity": 0.6}),
    ],
)
def test_query(noterec: Run, index: Path, arguments: list[str], selection: dict[str, Any]) -> None:  # noqa: F811
    opened = Index.open(index)
    _, rows = find(opened, VECTORS[1:2], 6, Selection(**selection), exclude=np.array([1]))
    expected = [opened.ids[int(row)] for row in rows[0] if row >= 0]
    found = asked(noterec, "query", index, "--note-id", "n01", "-k", 6, *arguments)
    assert [row["note_id"] for row in found] == expected
    plain = asked(noterec, "query", index, "--note-id", "n01", "-k", 6)
    assert found != plain


def test_query_by_vector_and_words(noterec: Run, index: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "v.json").write_text(json.dumps(VECTORS[5].tolist()))
    assert asked(noterec, "query", index, "--vector", tmp_path / "v.json", "-k", 1)[0]["note_id"] == "n05"
    fused = asked(noterec, "query", index, "--note-id", "n09", "-k", 12, "--fuse")
    assert fused != asked(noterec, "query", index, "--note-id", "n09", "-k", 12)
    assert {"n00", "n18", "n27", "n36"} & {row["note_id"] for row in fused}
    (tmp_path / "v.json").write_text('{"a": 1}')
    assert noterec("query", index, "--vector", tmp_path / "v.json")[0] == 2
    (tmp_path / "v.json").write_text("[NaN, 1, 1, 1]")
    code, _, err = noterec("query", index, "--vector", tmp_path / "v.json")
    assert code == 2
    assert "hold NaN or infinity" in err


def test_a_filter_that_leaves_nothing_is_an_empty_table(noterec: Run, index: Path) -> None:  # noqa: F811
    assert asked(noterec, "query", index, "--note-id", "n01", "--where", "category=Nowhere") == []
    assert noterec("query", index, "--note-id", "n01", "--where", "category=Nowhere")[0] == 0


def test_shards_are_searched_together(noterec: Run, index: Path, tmp_path: Path) -> None:  # noqa: F811
    first, second = build(tmp_path, "first", range(15)), build(tmp_path, "second", range(15, N))
    whole = asked(noterec, "query", index, "--note-id", "n20", "-k", 9)
    assert asked(noterec, "query", first, "--shard", second, "--note-id", "n20", "-k", 9) == whole
    code, _, err = noterec("query", first, "--shard", index, "--note-id", "n20")
    assert code == 2
    assert "note 'n00' stands in" in err
    noterec("neighbours", index, "--out", tmp_path / "a.parquet", "-k", 3)
    noterec("neighbours", first, "--shard", second, "--out", tmp_path / "b.parquet", "-k", 3)
    assert storage.read_table(tmp_path / "a.parquet").equals(storage.read_table(tmp_path / "b.parquet"))


def test_neighbours(noterec: Run, index: Path, tmp_path: Path) -> None:  # noqa: F811
    storage.write_table(pa.table({"note_id": IDS[:9]}), tmp_path / "seen.parquet")
    options = [
        "--where",
        "exposure<30",
        "--exclude",
        tmp_path / "seen.parquet",
        "--per-author",
        2,
        "--duplicates",
        0.99,
    ]
    summary: Any = asked(noterec, "neighbours", index, "--out", tmp_path / "n", "-k", 5, "--diversity", 0.1, *options)
    assert summary["candidates"] == 21
    table = storage.read_table(tmp_path / "n")
    assert set(table["note_id"].to_pylist()) <= set(IDS[9:30])
    assert summary["rows"] == table.num_rows


@pytest.mark.milvus
def test_export(noterec: Run, index: Path, tmp_path: Path) -> None:  # noqa: F811
    pytest.importorskip("milvus_lite")
    summary: Any = asked(noterec, "export", index, "--uri", tmp_path / "notes.db", "--collection", "mine")
    assert (summary["notes"], summary["agreement"], summary["collection"]) == (N, 1.0, "mine")
    code, _, err = noterec("export", index, "--uri", tmp_path / "notes.db", "--collection", "mine")
    assert code == 2
    assert "there is a collection 'mine' already" in err
    assert noterec("export", index, "--uri", tmp_path / "notes.db", "--collection", "mine", "--overwrite")[0] == 0
    assert noterec("export", index, "--uri", "x.db", "--to", "oracle")[0] == 2
