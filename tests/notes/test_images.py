"""Pictures from strangers: every kind is decoded by its content, and nothing hostile gets further than an ImageError."""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from noterec.config import ImagesConfig
from noterec.errors import DependencyError, ImageError, InputError
from noterec.notes.images.decode import decode, image_hash, pixels
from noterec.notes.images.source import ImageSource
from noterec.notes.images.workers import LOOK_AHEAD, decode_all
from noterec.notes.importing import import_dataset
from noterec.notes.validate import validate
from tests.notes.deadly import width

LIMITS = ImagesConfig()
RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def _file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _pixels(data: bytes, limits: ImagesConfig = LIMITS) -> np.ndarray:
    image = decode(data, limits)
    assert image.mode == "RGB"
    return pixels(image)


def _reason(data: bytes, limits: ImagesConfig = LIMITS) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, limits)
    assert len(str(caught.value)) < 400
    return caught.value.reason


def _photo(width: int = 48, height: int = 32) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(0).integers(0, 40, (height, width))
    return Image.fromarray(np.stack([x * 4 % 256, y * 6 % 256, 80 + noise], -1).astype(np.uint8))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, bits: int, colour: int, rows: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG by hand; `rows` begin with their filter byte."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


# ---- what is decoded, and to what


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_formats(kind: str) -> None:
    photo = _photo()
    data = _file(photo, kind)
    found = _pixels(data)
    assert (found.shape, found.dtype) == ((32, 48, 3), np.uint8)
    assert np.abs(found.astype(int) - pixels(photo)).mean() < (25 if kind in ("JPEG", "WEBP", "GIF") else 1e-9)
    assert (found == _pixels(data)).all()


# Where the four corners (red, green / blue, white) of the stored picture come to lie when it is upright.
UPRIGHT = {
    1: [[RED, GREEN], [BLUE, WHITE]],
    2: [[GREEN, RED], [WHITE, BLUE]],
    3: [[WHITE, BLUE], [GREEN, RED]],
    4: [[BLUE, WHITE], [RED, GREEN]],
    5: [[RED, BLUE], [GREEN, WHITE]],
    6: [[BLUE, RED], [WHITE, GREEN]],
    7: [[WHITE, GREEN], [BLUE, RED]],
    8: [[GREEN, WHITE], [RED, BLUE]],
}


@pytest.mark.parametrize("orientation", list(UPRIGHT))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation(kind: str, orientation: int) -> None:
    corners = np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8)
    image = Image.fromarray(corners.repeat(16, 0).repeat(32, 1))  # 64 wide, 32 high
    exif = Image.Exif()
    exif[274] = orientation
    found = _pixels(_file(image, kind, exif=exif, **({"quality": 100} if kind in ("JPEG", "WEBP") else {})))
    assert found.shape == ((32, 64, 3) if orientation < 5 else (64, 32, 3))
    height, width = found.shape[:2]
    middles = found[height // 4 :: height // 2, width // 4 :: width // 2]
    np.testing.assert_allclose(middles.astype(int), UPRIGHT[orientation], atol=25)


def test_damaged_exif_turns_nothing() -> None:
    data = _file(_photo(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    assert _pixels(data).shape == (32, 48, 3)


def test_cmyk() -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    np.testing.assert_allclose(_pixels(_file(image, "TIFF"))[0, 0], RED, atol=1)
    np.testing.assert_allclose(_pixels(_file(image, "JPEG", quality=100))[8, 8], RED, atol=8)


def test_grey_and_one_bit() -> None:
    grey = np.array([[0, 17, 255]], np.uint8)
    assert _pixels(_file(Image.fromarray(grey))).tolist() == [[[v] * 3 for v in (0, 17, 255)]]
    bits = Image.fromarray(np.array([[0, 255, 255, 0]], np.uint8)).convert("1")
    for kind in ("PNG", "TIFF", "BMP"):
        assert _pixels(_file(bits, kind))[0, :, 0].tolist() == [0, 255, 255, 0]
    nibbles = _png(2, 1, 4, 0, b"\0\x0f")  # 4 bits: 0 and 15
    assert _pixels(nibbles)[0, :, 1].tolist() == [0, 255]


def test_transparency_is_laid_on_white() -> None:
    rgba = np.array([[(255, 0, 0, 255), (0, 0, 0, 0), (0, 0, 0, 128)]], np.uint8)
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})):
        assert _pixels(_file(Image.fromarray(rgba), kind, **options)).tolist() == [[[255, 0, 0], [255] * 3, [127] * 3]]
    grey = np.array([[(10, 255), (10, 0)]], np.uint8)
    assert _pixels(_file(Image.fromarray(grey, "LA"))).tolist() == [[[10] * 3, [255] * 3]]


def test_palette_with_transparency() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, *BLUE])
    image.putdata([0, 1, 2])
    for kind in ("PNG", "GIF"):
        assert _pixels(_file(image, kind)).tolist() == [[list(RED), list(GREEN), list(BLUE)]]
        assert _pixels(_file(image, kind, transparency=1)).tolist() == [[list(RED), list(WHITE), list(BLUE)]]
    halves = _pixels(_file(image, "PNG", transparency=bytes([255, 0, 128])))
    assert halves.tolist() == [[list(RED), list(WHITE), [127, 127, 255]]]


@pytest.mark.parametrize(
    ("bits", "colour", "row", "transparent", "shown"),
    [
        (1, 0, b"\x80", 1, [255, 0]),  # white is the transparent colour: it stays white
        (1, 0, b"\x80", 0, [255, 255]),
        (2, 0, b"\x60", 1, [255, 170]),
        (4, 0, b"\x3c", 3, [255, 204]),
        (8, 0, b"\x3c\x3d", 0x3C, [255, 0x3D]),
        (16, 0, b"\x12\x34\x12\x35", 0x1234, [255, 0x12]),  # the low byte counts
    ],
)
def test_transparent_grey_of_every_depth(
    bits: int, colour: int, row: bytes, transparent: int, shown: list[int]
) -> None:
    data = _png(2, 1, bits, colour, b"\0" + row, (b"tRNS", struct.pack(">H", transparent)))
    assert _pixels(data)[0, :, 0].tolist() == shown


def test_transparent_colour_of_16_bits() -> None:
    row = b"\0" + struct.pack(">6H", 0x1200, 0x3400, 0x5600, 0xFFFF, 0x8000, 0x0000)
    data = _png(2, 1, 16, 2, row, (b"tRNS", struct.pack(">3H", 0x1200, 0x3400, 0x5600)))
    assert _pixels(data).tolist() == [[[255] * 3, [255, 128, 0]]]


def test_16_bits_are_scaled_not_clipped() -> None:
    ramp = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)  # 0, 257, ... 65535: 0 to 255 in 8 bits
    expected = np.arange(256).reshape(16, 16)
    deep = Image.fromarray(ramp)
    assert deep.mode == "I;16"
    for data in (_file(deep), _file(deep, "TIFF"), _file(deep, "TIFF", compression="tiff_lzw")):
        assert (_pixels(data) == expected[..., None]).all()
    big = Image.frombytes("I;16B", (16, 16), ramp.astype(">u2").tobytes())
    assert (_pixels(_file(big, "TIFF"))[..., 2] == expected).all()
    colour = np.stack([ramp, ramp[::-1], ramp], -1)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colour)
    assert (_pixels(_png(16, 16, 16, 2, rows)) == np.stack([expected, expected[::-1], expected], -1)).all()


def _tiff(width: int, bits: int, photometric: int, row: bytes) -> bytes:
    """An uncompressed little-endian TIFF of one row of grey, by hand."""
    tags = [
        (256, width),
        (257, 1),
        (258, bits),
        (259, 1),
        (262, photometric),
        (273, 8),
        (277, 1),
        (278, 1),
        (279, len(row)),
    ]
    row = row + b"\0" * (len(row) % 2)
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(row)) + row + directory + b"\0" * 4


def test_tiff_of_12_bits_and_white_is_zero() -> None:
    assert _pixels(_tiff(2, 12, 1, b"\x00\x0f\xff"))[0, :, 0].tolist() == [0, 255]
    assert _pixels(_tiff(2, 16, 1, struct.pack("<2H", 0, 65535)))[0, :, 0].tolist() == [0, 255]
    assert _pixels(_tiff(2, 16, 0, struct.pack("<2H", 0, 65535)))[0, :, 0].tolist() == [255, 0]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = _file(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert (_pixels(data) == RED).all()


def test_a_picture_under_another_name_is_told_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "really-a-gif.jpg").write_bytes(_file(Image.new("RGB", (4, 4), RED), "GIF"))
    data = ImageSource(tmp_path).read({"bytes": None, "path": "really-a-gif.jpg"})
    assert (_pixels(data) == RED).all()


# ---- what is rejected


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "unknown-format"),
        (b'\xef\xbb\xbf<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "unknown-format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unknown-format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage", "unknown-format"),
        (b"%PDF-1.7\n", "unknown-format"),
        (b"P6 2 2 255 " + b"x" * 12, "unknown-format"),  # Pillow would read it
        (b"\0\0\0\x1cftypheic\0\0\0\0", "unknown-format"),
        (b"hello", "unknown-format"),
        (b"\xff\xd8\xff", "corrupt"),
        (b"BMW is a car", "corrupt"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "corrupt"),
        (b"GIF89a\0\0\0\0\0\0\0", "corrupt"),
    ],
)
def test_no_picture(data: bytes, reason: str) -> None:
    assert _reason(data) == reason


def test_the_message_names_what_it_is() -> None:
    with pytest.raises(ImageError, match="the content is an HTML page; expected JPEG"):
        decode(b"  <HTML>", LIMITS)
    with pytest.raises(ImageError, match="heic"):
        decode(b"\0\0\0\x1cftypheic\0\0\0\0", LIMITS)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_cut_short(kind: str) -> None:
    data = _file(_photo(), kind)
    for share in (0.1, 0.5, 0.9):
        assert _reason(data[: int(len(data) * share)]) == "corrupt"
    progressive = _file(_photo(), "JPEG", progressive=True)
    assert _reason(progressive[: len(progressive) // 2]) == "corrupt"


def test_a_damaged_row_is_not_filled() -> None:
    data = bytearray(_file(_photo(), "PNG"))
    place = data.index(b"IDAT") + 40
    data[place] ^= 0xFF
    assert _reason(bytes(data)) == "corrupt"
    compressed = _file(_photo(), "TIFF", compression="tiff_adobe_deflate")
    assert _reason(compressed[:-200]) == "corrupt"


def test_a_bomb_is_refused_by_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    header = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    assert _reason(header + _chunk(b"IDAT", zlib.compress(b"\0" * 100))) == "too-many-pixels"

    def decoded(*_: Any) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded)
    middle = _png(10_000, 10_000, 1, 0, b"")  # 100 megapixels, beyond our limit and only warned of by Pillow
    assert _reason(middle) == "too-many-pixels"
    assert _reason(_file(_photo(64, 64), "BMP"), ImagesConfig(max_pixels=4095)) == "too-many-pixels"


def test_a_gif_whose_frame_is_larger_than_its_screen() -> None:
    screen = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"," + struct.pack("<HHHHB", 0, 0, 60_000, 60_000, 0) + b"\x02\x02\x44\x01\x00;"
    assert _reason(screen + frame) == "too-many-pixels"


def test_limits() -> None:
    data = _file(_photo(64, 64))
    assert decode(data, ImagesConfig(max_pixels=4096, max_bytes=len(data), min_side_px=64)).size == (64, 64)
    assert _reason(data, ImagesConfig(max_bytes=len(data) - 1)) == "too-many-bytes"
    assert _reason(data, ImagesConfig(min_side_px=65)) == "too-small"
    strip = _file(Image.new("L", (5, 1000)))
    assert decode(strip, LIMITS).size == (5, 1000)
    assert _reason(strip, ImagesConfig(max_aspect_ratio=199)) == "too-narrow"


def test_pixels_without_a_fixed_white() -> None:
    assert _reason(_file(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF")) == "unsupported"
    assert _reason(_file(Image.fromarray(np.ones((2, 2), np.int32)), "TIFF")) == "unsupported"


def test_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    assert _reason(_file(_photo(), "BMP")) == "no-memory"


def test_a_process_that_fills_cut_pictures_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(DependencyError, match="LOAD_TRUNCATED_IMAGES"):
        decode(_file(_photo()), LIMITS)


def test_hash() -> None:
    assert image_hash(b"abc") == "cf4ab791c62b8d2b2109c90275287816"  # BLAKE2b of 16 bytes
    assert image_hash(b"abd") != image_hash(b"abc")


def test_the_error_survives_a_process() -> None:
    error = pickle.loads(pickle.dumps(ImageError("url", "no")))
    assert (error.reason, str(error), isinstance(error, InputError)) == ("url", "no", True)


_VALID = [
    *(_file(_photo(24, 16), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")),
    _file(_photo(24, 16), "TIFF", compression="tiff_lzw"),
    _file(_photo(24, 16).convert("P"), "PNG", transparency=3),
    _file(Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16)), "PNG"),
    _tiff(2, 12, 1, b"\x00\x0f\xff"),
]


def _decoded_or_rejected(data: bytes) -> None:
    small = ImagesConfig(max_pixels=1_000_000)
    try:
        image = decode(data, small)
    except ImageError as error:
        assert error.reason
    else:
        assert image.mode == "RGB" and image.width * image.height <= 1_000_000


@settings(max_examples=150, deadline=None)
@given(head=st.sampled_from([b"", *(data[:12] for data in _VALID)]), tail=st.binary(max_size=200))
def test_random_bytes(head: bytes, tail: bytes) -> None:
    _decoded_or_rejected(head + tail)


@settings(max_examples=400, deadline=None)
@given(
    data=st.sampled_from(_VALID),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=12),
    cut=st.floats(0.2, 1),
)
def test_random_damage(data: bytes, edits: list[tuple[float, int]], cut: float) -> None:
    damaged = bytearray(data)
    for place, value in edits:
        damaged[int(place * len(damaged))] = value
    _decoded_or_rejected(bytes(damaged[: max(1, int(cut * len(damaged)))]))


# ---- where they are read from


def _refused(source: ImageSource, entry: Any) -> str:
    with pytest.raises(ImageError) as caught:
        source.read(entry)
    return caught.value.reason


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(b"inside")
    (folder / "deep" / "b.jpg").write_bytes(b"deeper")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (tmp_path / "root-too").mkdir()
    (tmp_path / "root-too" / "c.jpg").write_bytes(b"secret")
    return folder


def test_bytes_come_first(root: Path) -> None:
    assert ImageSource().read({"bytes": b"x", "path": "/etc/passwd"}) == b"x"
    assert _refused(ImageSource(), {"bytes": b"", "path": "a.jpg"}) == "empty"
    for entry in (None, {"bytes": None, "path": None}, {"bytes": None, "path": ""}, {}):
        assert _refused(ImageSource(root), entry) == "nothing"
    limits = ImagesConfig(max_bytes=3)
    assert ImageSource(limits=limits).read({"bytes": b"123", "path": None}) == b"123"
    assert _refused(ImageSource(limits=limits), {"bytes": b"1234", "path": None}) == "too-many-bytes"


def test_paths_below_the_root(root: Path) -> None:
    source = ImageSource(root)
    (root / "link.jpg").symlink_to("deep/b.jpg")
    (root / "folder-link").symlink_to("deep")
    for path, data in (
        ("a.jpg", b"inside"),
        ("./deep//b.jpg", b"deeper"),
        ("link.jpg", b"deeper"),
        ("folder-link/b.jpg", b"deeper"),
        (str(root / "deep" / "b.jpg"), b"deeper"),  # as `noterec import` writes them
    ):
        assert source.read({"bytes": None, "path": path}) == data
    (root.parent / "alias").symlink_to("root")
    alias = root.parent / "alias"
    assert ImageSource(alias).read({"bytes": None, "path": str(alias / "a.jpg")}) == b"inside"


def test_no_root() -> None:
    with pytest.raises(ImageError, match="--image-root") as caught:
        ImageSource().read({"bytes": None, "path": "a.jpg"})
    assert caught.value.reason == "no-root"
    with pytest.raises(InputError, match="no such folder"):
        ImageSource(Path("/nowhere/at/all"))


@pytest.mark.parametrize(
    "url", ["http://h/a.jpg", "https:/h/a.jpg", "s3://b/a.jpg", "file:///etc/passwd", "DATA:image/png;base64,AA"]
)
def test_urls(root: Path, url: str) -> None:
    assert _refused(ImageSource(root), {"bytes": None, "path": url}) == "url"
    assert _refused(ImageSource(), {"bytes": None, "path": url}) == "url"


def test_ways_out(root: Path) -> None:
    (root / "out.jpg").symlink_to(root.parent / "secret.jpg")
    (root / "out").symlink_to(root.parent)
    (root / "dangling-out").symlink_to("/nowhere/at/all")
    source = ImageSource(root)
    inside_out = ["out.jpg", "out/secret.jpg", "out/root/a.jpg/../../../secret.jpg", "dangling-out"]
    dots = ["../secret.jpg", "deep/../../secret.jpg", "deep/../a.jpg", "..", f"{root}/../secret.jpg"]
    absolute = ["/etc/passwd", "//etc/passwd", "/dev/zero", "/nowhere"]
    beside = [str(root.parent / "secret.jpg"), str(root.parent / "root-too" / "c.jpg")]
    for path in inside_out + dots + absolute + beside:
        assert _refused(source, {"bytes": None, "path": path}) == "outside-root", path


def test_what_is_no_file(root: Path) -> None:
    os.mkfifo(root / "pipe.jpg")
    (root / "loop").symlink_to("loop")
    source = ImageSource(root)
    for path in ("deep", ".", "pipe.jpg", str(root)):
        assert _refused(source, {"bytes": None, "path": path}) == "not-a-file", path
    assert _refused(source, {"bytes": None, "path": "loop"}) in ("not-a-file", "unreadable")
    for path in ("none.jpg", "a.jpg/b", "none/none.jpg", "~/a.jpg", "deep\\b.jpg"):
        assert _refused(source, {"bytes": None, "path": path}) == "not-found", path
    assert _refused(source, {"bytes": None, "path": "a.jpg\0.png"}) == "bad-path"
    assert _refused(source, {"bytes": None, "path": "\ud800.jpg"}) == "bad-path"
    assert _refused(source, {"bytes": None, "path": "x" * 5000}) == "unreadable"
    device = ImageSource(Path("/dev"))
    assert _refused(device, {"bytes": None, "path": "zero"}) == "not-a-file"


def test_large_and_empty_files(root: Path) -> None:
    source = ImageSource(root, ImagesConfig(max_bytes=5))
    assert _refused(source, {"bytes": None, "path": "a.jpg"}) == "too-many-bytes"
    (root / "empty").touch()
    assert _refused(source, {"bytes": None, "path": "empty"}) == "empty"


def test_a_link_put_there_in_between_is_not_followed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = os.path.realpath

    def swapped(path: Any) -> str:
        found = resolve(path)
        (root / "a.jpg").unlink()
        (root / "a.jpg").symlink_to(root.parent / "secret.jpg")
        return found

    source = ImageSource(root)
    monkeypatch.setattr("noterec.notes.images.source.os.path.realpath", swapped)
    assert _refused(source, {"bytes": None, "path": "a.jpg"}) == "not-a-file"


@pytest.mark.parametrize(
    ("swapped", "reason"), [("link", "unreadable"), ("pipe", "not-a-file"), ("folder", "not-found")]
)
def test_nor_at_the_last_moment(root: Path, monkeypatch: pytest.MonkeyPatch, swapped: str, reason: str) -> None:
    look, enter, file = os.stat, os.open, root / "deep" / "b.jpg"

    def stat(path: Any, **options: Any) -> os.stat_result:
        found = look(path, **options)
        if path == "b.jpg" and swapped != "folder":
            file.unlink()
            if swapped == "pipe":
                os.mkfifo(file)
            else:
                file.symlink_to(root.parent / "secret.jpg")
        return found

    def enter_after(path: Any, *arguments: Any, **options: Any) -> int:
        if path == "deep" and swapped == "folder":
            (root / "deep").rename(root / "moved")
            (root / "deep").symlink_to(root / "moved")
        return enter(path, *arguments, **options)

    source = ImageSource(root)
    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(os, "open", enter_after)
    assert _refused(source, {"bytes": None, "path": "deep/b.jpg"}) == reason


# ---- many of them


def _entry(wide: int, tail: bytes = b"") -> dict[str, Any]:
    return {"bytes": _file(Image.new("L", (wide, 2))) + tail, "path": None}


def _shown(results: Any) -> list[Any]:
    return [result.reason if isinstance(result, ImageError) else result for result in results]


def test_in_this_process() -> None:
    first, second = decode_all([_entry(3), {"bytes": b"x", "path": None}], ImageSource())
    assert isinstance(first, np.ndarray) and first.shape == (2, 3, 3)
    assert isinstance(second, ImageError) and second.__traceback__ is None and second.__cause__ is None
    with pytest.raises(InputError, match="workers is -1"):
        decode_all([], ImageSource(), workers=-1)


def test_workers_keep_the_order_and_the_job() -> None:
    entries = [_entry(wide) for wide in range(1, 21)]
    entries[4] = _entry(5, b"die")
    entries[5] = {"bytes": b"%PDF", "path": None}
    entries[6] = _entry(7, b"die")
    entries[15] = _entry(16, b"die")
    expected = [
        *range(1, 5),
        "worker-died",
        "unknown-format",
        "worker-died",
        *range(8, 16),
        "worker-died",
        *range(17, 21),
    ]
    taken = 0

    def counted() -> Any:
        nonlocal taken
        for entry in entries:
            taken += 1
            yield entry

    results = decode_all(counted(), ImageSource(), workers=1, then=width)
    found = [next(results)]
    assert taken <= LOOK_AHEAD
    found.extend(results)
    assert _shown(found) == expected


def test_bugs_are_raised_and_no_worker_stays() -> None:
    import multiprocessing

    with pytest.raises(RuntimeError, match="a bug"):
        list(decode_all([_entry(1), _entry(2, b"bug")], ImageSource(), workers=1, then=width))
    left = decode_all([_entry(1) for _ in range(30)], ImageSource(), workers=1, then=width)
    assert next(left) == 1
    left.close()
    assert multiprocessing.active_children() == []


def test_where_no_process_starts_the_pictures_are_not_blamed(tmp_path: Path) -> None:
    import subprocess

    script = tmp_path / "unguarded.py"
    script.write_text(
        "from noterec.notes.images.source import ImageSource\n"
        "from noterec.notes.images.workers import decode_all\n"
        "list(decode_all([None], ImageSource(), workers=1))\n"
    )
    done = subprocess.run(
        [sys.executable, script], check=False, capture_output=True, text=True, timeout=60, cwd=Path.cwd()
    )
    assert "DependencyError: no worker process can be started" in done.stderr


# ---- a dataset's


def test_validate(tmp_path: Path) -> None:
    (tmp_path / "d" / "notes").mkdir(parents=True)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "p.png").write_bytes(_file(Image.new("L", (30, 10))))
    good = {"bytes": _file(Image.new("L", (10, 20))), "path": "x"}
    bad = {"bytes": b"%PDF-", "path": None}
    notes = {
        "note_id": ["a", "b", "c", "d", "e", "gone"],
        "title": ["t"] * 6,
        "images": [[good, bad], [good, good], [{"bytes": None, "path": "p.png"}], [bad, None], None, [good]],
        "deleted": [False] * 5 + [True],
    }
    pq.write_table(pa.table(notes), tmp_path / "d" / "notes" / "a.parquet")
    assert validate(tmp_path / "d").images is None
    found = validate(tmp_path / "d", images=ImageSource(tmp_path / "pictures")).images
    assert found is not None
    assert (found.notes_with_images, found.notes_without_usable, found.images, found.decoded) == (4, 1, 7, 4)
    assert found.rejected == {"unknown-format": 2, "nothing": 1}
    assert found.first_rejected["unknown-format"].startswith("note 'a': the content is a PDF")
    assert found.width_px == {0.5: 10, 1.0: 30} and found.height_px == {0.5: 20, 1.0: 20}
    without = validate(tmp_path / "d", images=ImageSource()).images
    assert without is not None and without.rejected == {"unknown-format": 2, "no-root": 1, "nothing": 1}
    assert without.notes_without_usable == 2
    assert validate(tmp_path / "d", images=ImageSource(tmp_path / "pictures"), workers=1).images == found


def test_validate_without_an_images_column(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    pq.write_table(pa.table({"note_id": ["a"], "title": ["t"]}), tmp_path / "notes" / "a.parquet")
    found = validate(tmp_path, images=ImageSource()).images
    assert found is not None and (found.images, found.width_px, found.rejected) == (0, {}, {})


def test_what_an_import_wrote_can_be_read(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "p.png").write_bytes(_file(Image.new("L", (30, 10))))
    (tmp_path / "notes.csv").write_text("note_id,title,images\na,t,p.png\nb,t,http://h/q.png\n")
    import_dataset("csv", tmp_path / "notes.csv", tmp_path / "d", images=photos)
    found = validate(tmp_path / "d", images=ImageSource(photos)).images
    assert found is not None and (found.decoded, found.rejected) == (1, {"url": 1})


def _command(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    from noterec.cli import main

    monkeypatch.setattr(sys, "argv", ["noterec", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


def test_the_command(platform: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(platform / "data")
    assert _command(["validate", data, "--images", "--set", "max_pixels=100"], monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "notes with images" in shown and "too-many-pixels" in shown
    assert _command(["validate", data, "--image-root", data], monkeypatch) == 2
    assert "add --images" in capsys.readouterr().err
    assert _command(["validate", data, "--images", "--image-root", data + "-none"], monkeypatch) == 2
    assert _command(["validate", data], monkeypatch) == 0
    assert "notes with images" not in capsys.readouterr().out
