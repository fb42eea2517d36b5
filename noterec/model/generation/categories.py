"""The closed set of categories: the model's own, a list, a file of names, or those of a dataset."""

from __future__ import annotations

import os
from collections.abc import Sequence

from noterec import storage
from noterec.errors import InputError
from noterec.model.prompts import sound
from noterec.notes.dataset import Dataset

Categories = Sequence[str] | str | os.PathLike[str]


def closed_set(given: Categories | None, own: Sequence[str]) -> list[str]:
    """The categories that are meant, ascending, each once.

    Args:
        given: names; a text file with one a line; a JSON file with a list of them; a dataset's folder, for all categories of its
            notes; or None for the model's own.
        own: those that the model was trained to write.

    Raises:
        InputError: none are given and the model has none, or there are none where they should be.
    """
    if given is None:
        if not own:
            raise InputError(
                "the model has no categories of its own; give --categories: a text or JSON file of names, or a dataset's folder"
                " with a category column"
            )
        return sorted(set(own))
    if isinstance(given, str | os.PathLike):
        names, source = _read(given), os.fspath(given)
    else:
        names, source = given, "categories"
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise InputError(f"{source}: {wrong[0]!r} is no name of a category; expected a list of strings")
    found = sorted({sound(name).strip() for name in names} - {""})
    if not found:
        raise InputError(f"{source}: holds no category; expected at least one name")
    return found


def _read(given: str | os.PathLike[str]) -> Sequence[str]:
    path = storage.local(given)
    if path.is_dir():
        return Dataset(path).notes(["category"])["category"].drop_nulls().to_list()
    if path.suffix == ".json":
        names = storage.read_json(path)
        if not isinstance(names, list):
            raise InputError(f"{path}: expected a JSON list of names, found {type(names).__name__}")
        return names
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: no readable text ({error}); expected a text file with one category a line, a JSON list, or a dataset"
        ) from error
