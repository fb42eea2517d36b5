"""The bytes of a picture file as 8-bit RGB pixels, the same on every machine, or the reason why not.

The format is told by the content, never by a name, and only formats that are plain pixels are read: nothing that runs a program
(PostScript, PDF, SVG). Colour profiles are not applied: values are taken as sRGB. Of an animation the first frame counts.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from noterec.config import ImagesConfig
from noterec.errors import DependencyError, ImageError

if TYPE_CHECKING:
    from PIL.Image import Image

_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
# What stands in an image column most often although it is no picture that can be read: for the message only.
_OTHERS = (
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "XML, perhaps an SVG drawing"),
    (b"%!ps", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"%pdf", "a PDF"),
    (b"{", "JSON"),
)
_OPAQUE_MODES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr")
_ALPHA_MODES = ("RGBA", "RGBa", "LA", "PA")
_DEEP_MODES = ("I;16", "I;16B", "I;16L")  # grey with 9 to 16 bits
_ORIENTATION, _BITS_PER_SAMPLE, _PHOTOMETRIC = 274, 258, 262  # tags of TIFF and EXIF
_PNG_BITS = {"1": 1, "L;2": 2, "L;4": 4, "RGB;16B": 16}  # by Pillow's raw mode


def decode(data: bytes, limits: ImagesConfig) -> Image:
    """A picture file as an upright, opaque RGB picture: EXIF rotation applied, transparency laid on white.

    Args:
        data: the whole file.
        limits: checked from the file's header, before any pixel is decoded.

    Returns:
        A loaded PIL image of mode RGB; 16-bit values keep their high byte, as do Pillow's 16-bit colours.

    Raises:
        ImageError: it is none of the formats read, beyond a limit, damaged or cut short; the reasons are listed in
            `noterec.notes.images`. A picture that is cut short is rejected, not filled. What Pillow doesn't notice is a JPEG
            with damaged data that still has its end marker.
        DependencyError: another library has told Pillow to fill what is missing, in the whole process.
    """
    check_bytes(len(data), limits)
    kind = _format(data)
    from PIL import (
        BmpImagePlugin,
        GifImagePlugin,
        Image,
        ImageFile,
        JpegImagePlugin,
        PngImagePlugin,
        TiffImagePlugin,
        WebPImagePlugin,
    )

    # Imported here, these six stay the only readers that a file can reach: Pillow would load all of its own for a missing one.
    _ = (BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin)
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise DependencyError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on: cut pictures would be filled with grey unnoticed; switch it off, or decode "
            "in worker processes"
        )
    with _rejecting(kind), Image.open(io.BytesIO(data), formats=[kind]) as image:
        _check_size(image.size, limits)
        _scale_transparent_colour(image)
        image.load()
        _check_size(image.size, limits)
        return _upright(_on_white(_eight_bits(image)), _orientation(image))


def pixels(image: Image) -> np.ndarray:
    """A decoded picture as (height, width, 3) uint8."""
    return np.array(image)


def image_hash(data: bytes) -> str:
    """32 hexadecimal digits that depend on a file's bytes alone: the key of whatever is computed from a picture."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def check_bytes(size: int, limits: ImagesConfig) -> None:
    """Refuse a file of no or too many bytes.

    Raises:
        ImageError: empty, too-many-bytes.
    """
    if size == 0:
        raise ImageError("empty", "the picture has no bytes; expected a JPEG, PNG, WebP, GIF, BMP or TIFF file")
    if size > limits.max_bytes:
        raise ImageError(
            "too-many-bytes", f"the picture has {size:,} bytes; at most {limits.max_bytes:,} are read (max_bytes)"
        )


def _format(data: bytes) -> str:
    for signature, kind in _SIGNATURES:
        if data.startswith(signature):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    head = data[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    found = next((name for signature, name in _OTHERS if head.startswith(signature)), None)
    if found is None and data[4:8] == b"ftyp":
        found = f"{data[8:12].decode('ascii', 'replace').strip()} (HEIC, AVIF or a video)"
    raise ImageError(
        "unknown-format",
        f"the content is {found or f'unknown, it begins with {data[:8]!r}'}; expected JPEG, PNG, WebP, GIF, BMP or TIFF",
    )


@contextlib.contextmanager
def _rejecting(kind: str) -> Iterator[None]:
    """Whatever Pillow raises or warns about a hostile file, as an ImageError."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about strange metadata, and about sizes that are refused anyway
            yield
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError("no-memory", f"not enough memory to decode this {kind} picture; lower max_pixels") from error
    except Image.DecompressionBombError as error:
        raise ImageError("too-many-pixels", f"the {kind} picture is far too large: {error}") from error
    except UnidentifiedImageError as error:
        raise ImageError("corrupt", f"the {kind} picture is damaged or cut short: its header makes no sense") from error
    # Readers of damaged files fail in every way there is: OSError, SyntaxError, struct.error, zlib.error, KeyError, EOFError...
    except Exception as error:
        told = f"{type(error).__name__}: {error}"[:200]
        raise ImageError("corrupt", f"the {kind} picture is damaged or cut short ({told})") from error


def _check_size(size: tuple[int, int], limits: ImagesConfig) -> None:
    width, height = size
    shown = f"the picture has {width:,} x {height:,} pixels"
    if width * height > limits.max_pixels:
        raise ImageError("too-many-pixels", f"{shown}; at most {limits.max_pixels:,} are decoded (max_pixels)")
    if min(size) < limits.min_side_px:
        raise ImageError("too-small", f"{shown}; expected sides of at least {limits.min_side_px} (min_side_px)")
    if max(size) > limits.max_aspect_ratio * min(size):
        raise ImageError(
            "too-narrow", f"{shown}; expected a ratio of at most {limits.max_aspect_ratio:g} (max_aspect_ratio)"
        )


def _scale_transparent_colour(image: Image) -> None:
    """PNG names its transparent colour in the file's own depth, and Pillow compares it with 8-bit values."""
    tiles = getattr(image, "tile", None)
    if image.format != "PNG" or not tiles:
        return
    bits = _PNG_BITS.get(str(tiles[0][3]))
    colour = image.info.get("transparency")
    if bits is None:
        return
    if isinstance(colour, int):
        image.info["transparency"] = colour * 255 // (2**bits - 1)
    elif isinstance(colour, tuple):
        image.info["transparency"] = tuple(value >> (bits - 8) for value in colour)


def _eight_bits(image: Image) -> Image:
    """Grey values of 9 to 16 bits scaled to 8: Pillow's own conversion would clip them."""
    from PIL import Image

    if image.mode not in _DEEP_MODES:
        return image
    values = np.asarray(image).astype(np.uint16)  # (height, width)
    tags = getattr(image, "tag_v2", {})
    bits = int(tags.get(_BITS_PER_SAMPLE, (16,))[0])
    if tags.get(_PHOTOMETRIC) == 0:  # white is zero
        values = np.uint16(2**bits - 1) - values
    grey = Image.fromarray((values >> (bits - 8)).astype(np.uint8))
    colour = image.info.get("transparency")
    if isinstance(colour, int):
        grey.putalpha(Image.fromarray(np.where(values == colour, 0, 255).astype(np.uint8)))
    return grey


def _on_white(image: Image) -> Image:
    from PIL import Image

    if image.mode not in _OPAQUE_MODES + _ALPHA_MODES:
        raise ImageError(
            "unsupported",
            f"the picture's pixels are of kind {image.mode}, which has no fixed black and white; convert it to RGB",
        )
    if image.mode in _OPAQUE_MODES and "transparency" not in image.info:
        return image.convert("RGB")
    image = image.convert("RGBA")
    paper = Image.new("RGB", image.size, "white")
    paper.paste(image, mask=image)
    return paper


def _orientation(image: Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none, or where EXIF is damaged: then no viewer turns the picture."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) else 1


def _upright(image: Image, orientation: int) -> Image:
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image
