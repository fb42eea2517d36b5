"""A small platform with hostile notes, indexed, and the explorer over it."""

from __future__ import annotations

import datetime as dt
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from starlette.testclient import TestClient

from noterec import schema, storage
from noterec.index.build import build_index
from noterec.model.encoder import NoteEncoder
from noterec.serving.explorer.catalogue import Catalogue
from noterec.serving.explorer.related import Related
from noterec.serving.http.app import create_app
from noterec.serving.service import Service

START = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
TOPICS = ["Food/Coffee", "Food/Baking", "Travel/Asia", "Sport/Climbing"]
# What an author may post, by note id. The ids themselves are theirs, too.
HOSTILE: dict[str, dict[str, Any]] = {
    "<img src=x onerror=alert(1)>": {
        "title": "<script>document.title='owned'</script>",
        "content": "</p></main><script>alert(1)</script><style>*{display:none}</style>",
        "hashtags": ["<b>bold</b>", '"><svg/onload=alert(2)>'],
        "category": "<u>Food</u>/'\"&",
    },
    "rtl": {
        "title": "\u202egnihtyna ti si",
        "content": "\u202e\u2066\u200b\u200d\ufeff" * 50,
        "hashtags": ["\u202egat"],
    },
    "long": {"title": "W" * 5000, "content": "x" * 100_000, "hashtags": ["y" * 3000] * 100},
    "zalgo": {"title": "z\u0337\u0338\u0361" * 300, "content": "\x00\x01\x7f \u2028\u2029 {{ 7*7 }} {% raw %} ${7*7}"},
    "a/b?c=d&e#f": {"title": "javascript:alert(1)", "content": "%3Cscript%3E", "hashtags": ["../../etc/passwd", "#"]},
    "empty": {},
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "browser: drives a headless Chromium; skipped where there is none")


def png(seed: int, size: tuple[int, int] = (60, 40)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1] // 10, size[0] // 10, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size).save(buffer, "PNG")
    return buffer.getvalue()


def notes() -> list[dict[str, Any]]:
    """40 harmless notes, n00 to n39, four topics in turn, and the hostile ones."""
    made: list[dict[str, Any]] = []
    for number in range(40):
        topic = TOPICS[number % 4]
        word = topic.rsplit("/", 1)[-1].lower()
        made.append(
            {
                "note_id": f"n{number:02d}",
                "title": f"A {word} day, number {number}",
                "content": f"All about {word}. " * (1 + 30 * (number == 1)),
                "hashtags": [word, "daily"],
                "category": topic,
                "author_id": f"a{number % 7}",
                "language": "en",
                "created_at": START + dt.timedelta(days=number),
                "exposure": 3 * number,
                "images": [{"bytes": png(number), "path": None}] if number % 3 else [],
            }
        )
    for place, (note_id, fields) in enumerate(HOSTILE.items()):
        broken = [{"bytes": b"<svg onload=alert(1)>", "path": None}] if place == 0 else []
        made.append({"note_id": note_id, "images": broken, "created_at": START, **fields})
    return made


def make_world(folder: Path, encoder: Any) -> Path:
    """`data`, `pairs.parquet` and `index` in a folder; the vectors of a topic's notes lie close together."""
    rows = notes()
    for name in ("notes", "engagement"):
        (folder / "data" / name).mkdir(parents=True)
    pq.write_table(
        pa.Table.from_pylist(rows, schema=schema.NOTES), folder / "data" / "notes" / "0.parquet", row_group_size=16
    )
    # u0 and u1 engaged with n00 and n04, u0 with n08, too.
    events = [("u0", "n00"), ("u1", "n00"), ("u0", "n04"), ("u1", "n04"), ("u0", "n08")]
    log = pa.Table.from_pylist(
        [{"user_id": u, "note_id": n, "action": "click"} for u, n in events], schema=schema.ENGAGEMENT
    )
    pq.write_table(log, folder / "data" / "engagement" / "0.parquet")
    related = {"anchor_id": ["n00"], "related_id": ["n04"], "score": [0.8], "rank": [1]}
    pq.write_table(pa.table(related, schema=schema.PAIRS), folder / "pairs.parquet")
    random = np.random.default_rng(5)
    centres = random.normal(size=(len(TOPICS) + 1, encoder.dimension))
    kinds = [number % 4 if number < 40 else len(TOPICS) for number in range(len(rows))]
    vectors = centres[kinds] + 0.4 * random.normal(size=(len(rows), encoder.dimension))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    table = pa.table(
        {
            "note_id": [row["note_id"] for row in rows],
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), encoder.dimension),
            "content_hash": pa.array(range(len(rows)), pa.uint64()),
            "model_version": [encoder.model_version] * len(rows),
        },
        schema=schema.embeddings_schema(encoder.dimension),
    )
    (folder / "embeddings").mkdir()
    storage.write_table(table, folder / "embeddings" / "0.parquet")
    build_index(folder / "embeddings", notes=folder / "data", out=folder / "index")
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, encoder: NoteEncoder) -> Path:
    """A world that no test may change."""
    return make_world(tmp_path_factory.mktemp("explorer"), encoder)


@pytest.fixture(scope="session")
def catalogue(world: Path) -> Catalogue:
    return Catalogue.open(world / "data")


@pytest.fixture(scope="session")
def related(world: Path) -> Related:
    return Related.open(world / "pairs.parquet", dataset=world / "data")


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report by hand: two arms, two directions."""
    from noterec.evaluation.protocol import MAIN, WARM
    from noterec.evaluation.report import FORMAT, FORMAT_VERSION

    def metric(mean: float, low: float | None, high: float | None) -> dict[str, Any]:
        return {"mean": mean, "low": low, "high": high, "n": 50}

    arms: dict[str, dict[str, Any]] = {
        "bm25": {
            "recall@10": metric(0.1, 0.08, 0.12),
            "recall@50": metric(0.2, 0.15, 0.25),
            "hit@10": metric(0.5, 0.4, 0.6),
        },
        "<i>mine</i>": {
            "recall@10": metric(0.4, 0.35, 0.45),
            "recall@50": metric(0.7, 0.6, 0.8),
            "coverage@10": metric(0.9, None, None),
        },
    }
    arms["bm25"]["directions"] = {WARM: {"recall@10": metric(0.3, 0.2, 0.4)}}
    counts = {"queries": 50, "relevant": 400, "candidates": 1000}
    protocol = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "created": "2026-05-04T03:02:01+00:00",
        "dataset": "/a/b/mine",
        "notes": 1234,
        "user_arms": ["<i>mine</i>"],
        "directions": {MAIN: counts, WARM: counts},
    }
    better = {"direction": MAIN, "metric": "recall@10", "arm": "<i>mine</i>", "against": "bm25", "n": 50}
    paired = [{**better, "difference": 0.3, "low": 0.2, "high": 0.4, "verdict": "better"}]
    folder = tmp_path_factory.mktemp("report")
    storage.write_json(folder / "metrics.json", {"protocol": protocol, "arms": arms, "paired": paired})
    return folder


@pytest.fixture
def own_index(world: Path, tmp_path: Path) -> Path:
    """An index of the test's own."""
    return Path(shutil.copytree(world / "index", tmp_path / "own-index"))


@pytest.fixture
def explore(
    open_service: Callable[..., Service], world: Path, catalogue: Catalogue, related: Related, report: Path
) -> Iterator[Callable[..., TestClient]]:
    """Make clients of explorers over the world; `bare` has nothing but the index."""
    clients: list[TestClient] = []

    def start(
        index: Path | None = None, *, bare: bool = False, beside: dict[str, Any] | None = None, **given: Any
    ) -> TestClient:
        usual = dict(catalogue=catalogue, related=related, report=report)
        beside = dict.fromkeys(usual) if bare else {**usual, **(beside or {})}
        if bare:
            given.setdefault("see", None)
        service = open_service(index or world / "index", **given)
        for name, value in beside.items():
            setattr(service, name, value)
        clients.append(TestClient(create_app(service), raise_server_exceptions=True))
        return clients[-1].__enter__()

    yield start
    for client in clients:
        client.app.state.service.catalogue = None  # type: ignore[attr-defined]  # it is shared: not to be closed with this service
        client.__exit__(None, None, None)
