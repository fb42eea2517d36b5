"""An entry of the images column as the bytes of a picture file: its own bytes, or a file below a folder that the user named.

Notes are written by strangers, so a path is a request, not an address: it may not lead out of the folder by `..`, by being
absolute or through links, and only regular files are opened. URLs are fetched only where the settings say so (see `fetch`).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from noterec import storage
from noterec.config import ImagesConfig
from noterec.errors import ImageError, InputError
from noterec.notes.images.decode import check_bytes

Entry = Mapping[str, Any] | None  # {"bytes", "path"}, as the images column holds it

# What decides whether bytes become a picture, and whether there are bytes at all: fields of ImagesConfig.
DECODE_LIMITS = ("max_pixels", "min_side_px", "max_aspect_ratio")
_LIMITS = (*DECODE_LIMITS, "max_bytes")
_HTTP = re.compile(r"https?:/", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class ImageSource:
    """Where pictures may be read from.

    Attributes:
        root: the only folder below which paths are followed; None refuses every path.
        limits: what a picture may be, and whether URLs are fetched.

    Raises:
        InputError: the root is no folder.
    """

    root: Path | None = None
    limits: ImagesConfig = dataclasses.field(default_factory=ImagesConfig)

    @classmethod
    def below(cls, root: str | os.PathLike[str] | None, limits: ImagesConfig) -> ImageSource:
        """The source of pictures below a folder, as a caller names it; None refuses every path.

        Raises:
            InputError: the root is no folder.
        """
        return cls(None if root is None else storage.local(root), limits)

    def __post_init__(self) -> None:
        if self.root is None:
            return
        folder = storage.local(self.root)
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; expected the one below which the notes' picture files are")
        object.__setattr__(self, "root", folder.resolve())

    def read(self, entry: Entry) -> bytes:
        """The picture file that an entry holds or names; its bytes come first, as in the Hugging Face convention.

        Args:
            entry: {"bytes": binary or None, "path": text or None}. A relative path counts from the root; an absolute one must
                lie below it; an http(s) URL is fetched where `limits.fetch` is on.

        Raises:
            ImageError: there is none, it can't be read, or it is too large.
        """
        data = entry.get("bytes") if entry else None
        if data is not None:
            check_bytes(len(data), self.limits)
            return bytes(data)
        path = entry.get("path") if entry else None
        if not path:
            raise ImageError("nothing", "the image has neither bytes nor a path; expected one of them")
        return self._read_file(str(path))

    def url(self, entry: Entry) -> str | None:
        """The URL that `read` would fetch for this entry; None where it fetches nothing."""
        path = entry.get("path") if entry and entry.get("bytes") is None else None
        return str(path) if path and self.limits.fetch and _HTTP.match(str(path)) else None

    def stamp(self, entry: Entry) -> bytes:
        """What an entry's picture is known by from one run to the next, without decoding: 16 bytes.

        Of bytes it is their hash. Of a file it is that of the path as the entry gives it, of its size and its time of change, so
        another content of the same size and time isn't noticed. Of a URL that would be fetched it is that of the URL alone,
        whatever stands there by now. Of what can't be reached it is that of the reason. Limits that decide whether a picture can be
        used belong to it where they aren't the usual ones: under others, it may be another one that a note shows. No entry is so
        bad that this raises.
        """
        data = entry.get("bytes") if entry else None
        if data is not None:
            return self._stamp(b"bytes", data)
        path = entry.get("path") if entry else None
        if not path:
            return self._stamp(b"refused", b"nothing")
        name = str(path).encode("utf-8", "surrogatepass")
        if self.url(entry) is not None:
            return self._stamp(b"url", name)
        try:
            with self._open(str(path)) as file:
                found = os.fstat(file.fileno())
        except ImageError as error:
            return self._stamp(b"refused", error.reason.encode())
        return self._stamp(b"file", b"%s\0%d\0%d" % (name, found.st_size, found.st_mtime_ns))

    def _stamp(self, kind: bytes, value: bytes) -> bytes:
        # `person` keeps the kinds apart, `salt` the limits.
        return hashlib.blake2b(value, digest_size=16, person=kind, salt=self._unusual).digest()

    @functools.cached_property
    def _unusual(self) -> bytes:
        """Limits that aren't the usual ones, as 16 bytes; none where all are."""
        usual = ImagesConfig()
        others = {
            name: float(getattr(self.limits, name))
            for name in _LIMITS
            if getattr(self.limits, name) != getattr(usual, name)
        }
        return storage.value_hash(others).encode() if others else b""

    def _read_file(self, path: str) -> bytes:
        if self.limits.fetch and _HTTP.match(path):
            from noterec.notes.images.fetch import fetch

            return fetch(path, self.limits)
        with self._open(path) as file:
            check_bytes(os.fstat(file.fileno()).st_size, self.limits)
            try:
                data = file.read(self.limits.max_bytes + 1)  # it may have grown since
            except OSError as error:
                raise ImageError("unreadable", f"{_shown(path)}: can't be read: {error.strerror or error}") from error
        check_bytes(len(data), self.limits)
        return data

    def _open(self, path: str) -> BinaryIO:
        shown = _shown(path)
        if storage.URL.match(path) or path[:5].lower() == "data:":
            raise ImageError("url", f"{shown}: {self._why_not_fetched(path)}; download it, or store its bytes")
        if self.root is None:
            raise ImageError(
                "no-root",
                f"{shown}: files are read only below a folder that you name; give the image root (--image-root)",
            )
        try:
            return os.fdopen(_open_below(self.root, path, shown), "rb")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ImageError("not-found", f"{shown}: no such file below {self.root}") from error
        except OSError as error:
            raise ImageError("unreadable", f"{shown}: can't be read: {error.strerror or error}") from error

    def _why_not_fetched(self, path: str) -> str:
        if _HTTP.match(path):
            return "pictures are not fetched from URLs (images.fetch=false)"
        return "pictures are not fetched from URLs of this kind"


def _shown(path: str) -> str:
    return repr(path if len(path) <= 200 else path[:200] + "...")


def _open_below(root: Path, path: str, shown: str) -> int:
    """A file descriptor of a regular file below `root`, which is resolved.

    The path is resolved first, so what is then opened, step by step, has no links in it: one that turns up has been put there
    in between, and isn't followed.
    """
    if "\0" in path:
        raise ImageError("bad-path", f"{shown}: a NUL is no part of a file's name")
    if ".." in Path(path).parts:
        raise ImageError("outside-root", f"{shown}: '..' is not followed; expected a path below {root}")
    try:
        target = Path(os.path.realpath(root / path))
    except ValueError as error:
        raise ImageError("bad-path", f"{shown}: not a file's name in this system's encoding") from error
    if not target.is_relative_to(root):
        raise ImageError("outside-root", f"{shown}: leads out of {root}, the only folder that pictures are read from")
    *folders, name = target.relative_to(root).parts or (".",)
    place = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for folder in folders:
            inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=place)
            os.close(place)
            place = inner
        # Looked at before it is opened: opening a device may already do something.
        if stat.S_ISREG(os.stat(name, dir_fd=place, follow_symlinks=False).st_mode):
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=place)
            if stat.S_ISREG(os.fstat(handle).st_mode):
                return handle
            os.close(handle)
    finally:
        os.close(place)
    raise ImageError("not-a-file", f"{shown}: a folder, pipe, socket, device or broken link; expected a regular file")
