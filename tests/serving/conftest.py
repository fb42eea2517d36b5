"""An index of a small platform with its encoder, and services over copies of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from noterec.config import EmbedConfig, ServeConfig
from noterec.embedding.engine import embed
from noterec.index.build import build_index
from noterec.model.encoder import NoteEncoder
from noterec.serving.http.app import create_app
from noterec.serving.service import Service

TOKEN = "a-token-for-tests-only"
AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="session")
def encoder(trained: Path) -> NoteEncoder:
    return NoteEncoder.from_pretrained(trained, device="cpu")


@pytest.fixture(scope="session")
def embeddings(platform: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serving") / "embeddings"
    embed(platform / "data", model=trained, out=folder, config=EmbedConfig(device="cpu"))
    return folder


@pytest.fixture(scope="session")
def built(platform: Path, embeddings: Path) -> Path:
    """An index that no test may change."""
    out = embeddings.parent / "index"
    new = platform / "split" / "new-notes.parquet"
    build_index(embeddings, notes=platform / "data", new=new, out=out)
    return out


@pytest.fixture
def index(built: Path, tmp_path: Path) -> Path:
    """An index of the test's own."""
    return Path(shutil.copytree(built, tmp_path / "index"))


@pytest.fixture
def open_service(encoder: NoteEncoder) -> Iterator[Callable[..., Service]]:
    """Make services; all are closed in the end."""
    made: list[Service] = []

    def start(path: Path, *, see: Any = encoder, token: str | None = TOKEN, **settings: Any) -> Service:
        config = ServeConfig(**{"batch_wait_ms": 1, "poll_seconds": 0.05, **settings})
        made.append(Service(path, encoder=see, token=token, config=config))
        return made[-1]

    yield start
    for service in made:
        service.close()


@pytest.fixture
def client(index: Path, open_service: Callable[..., Service]) -> Iterator[TestClient]:
    """A running service over an index of the test's own; bugs are answered with 500, as they are in earnest."""
    with TestClient(create_app(open_service(index)), raise_server_exceptions=False) as started:
        yield started
