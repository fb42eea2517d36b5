"""The live index: when it is replaced, when it isn't, and that the older one goes."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from noterec.errors import ArtefactError, InputError
from noterec.index.build import build_index
from noterec.serving import live
from noterec.serving.live import LiveIndex
from noterec.serving.metrics import Metrics
from tests.index.conftest import embeddings_table, unit, write_shards


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_shards(tmp_path / "e", embeddings_table(["a", "b", "c"], unit(np.eye(3))))
    build_index(tmp_path / "e", out=tmp_path / "index")
    return tmp_path / "index"


def opened(path: Path, version: str | None = "m1") -> LiveIndex:
    return LiveIndex(path, model_version=version, metrics=Metrics())


def test_nothing_new_is_nothing_done(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = opened(path)
    monkeypatch.setattr(live.Index, "open", lambda *_: pytest.fail("opened again"))
    assert found.refresh() is False


def test_changes_and_bundles_go_live_and_the_older_index_is_freed(path: Path) -> None:
    found = opened(path)
    first = weakref.ref(found.index)
    notes = pa.table({"note_id": ["d"], "embedding": [[0.0, 0.6, 0.8]]})
    found.add(notes.cast(pa.schema([("note_id", pa.string()), ("embedding", pa.list_(pa.float32()))])))
    assert found.index.row("d") >= 0 and len(found.index) == 4
    assert first() is None  # by its last reference, not by a collector
    found.remove(["a"])
    with pytest.raises(InputError):
        found.index.row("a")
    version = found.index.version
    build_index(path.parent / "e", out=path)
    assert found.refresh() is True and found.index.version != version
    assert 'noterec_index_swaps_total{result="live"} 3.0' in found._metrics.text().decode()


def test_what_cannot_be_used_is_tried_again_ever_more_rarely(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, clock, tries = opened(path), [0.0], []
    good = live.Index.open
    monkeypatch.setattr(live.time, "monotonic", lambda: clock[0])

    def broken(_: object, **options: object) -> live.Index:
        tries.append(clock[0])
        raise ArtefactError(f"{path}: damaged")

    monkeypatch.setattr(live.Index, "open", broken)
    build_index(path.parent / "e", out=path)
    for second in range(200):
        clock[0] = float(second)
        assert found.refresh() is False
    assert tries == [0, 2, 6, 14, 30, 62, 122, 182]
    assert found.problem is not None and "damaged" not in found.problem and str(path) not in found.problem
    assert len(found.index) == 3
    monkeypatch.setattr(live.Index, "open", good)
    clock[0] = 300.0
    assert found.refresh() is True and found.problem is None


def test_an_index_that_vanishes_stays_in_memory(path: Path) -> None:
    found = opened(path)
    shutil.rmtree(path)
    assert found.refresh() is False
    assert found.problem is not None and found.index.row("a") == 0


def test_without_an_encoder_any_model_version_will_do(path: Path) -> None:
    with pytest.raises(ArtefactError, match="model version"):
        opened(path, "m2")
    found = opened(path, None)
    write_shards(path.parent / "other", embeddings_table(["x"], unit([[1.0, 1.0]]), version="m2"))
    build_index(path.parent / "other", out=path)
    assert found.refresh() is True and found.index.model_version == "m2"


def test_an_index_of_another_model_brings_its_encoder_along(path: Path) -> None:
    wanted: list[str] = []
    done: list[str] = []

    def exchange(version: str) -> Callable[[], None]:
        wanted.append(version)
        if len(wanted) == 1:
            raise ArtefactError("the model folder holds another model version")
        return lambda: done.append(version)

    found = LiveIndex(path, model_version="m1", metrics=Metrics(), exchange=exchange)
    write_shards(path.parent / "e2", embeddings_table(["a", "b"], unit(np.eye(2)), version="m2"))
    build_index(path.parent / "e2", out=path)
    assert found.refresh() is False and found.index.model_version == "m1"
    assert found.problem is not None and "another model version" in found.problem
    found._next_try = 0.0
    assert found.refresh() is True and found.index.model_version == "m2"
    assert (wanted, done, found.problem) == (["m2", "m2"], ["m2"], None)
    build_index(path.parent / "e", out=path)  # and back
    assert found.refresh() is True and done == ["m2", "m1"]


def test_an_index_of_another_model_is_refused_at_the_start(path: Path) -> None:
    with pytest.raises(ArtefactError, match="m2"):
        LiveIndex(path, model_version="m2", metrics=Metrics(), exchange=lambda version: lambda: None)
