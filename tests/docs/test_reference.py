"""The pages that are made from the program have all of it."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType

import pytest

import noterec
from noterec import config
from noterec.cli.settings import STAGES
from tests.docs import blocks, cli


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", blocks.REPOSITORY / "docs" / "reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_is_on_the_page_of_python_once_and_leads_to_it(reference: ModuleType) -> None:
    page = reference.api()
    shown = re.findall(r"^::: (noterec\.\S+)$", page, re.MULTILINE)
    assert sorted(re.findall(r"heading: noterec\.(\w+)$", page, re.MULTILINE)) == sorted(
        set(noterec.__all__) - {"__version__"}
    )
    for path in shown:
        module, _, name = path.rpartition(".")
        assert getattr(importlib.import_module(module), name) is getattr(noterec, name)
    titles = [line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")]
    assert titles == [title for title in dict.fromkeys(reference.TITLES.values()) if title in titles]


def test_every_setting_is_on_the_page_of_settings(reference: ModuleType) -> None:
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", reference.configuration(), re.MULTILINE | re.DOTALL))
    assert list(sections) == list(STAGES)

    def keys(kind: type[config.Settings], prefix: str = "") -> list[str]:
        found = []
        for name, field in kind.model_fields.items():
            default = field.get_default(call_default_factory=True)
            found.append(prefix + name)
            if isinstance(default, config.Settings):
                found += keys(type(default), f"{prefix}{name}.")
        return found

    for stage, text in sections.items():
        kind = getattr(config, f"{stage.capitalize()}Config")
        assert re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE) == keys(kind)
    assert "| `at` | `[10, 50, 100]` | cut-offs K of recall and hit |" in sections["evaluate"]


def test_every_command_is_on_the_page_of_commands(reference: ModuleType) -> None:
    page = reference.cli()
    headings = re.findall(r"^## (.*)$", page, re.MULTILINE)
    assert set(headings) >= {name for name, _, _ in cli.helps()}
    assert len(headings) == len(set(headings))
    assert headings.index("noterec demo") < headings.index("noterec evaluate")
    assert "--dry-run" in page.split("## noterec embed\n")[1].split("## ")[0]
