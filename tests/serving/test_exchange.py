"""A running service follows the index to another model, with its encoder."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from noterec.config import EmbedConfig, ServeConfig
from noterec.embedding.engine import embed
from noterec.errors import ArtefactError
from noterec.index.build import build_index
from noterec.model.encoder import NoteEncoder
from noterec.serving.http.app import create_app
from noterec.serving.loading import ModelSource, open_service
from noterec.training.train import train
from tests.conftest import FEW_STEPS
from tests.serving.conftest import AUTHORISED, TOKEN

NOTE = {"note": {"title": "Cold brew at home", "content": "Eighteen hours in the fridge."}, "k": 3}


@pytest.fixture(scope="module")
def other(platform: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model of the platform."""
    out = tmp_path_factory.mktemp("other") / "model"
    train(
        platform / "split/train", pairs=platform / "pairs.parquet", out=out,
        config=FEW_STEPS.model_copy(update={"seed": 7}),
    )  # fmt: skip
    return out


def turn(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def test_model_and_index_are_exchanged_together(
    index: Path, platform: Path, trained: Path, other: Path, tmp_path: Path
) -> None:
    turn(tmp_path / "model", trained)
    service = open_service(
        index, model=tmp_path / "model", token=TOKEN,
        config=ServeConfig(poll_seconds=0.05, batch_wait_ms=1, device="cpu"),
    )  # fmt: skip
    with TestClient(create_app(service)) as client:
        before = client.post("/v1/similar", json=NOTE).json()
        embed(platform / "data", model=other, out=tmp_path / "e", config=EmbedConfig(device="cpu"))
        turn(tmp_path / "model", other)
        build_index(tmp_path / "e", notes=platform / "data", out=index)
        until = time.monotonic() + 20
        while client.get("/readyz").json()["model_version"] == before["model_version"]:
            assert time.monotonic() < until, client.get("/readyz").json()
            time.sleep(0.05)
        after = client.post("/v1/similar", json=NOTE).json()
        encoder = NoteEncoder.from_pretrained(other, device="cpu")
        assert after["model_version"] == encoder.model_version != before["model_version"]
        vector = client.post("/v1/embed", json={"notes": [NOTE["note"]]}).json()["vectors"][0]
        assert vector == pytest.approx(encoder.encode([NOTE["note"]])[0].tolist(), abs=1e-5)
        added = client.post("/v1/notes", json={"note_id": "fresh", "title": "Cold brew"}, headers=AUTHORISED)
        assert added.status_code == 200 and added.json()["model_version"] == encoder.model_version
        assert client.get("/readyz").json()["problem"] is None


def test_a_model_that_did_not_change_is_not_loaded_again(
    trained: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "model"))
    source = ModelSource(folder, device="cpu")
    version = source.load().model_version
    loads: list[object] = []
    whole = NoteEncoder.from_pretrained
    monkeypatch.setattr(NoteEncoder, "from_pretrained", lambda *a, **k: loads.append(a) or whole(*a, **k))
    with pytest.raises(ArtefactError, match="holds another model"):
        source.load_version("something else")
    assert not loads
    shutil.rmtree(folder)
    shutil.copytree(other, folder)
    with pytest.raises(ArtefactError, match="holds another model"):
        source.load_version("something else")
    with pytest.raises(ArtefactError, match="holds another model"):
        source.load_version("something else")
    assert len(loads) == 1
    shutil.rmtree(folder)
    shutil.copytree(trained, folder)
    assert source.load_version(version).model_version == version
