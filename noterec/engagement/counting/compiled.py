"""How the inner loops of counting are compiled: by numba, without the interpreter's lock, kept on disk for the next process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

from noterec.progress import say
from noterec.storage import value_hash

F = TypeVar("F", bound=Callable[..., object])

# numba keeps a compiled function until its own file changes, though it contains what it calls from other files. So its name on
# disk says of which state of this folder it is.
_SOURCES = value_hash(
    sorted([file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in Path(__file__).parent.glob("*.py"))
)


def compiled(function: F) -> F:
    """Compile a function at its first call; it may then run in several threads at once.

    The result is kept beside the module, or in the user's cache (NUMBA_CACHE_DIR moves it). Where neither can be written, as
    in a read-only container, every process compiles again, which takes seconds.
    """
    function.__qualname__ += f"_{_SOURCES}"
    try:
        return cast(F, numba.njit(function, nogil=True, cache=True))
    except RuntimeError:  # numba found no folder that it may write
        return cast(F, numba.njit(function, nogil=True))


def say_if_first(function: Callable[..., object]) -> None:
    """Say that the loops have to be compiled, where no process has left them on disk: work then begins with a pause."""
    loops = cast(Any, function)
    kept = loops._cache.cache_path  # None where nothing can be kept
    if kept is None or not any(Path(kept).glob(f"*.{loops.py_func.__qualname__}-*.nbi")):
        say("first run: the counting loops are compiled, which takes some seconds")


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C be Ctrl-C also where it comes while compiled code runs, which makes a SystemError of it."""
    try:
        yield
    except SystemError as error:
        cause: BaseException | None = error
        while isinstance(cause, SystemError):  # one for each call that it passes on its way out
            cause = cause.__cause__
        if isinstance(cause, KeyboardInterrupt):
            raise cause from None
        raise
