"""Building an index: what is kept, what is counted, and that a killed build leaves the old index live."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from noterec import storage
from noterec.config import IndexConfig
from noterec.errors import InputError
from noterec.index import Index, build_index, publishing

from .conftest import embeddings_table, unit, write_dataset, write_shards

VECTORS = unit(np.eye(4))


@pytest.fixture
def embeddings(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "e", embeddings_table(["d", "b", "a", "c"], VECTORS))


def test_rows_follow_the_ids_and_carry_attributes(tmp_path: Path, embeddings: Path) -> None:
    dataset = write_dataset(
        tmp_path / "ds",
        one={"note_id": ["c", "b"], "title": ["C", "B"], "price": [3, 2]},
        two={"note_id": ["a", "unseen"], "content": ["x", "y"]},
    )
    config = IndexConfig(attributes=["title", "price", "language"])
    summary = build_index(embeddings, notes=dataset, out=tmp_path / "i", new=["c", "elsewhere"], config=config)
    index = Index.open(tmp_path / "i")
    assert index.attributes.to_dict(as_series=False) == {
        "note_id": ["a", "b", "c"],
        "title": [None, "B", "C"],
        "price": [None, 2, 3],  # a column that only one file has
        "language": [None] * 3,  # a known column that no file has
        "new": [False, False, True],
    }
    for note_id, vector in zip("dbac", VECTORS, strict=True):
        if note_id != "d":
            assert index.vector(note_id).tolist() == vector.tolist()
    assert (summary.notes, summary.left_out, summary.without_vector, summary.new) == (3, 1, 1, 1)
    assert (index.info.left_out, index.info.without_vector, index.info.count) == (1, 1, 3)
    assert index.info.origin["embeddings_origin"] == {"stage": "embed"}
    assert summary.disk_per_note == pytest.approx(sum(f.bytes for f in index.info.files.values()) / 3, abs=0.1)


def test_deleted_notes_are_left_out(tmp_path: Path, embeddings: Path) -> None:
    dataset = write_dataset(tmp_path / "ds", one={"note_id": ["a", "b"], "title": ["", ""], "deleted": [True, False]})
    assert build_index(embeddings, notes=dataset, out=tmp_path / "i").left_out == 3
    assert Index.open(tmp_path / "i").ids.to_list() == ["b"]


def test_without_a_dataset_every_vector_is_kept(tmp_path: Path, embeddings: Path) -> None:
    summary = build_index(embeddings, out=tmp_path / "i")
    assert (summary.notes, summary.new) == (4, None)
    assert Index.open(tmp_path / "i").attributes.columns == ["note_id"]


def test_new_notes_from_a_table(tmp_path: Path, embeddings: Path) -> None:
    storage.write_table(pa.table({"note_id": ["a", "c"], "part": ["valid", "test"]}), tmp_path / "new.parquet")
    build_index(embeddings, out=tmp_path / "i", new=tmp_path / "new.parquet")
    assert Index.open(tmp_path / "i").attributes["new"].to_list() == [True, False, True, False]


def test_old_bundles_go_and_the_live_one_stays(tmp_path: Path, embeddings: Path) -> None:
    names = [build_index(embeddings, out=tmp_path / "i", config=IndexConfig(keep=2)).bundle for _ in range(4)]
    assert names == [f"bundle-{n:06d}" for n in (1, 2, 3, 4)]
    kept = sorted(folder.name for folder in (tmp_path / "i" / "bundles").glob("bundle-*"))
    assert kept == names[2:]
    assert (tmp_path / "i" / "CURRENT").read_text() == "bundle-000004\n"
    (tmp_path / "i" / "CURRENT").write_text("bundle-000003\n")  # going back to an older bundle
    assert Index.open(tmp_path / "i").folder.name == "bundle-000003"
    assert build_index(embeddings, out=tmp_path / "i", config=IndexConfig(keep=1)).dropped == names[2:]


def test_what_does_not_fit_is_named(tmp_path: Path, embeddings: Path) -> None:
    dataset = write_dataset(tmp_path / "ds", one={"note_id": ["q"], "title": ["t"]})
    with pytest.raises(InputError, match=r"none of the 4 notes that have a vector there .the first is 'a'."):
        build_index(embeddings, notes=dataset, out=tmp_path / "i")
    with pytest.raises(InputError, match=r"no column 'categry'.*did you mean 'category'"):
        build_index(embeddings, notes=dataset, out=tmp_path / "i", config=IndexConfig(attributes=["categry"]))
    with pytest.raises(InputError, match=r"none of its 1 notes is in the index .the first is 'z'."):
        build_index(embeddings, out=tmp_path / "i", new=["z"])
    storage.write_table(pa.table({"id": ["a"]}), tmp_path / "new.parquet")
    with pytest.raises(InputError, match="no column 'note_id'"):
        build_index(embeddings, out=tmp_path / "i", new=tmp_path / "new.parquet")
    assert not (tmp_path / "i" / "CURRENT").exists()


KILLED = """
import os, sys
from noterec import storage
from noterec.index import build, build_index, bundle

def die(*args, **kwargs):
    os.kill(os.getpid(), 9)

point, embeddings, out = sys.argv[1:]
if point == "vectors":
    build.write_vectors = lambda path, file, **options: (file.write_bytes(b"half"), die())
elif point == "manifest":
    storage.write_json = die
else:
    storage.atomic_write = die
    storage.write_table = lambda table, path: __import__("pyarrow.parquet").parquet.write_table(table, path)
    storage.write_json = lambda path, value: path.write_text(__import__("json").dumps(value))
build_index(embeddings, out=out)
"""


@pytest.mark.parametrize("point", ["vectors", "manifest", "current"])
def test_a_killed_build_leaves_the_old_index_live(tmp_path: Path, embeddings: Path, point: str) -> None:
    build_index(write_shards(tmp_path / "old", embeddings_table(["old"], VECTORS[:1])), out=tmp_path / "i")
    run = subprocess.run([sys.executable, "-c", KILLED, point, str(embeddings), str(tmp_path / "i")], check=False)
    assert run.returncode == -9
    assert Index.open(tmp_path / "i").ids.to_list() == ["old"]
    summary = build_index(embeddings, out=tmp_path / "i")
    assert Index.open(tmp_path / "i").ids.to_list() == ["a", "b", "c", "d"]
    leftovers = [entry.name for entry in (tmp_path / "i" / "bundles").iterdir() if entry.name.startswith(".building")]
    assert leftovers == []
    assert summary.bundle == ("bundle-000003" if point == "current" else "bundle-000002")


def test_a_second_build_at_the_same_time_is_refused(tmp_path: Path, embeddings: Path) -> None:

    with publishing.building(tmp_path / "i"), pytest.raises(InputError, match="another build"):
        build_index(embeddings, out=tmp_path / "i")


def test_attribute_types_survive(tmp_path: Path, embeddings: Path) -> None:
    created = pa.array([0, 86_400], pa.timestamp("s"))
    dataset = write_dataset(tmp_path / "ds", one={"note_id": ["a", "b"], "title": ["", ""], "created_at": created})
    build_index(embeddings, notes=dataset, out=tmp_path / "i")
    assert Index.open(tmp_path / "i").attributes.schema["created_at"] == pl.Datetime("us", "UTC")
