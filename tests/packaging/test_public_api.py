"""The public names: what Python loads and what type checkers see are the same."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import noterec

INIT = Path(noterec.__file__)


def _shown_to_type_checkers() -> dict[str, str]:
    """name -> module below noterec, of the imports in `if TYPE_CHECKING`."""
    found = {}
    for statement in ast.parse(INIT.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            for inner in statement.body:
                assert isinstance(inner, ast.ImportFrom), ast.unparse(inner)
                assert inner.module is not None
                for alias in inner.names:
                    assert alias.asname is None, "a public name is shown under another one"
                    found[alias.name] = inner.module.removeprefix("noterec.")
    return found


def test_type_checkers_see_every_public_name_where_python_finds_it() -> None:
    assert _shown_to_type_checkers() == noterec._HOME


def test_all_lists_every_public_name_once() -> None:
    assert sorted(noterec.__all__) == sorted([*noterec._HOME, "__version__"])
    assert dir(noterec) == sorted(noterec.__all__)


def test_type_checkers_are_not_told_that_any_name_exists() -> None:
    """A module's `__getattr__` that type checkers see makes every misspelt name of type Any."""
    top_level = ast.parse(INIT.read_text(encoding="utf-8")).body
    assert not [item for item in top_level if isinstance(item, ast.FunctionDef) and item.name == "__getattr__"]


@pytest.mark.parametrize("name", sorted(noterec._HOME))
def test_every_public_name_says_what_it_is(name: str) -> None:
    value = getattr(noterec, name)
    assert (value.__doc__ or "").strip(), f"noterec.{name} has no docstring"
    assert value.__module__.startswith("noterec."), f"noterec.{name} is not of noterec: {value.__module__}"
