"""An output folder that appears whole or not at all: it is filled beside its final name and renamed at the end."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from noterec import storage
from noterec.errors import ArtefactError, InputError
from noterec.notes.dataset import DATASET_FILE


@contextlib.contextmanager
def dataset_folder(
    out: str | os.PathLike[str], *, overwrite: bool = False, sources: tuple[Path, ...] = ()
) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its place when the block ends well.

    A process that is killed inside the block leaves `out` as it was, and a hidden `.NAME.*.tmp` folder to delete.

    Args:
        out: where the dataset will be.
        overwrite: replace a dataset that is there; nothing but a dataset of noterec is ever replaced.
        sources: files or folders that are being read; `out` may not contain one of them.

    Raises:
        InputError: `out` is a file, holds something else, holds a dataset and `overwrite` is off, or can't be written.
    """
    target = Path(os.path.abspath(storage.local(out)))  # noqa: PTH100 (resolve() would follow a link to its target)
    _check_free(target, overwrite)
    for source in sources:
        if source.resolve().is_relative_to(target.resolve()):
            raise InputError(f"{target}: the output would replace its own source {source}; give another output folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    except OSError as error:
        raise InputError(f"{target}: can't write there: {error.strerror or error}") from error
    try:
        mask = os.umask(0)
        os.umask(mask)
        aside.chmod(0o777 & ~mask)  # mkdtemp makes folders private; published ones follow the user's umask
        yield aside
        _check_free(target, overwrite)  # the work may have taken hours
        _swap(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _check_free(target: Path, overwrite: bool) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise InputError(f"{target}: is a file; expected the name of a new folder")
    if not any(target.iterdir()):
        return
    if not _is_dataset(target):
        raise InputError(f"{target}: exists, and is no dataset that noterec wrote; give another output folder")
    if not overwrite:
        raise InputError(
            f"{target}: holds a dataset already; give another output folder, or allow it to be overwritten"
        )


def _is_dataset(folder: Path) -> bool:
    try:
        record = storage.read_json(folder / DATASET_FILE)
    except (InputError, ArtefactError, OSError):
        return False
    return isinstance(record, dict) and record.get("format") == "noterec dataset"


def _swap(aside: Path, target: Path) -> None:
    try:
        if not target.exists():
            aside.rename(target)
            return
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
        target.rename(old / "dataset")
        try:
            aside.rename(target)
        except OSError:
            (old / "dataset").rename(target)
            raise
        finally:
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{target}: could not be put in place: {error.strerror or error}") from error
