"""What a release says of itself: one version everywhere, and files that the distributions must not forget."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import yaml
from setuptools import find_packages

import noterec

ROOT = Path(__file__).parents[2]


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_one_version_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert _project()["project"]["version"] == noterec.__version__ == citation["version"]


def test_every_file_of_the_package_is_packed() -> None:
    package = ROOT / "noterec"
    patterns = _project()["tool"]["setuptools"]["package-data"]["noterec"]
    packed = {path for pattern in patterns for path in package.glob(pattern)}
    there = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path for path in there if path.suffix != ".py"} == packed


def test_every_module_is_in_a_package() -> None:
    found = {ROOT.joinpath(*name.split(".")) for name in find_packages(str(ROOT), include=["noterec*"])}
    assert {path.parent for path in (ROOT / "noterec").rglob("*.py")} == found


def test_every_import_is_a_declared_dependency() -> None:
    """Of the imports that run whenever their module is loaded, so that no extra is needed for what the core promises."""
    project = _project()["project"]
    core = _modules(project["dependencies"]) | {"markupsafe"}  # of jinja2
    serving = (
        core | _modules(project["optional-dependencies"]["serve"]) | {"starlette", "h11"}
    )  # of fastapi, of uvicorn
    for path in sorted((ROOT / "noterec").rglob("*.py")):
        allowed = serving if "serving" in path.parts else core
        for name in _imported_at_once(path):
            assert name in allowed, f"{path.relative_to(ROOT)} imports {name}, which no dependency declares"


def _modules(requirements: list[str]) -> set[str]:
    """What distributions are imported as."""
    names = [re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0].lower() for line in requirements]
    return {{"pillow": "PIL", "pyyaml": "yaml"}.get(name, name.replace("-", "_")) for name in names}


def _imported_at_once(path: Path) -> set[str]:
    """Top-level packages that a module's own statements import, but for noterec and the standard library."""
    found: set[str] = set()
    for item in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(item, ast.Import):
            found |= {alias.name.split(".")[0] for alias in item.names}
        elif isinstance(item, ast.ImportFrom) and item.module and not item.level:
            found.add(item.module.split(".")[0])
    return {name for name in found if name != "noterec" and name not in sys.stdlib_module_names}
