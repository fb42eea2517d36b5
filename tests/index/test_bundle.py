"""A bundle is opened only when every byte is what it was."""

from __future__ import annotations

import builtins
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noterec.config import IndexConfig
from noterec.errors import ArtefactError, DependencyError, InputError
from noterec.index import Index, build_index, bundle, publishing

from .conftest import embeddings_table, unit, write_shards


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Two bundles, the second live: a flat one, and one with lists."""
    vectors = unit(np.random.default_rng(1).normal(size=(20, 8)))
    write_shards(tmp_path / "e", embeddings_table([f"n{i:02d}" for i in range(20)], vectors))
    build_index(tmp_path / "e", out=tmp_path / "i")
    build_index(tmp_path / "e", out=tmp_path / "i", config=IndexConfig(kind="ivf"))
    return tmp_path / "i"


def live(index: Path) -> Path:
    return index / "bundles" / "bundle-000002"


def test_opens_by_index_or_bundle_folder(index: Path) -> None:
    assert Index.open(index).ids.to_list() == Index.open(live(index)).ids.to_list()


@pytest.mark.parametrize("name", ["index.faiss", "notes.parquet", "vectors.npy"])
@pytest.mark.parametrize("place", [0, -9])
def test_a_flipped_byte_is_found_before_anything_reads_the_file(index: Path, name: str, place: int) -> None:
    file = live(index) / name
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtefactError, match=rf"{name}: its bytes changed since it was built"):
        Index.open(index)


def test_missing_and_cut_files_are_named_even_without_hashing(index: Path) -> None:
    file = live(index) / "index.faiss"
    data = file.read_bytes()
    file.write_bytes(data[:-4])
    with pytest.raises(ArtefactError, match=f"{len(data) - 4} bytes, expected {len(data)}"):
        Index.open(index, verify=False)
    file.unlink()
    with pytest.raises(ArtefactError, match=r"index.faiss: missing"):
        Index.open(index, verify=False)


def edit(index: Path, **changes: Any) -> None:
    file = live(index) / "bundle.json"
    record = json.loads(file.read_text())
    record.update(changes)
    file.write_text(json.dumps({key: value for key, value in record.items() if value is not None}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "not a noterec index"),
        ({"format_version": 99}, "format version 99; this noterec reads version 2"),
        ({"model_version": None}, "model_version: missing"),
        ({"files": {}}, "lists no hash of index.faiss, notes.parquet, vectors.npy"),
        ({"count": 19}, r"\(20, 8\) numbers of float32 and 20 notes, expected \(19, 8\)"),
        ({"files": {"../CURRENT": {"sha256": "", "bytes": 1}}}, r"names '../CURRENT' as one of its files"),
        ({"dimension": 4}, r"expected \(20, 4\)"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(index: Path, changes: dict[str, Any], message: str) -> None:
    edit(index, **changes)
    with pytest.raises(ArtefactError, match=message):
        Index.open(index)


def test_a_damaged_manifest_is_refused(index: Path) -> None:
    (live(index) / "bundle.json").write_text("{")
    with pytest.raises(ArtefactError, match="not valid JSON"):
        Index.open(index)


def test_current_is_never_followed_out_of_the_folder(index: Path) -> None:
    shutil.copytree(live(index), index.parent / "elsewhere")
    (index / "CURRENT").write_text("../../elsewhere")
    with pytest.raises(ArtefactError, match="expected a bundle's name"):
        Index.open(index)
    (index / "CURRENT").write_text("bundle-000007\n")
    with pytest.raises(ArtefactError, match=r"names bundle-000007, which is not in .*bundle-000001, bundle-000002"):
        Index.open(index)
    with pytest.raises(InputError, match="no index there"):
        Index.open(index.parent / "nothing")


def test_a_rollback_is_one_step_and_has_a_way_forward(index: Path) -> None:
    before = bundle.stamp(index)
    assert publishing.rollback(index) == ("bundle-000002", "bundle-000001")
    assert (index / "CURRENT").read_text() == "bundle-000001\n"
    assert bundle.stamp(index) != before
    with pytest.raises(InputError, match=r"no bundle is older than the live one, bundle-000001"):
        publishing.rollback(index)
    with pytest.raises(InputError, match=r"no bundle 'bundle-000009'; there are bundle-000001, bundle-000002"):
        publishing.rollback(index, to="bundle-000009")
    assert publishing.rollback(index, to="bundle-000002") == ("bundle-000001", "bundle-000002")
    assert bundle.stamp(index) == before


def test_a_rollback_never_goes_to_a_damaged_bundle(index: Path) -> None:
    (index / "bundles" / "bundle-000001" / "vectors.npy").unlink()
    with pytest.raises(ArtefactError, match="missing"):
        publishing.rollback(index)
    assert bundle.find(index) == live(index)
    with pytest.raises(InputError, match="no index there"):
        publishing.rollback(index.parent / "nothing")


def test_an_index_of_another_model_refuses_vectors(index: Path) -> None:
    opened = Index.open(index)
    opened.require_model("m1")
    with pytest.raises(ArtefactError, match=r"model version m2.*m1.*same model"):
        opened.require_model("m2")


def test_without_faiss_the_three_extras_are_named(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_faiss(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "faiss":
            raise ImportError("No module named 'faiss'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_faiss)
    with pytest.raises(DependencyError, match=r"noterec\[cpu\], noterec\[gpu\], noterec\[gpu-cuvs\]"):
        Index.open(index)
