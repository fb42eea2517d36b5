"""`modalities`: four tables by one encoder, and a record that stands only beside tables that are whole."""

from __future__ import annotations

import itertools
import types
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from noterec import schema, storage
from noterec.config import EmbedConfig, VisionConfig
from noterec.embedding import engine
from noterec.embedding.modalities import RECORD_FILE, VIEWS, ModalitiesSummary, load_views, modalities
from noterec.errors import ArtefactError, ConfigError, InputError
from noterec.index.vectors import load_embeddings
from noterec.model.encoder import NoteEncoder
from noterec.notes.dataset import Dataset
from noterec.training.train import train
from tests.conftest import FEW_STEPS


class Recorder:
    """Stands in for `embed` and for loading an encoder, and keeps what they were called with."""

    def __init__(self) -> None:
        self.encoder = types.SimpleNamespace(sight=object(), model_version="m1", dimension=8)
        self.calls: list[dict[str, Any]] = []
        self.loads: list[dict[str, Any]] = []
        self.fails_at = self.empty = ""

    def load(self, name: str, **given: Any) -> Any:
        self.loads.append({"name": name, **given})
        return self.encoder

    def embed(self, dataset: Any, **given: Any) -> Any:
        view = given["config"].view
        if view == self.fails_at:
            raise InputError("killed")
        self.calls.append({"dataset": dataset, **given})
        version = self.encoder.model_version + ("" if view == "both" else f"-{view}")
        counts = {"encoded": len(self.calls), "unchanged": 2, "rejected": 1}
        if view == self.empty:
            counts = {"encoded": 0, "unchanged": 0, "rejected": 9}
        return types.SimpleNamespace(model_version=version, notes=9, **counts)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    found = Recorder()
    monkeypatch.setattr(engine, "embed", found.embed)
    monkeypatch.setattr(NoteEncoder, "from_pretrained", found.load)
    return found


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    storage.write_table(pa.table({"note_id": ["a"], "title": ["t"]}), tmp_path / "d" / "notes" / "0.parquet")
    return tmp_path / "d"


def run(dataset: Path, **given: Any) -> ModalitiesSummary:
    return modalities(dataset, **{"model": "m", "out": dataset.parent / "out", **given})


def test_every_view_by_one_encoder(recorder: Recorder, dataset: Path) -> None:
    config = EmbedConfig(dimension=8, device="cpu", shard_rows=7)
    summary = run(dataset, config=config, image_root="pictures", cache="states")
    assert recorder.loads == [{"name": "m", "device": "cpu", "dimension": 8}]
    assert [call["out"].name for call in recorder.calls] == list(VIEWS)
    for call, view in zip(recorder.calls, VIEWS, strict=True):
        assert call["config"] == EmbedConfig(dimension=8, device="cpu", shard_rows=7, view=view)
        assert (call["image_root"], call["cache"], call["dataset"]) == ("pictures", "states", dataset)
        assert call["model"] is recorder.encoder
    assert (summary.model_version, summary.dimension, summary.notes) == ("m1", 8, 9)
    assert summary.views["image"] == {"encoded": 3, "unchanged": 2, "rejected": 1}
    views = load_views(dataset.parent / "out")
    assert (views.dataset, views.model_version) == (str(dataset), "m1")
    assert views.versions == {"both": "m1", "text": "m1-text", "image": "m1-image", "shuffled": "m1-shuffled"}
    assert views.table("shuffled") == dataset.parent / "out" / "shuffled"


def test_a_killed_run_leaves_no_record_and_is_continued(recorder: Recorder, dataset: Path) -> None:
    run(dataset)
    recorder.fails_at = "image"
    with pytest.raises(InputError, match="killed"):
        run(dataset)
    with pytest.raises(InputError, match=r"no modalities.json there; .* wrote to its end: run it again"):
        load_views(dataset.parent / "out")
    recorder.fails_at = ""
    run(dataset)
    assert load_views(dataset.parent / "out").model_version == "m1"


def test_another_models_views_are_left_alone(recorder: Recorder, dataset: Path) -> None:
    run(dataset)
    recorder.encoder.model_version = "m2"
    with pytest.raises(ArtefactError, match="holds the views of model version m1, this model's is m2"):
        run(dataset)
    assert load_views(dataset.parent / "out").model_version == "m1"
    assert len(recorder.calls) == len(VIEWS)


def test_what_can_not_be_compared_is_refused(recorder: Recorder, dataset: Path) -> None:
    with pytest.raises(ConfigError, match="view=text: all of both, text, image, shuffled are written"):
        run(dataset, config=EmbedConfig(view="text"))
    with pytest.raises(InputError, match="no dataset there"):
        run(dataset.parent / "nowhere")
    recorder.empty = "image"
    with pytest.raises(InputError, match="none of the 9 notes has anything to encode in view=image"):
        run(dataset)
    assert not (dataset.parent / "out" / RECORD_FILE).exists()
    recorder.encoder.sight = None
    with pytest.raises(InputError, match="m reads text only, so there is nothing to compare"):
        run(dataset)


def test_a_model_that_sees(platform: Path, tmp_path: Path) -> None:
    """End to end: each view encodes what it says, and an evaluation takes the four tables."""
    table = storage.read_table(platform / "data" / "notes", schema.NOTES)
    counts = Dataset(platform / "data").image_counts()
    seen = [row for row in table.to_pylist() if row["note_id"] in set(counts["note_id"])][:39]
    blind = {**seen[0], "note_id": "blind", "images": None}
    storage.write_table(
        pa.Table.from_pylist([*seen, blind], schema=schema.NOTES), tmp_path / "d" / "notes" / "0.parquet"
    )
    vision = VisionConfig(encoder="tiny", image_px=16)
    config = FEW_STEPS.model_copy(update={"vision": vision, "steps": 0})
    train(platform / "split" / "train", pairs=platform / "pairs.parquet", out=tmp_path / "model", config=config)
    settings = EmbedConfig(device="cpu")
    summary = modalities(tmp_path / "d", model=tmp_path / "model", out=tmp_path / "out", config=settings)
    assert summary.views["image"] == {"encoded": 39, "unchanged": 0, "rejected": 1}
    views = load_views(tmp_path / "out")
    found = {view: load_embeddings(views.table(view)) for view in VIEWS}
    assert {view: table.model_version for view, table in found.items()} == views.versions
    vectors = {view: dict(zip(table.ids, table.vectors, strict=True)) for view, table in found.items()}
    assert vectors["image"].keys() == vectors["both"].keys() - {"blind"}
    for view in ("text", "shuffled"):  # who has no image is the same in every view that shows its text
        np.testing.assert_allclose(vectors[view]["blind"], vectors["both"]["blind"], atol=1e-5)
    first = seen[0]["note_id"]
    np.testing.assert_allclose(vectors["text"][first], vectors["both"]["blind"], atol=1e-5)  # one text
    apart = [vectors[view][first] for view in VIEWS]
    assert max(float(a @ b) for a, b in itertools.combinations(apart, 2)) < 1 - 1e-5
    again = modalities(tmp_path / "d", model=tmp_path / "model", out=tmp_path / "out", config=settings)
    assert {counts["encoded"] for counts in again.views.values()} == {0}


@pytest.mark.parametrize(
    "record", ["[]", "{}", '{"format": "noterec modalities", "format_version": 1, "versions": {}}', '{"format": 1}']
)
def test_a_damaged_record_is_refused(tmp_path: Path, record: str) -> None:
    (tmp_path / RECORD_FILE).write_text(record)
    with pytest.raises(ArtefactError, match="not a record of format version 1"):
        load_views(tmp_path)
