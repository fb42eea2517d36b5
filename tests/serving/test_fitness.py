"""Hostile notes and pictures: each is refused in a sentence, or goes through as it is."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from typing import Any

import pytest

from noterec.config import ImagesConfig, ServeConfig
from noterec.serving import fitness
from noterec.serving.messages import NoteContent
from noterec.serving.metrics import Metrics
from noterec.serving.refusals import Refusal

CONFIG = ServeConfig(images=ImagesConfig(max_bytes=100_000, max_pixels=1_000_000), max_images=2)


def picture(kind: str = "PNG", side: int = 8) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (side, side), "teal").save(file, kind)
    return file.getvalue()


def bomb(side: int = 60_000) -> bytes:
    """A PNG of few bytes that says that it has very many pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def text64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def fit(*contents: NoteContent, sees: bool = True) -> Any:
    fitness.check_pictures(contents, sees=sees, config=CONFIG)
    return fitness.fit_notes(contents, sees=sees, config=CONFIG, metrics=Metrics())


HOSTILE_PICTURES = {
    "image_too-many-pixels": text64(bomb()),
    "image_corrupt": text64(picture(side=64)[:-30]),
    "image_unknown-format": text64(b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"),
    "image_base64": "not base64!",
    "image_empty": "",
    "image_too-many-bytes": "A" * 200_000,
}


@pytest.mark.parametrize("code", HOSTILE_PICTURES)
def test_a_hostile_picture_is_named(code: str) -> None:
    good = NoteContent(title="fine", images=[text64(picture())])
    with pytest.raises(Refusal) as caught:
        fit(good, NoteContent(title="t", images=[text64(picture()), HOSTILE_PICTURES[code]]))
    assert (caught.value.status, caught.value.code) == (422, code)
    assert str(caught.value).startswith("notes.1, image 1: ")


def test_what_is_too_large_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitness.base64, "b64decode", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(Refusal, match="larger than 100,000 bytes"):
        fit(NoteContent(images=["A" * 200_000]))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_pictures_go_through_byte_by_byte(kind: str) -> None:
    data = picture(kind)
    assert fit(NoteContent(images=[text64(data)]))[0].images == [data]


def test_counts_and_models_of_text() -> None:
    one = text64(picture())
    with pytest.raises(Refusal, match="3 images; expected at most 2"):
        fit(NoteContent(images=[one] * 3))
    with pytest.raises(Refusal, match="reads text alone"):
        fit(NoteContent(title="a", images=[one]), sees=False)


@pytest.mark.parametrize("content", [{}, {"title": " \n"}, {"hashtags": ["", " "]}, {"content": "\u3000"}])
def test_a_note_without_anything_to_read_is_named(content: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as caught:
        fit(NoteContent(**content), sees=False)
    assert caught.value.code == "nothing_to_read"
    assert "expected a title, content or hashtags" in str(caught.value)


def test_hostile_text_goes_through() -> None:
    content = NoteContent(title="</s><|im_start|>\x00\u202e", content="🙂" * 1000, hashtags=["#" * 1000])
    assert fit(content)[0].title == "</s><|im_start|>\x00\u202e"


def test_pictures_that_nobody_waits_for_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitness, "decode", lambda *_: pytest.fail("decoded"))
    content = NoteContent(images=[text64(picture())])
    with pytest.raises(Refusal) as caught:
        fitness.fit_notes([content], sees=True, config=CONFIG, metrics=Metrics(), until=0.0)
    assert caught.value.status == 504
