"""Arrays that don't fit into memory, in a temporary file without a name: the system frees it when its process ends, however."""

from __future__ import annotations

import os
import tempfile
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from noterec.errors import InputError


class Where(NamedTuple):
    """Where an array lies in a spill."""

    offset: int
    dtype: np.dtype[Any]
    size: int

    def slice(self, begin: int, end: int) -> Where:
        """Where its values [begin, end) lie."""
        return Where(self.offset + begin * self.dtype.itemsize, self.dtype, end - begin)


class Spill:
    """A temporary file of arrays, in the folder that TMPDIR names.

    Attributes:
        bytes: written so far.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="noterec-", buffering=0)  # noqa: SIM115 (closed by __exit__)
        self.bytes = 0

    def write(self, array: NDArray[Any]) -> Where:
        """Append a one-dimensional array; from one thread at a time.

        Raises:
            InputError: the disk is full.
        """
        where = Where(self.bytes, array.dtype, len(array))
        rest = _bytes(np.ascontiguousarray(array))
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise InputError(
                f"temporary files in {tempfile.gettempdir()}: {error.strerror or error} after {self.bytes / 1e9:.1f} GB; expected "
                "room for what memory doesn't hold: raise memory, or set TMPDIR to a folder with more room"
            ) from error
        self.bytes += array.nbytes
        return where

    def read(self, where: Where) -> NDArray[Any]:
        """The array that was written there; from any thread."""
        array = np.empty(where.size, where.dtype)
        rest, offset = _bytes(array), where.offset
        while rest:
            read = os.preadv(self._file.fileno(), [rest], offset)
            offset, rest = offset + read, rest[read:]
        return array

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _bytes(array: NDArray[Any]) -> memoryview:
    """The memory of an array, byte by byte."""
    return memoryview(array.view(np.uint8).data) if len(array) else memoryview(b"")
