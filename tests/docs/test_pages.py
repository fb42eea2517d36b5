"""Every command and every Python block of README.md and the pages is one that could run; `make test-docs` runs them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.docs import blocks, cli

PAGES = [pytest.param(path, id=blocks.name(path)) for path in blocks.pages()]
MAKEFILE = (blocks.REPOSITORY / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]*)(#[^)\s]*)?\)")


@pytest.mark.parametrize("page", PAGES)
def test_commands_parse(page: Path) -> None:
    problems = []
    for block in blocks.blocks(page):
        for command in block.commands():
            shell = subprocess.run(["bash", "-n", "-c", command.filled], capture_output=True, text=True, check=False)
            if shell.returncode:
                problems.append(f"{command.where}: {shell.stderr.strip()}")
            for program, *arguments in command.calls():
                problems += [f"{command.where}: {said}" for said in _complaints(program, arguments) if said]
    for mention in blocks.inline(page):
        if said := cli.complaint(mention.calls()[0][1:], lax=True):
            problems.append(f"{mention.where}: `{mention.text}`: {said}")
    assert problems == []


@pytest.mark.parametrize("page", PAGES)
def test_blocks_of_other_languages_parse(page: Path) -> None:
    for block in blocks.blocks(page):
        if block.language in ("python", "py"):
            compile(block.text, f"{block.page}:{block.line}", "exec")
        elif block.language in ("yaml", "yml"):
            yaml.safe_load(block.text)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: Path) -> None:
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    made = {"configuration.md", "cli.md", "api.md"}  # by docs/reference.py, when the site is built
    missing = [
        target
        for target, _ in LINK.findall(text)
        if target and "://" not in target and not target.startswith("mailto:")
        if not (page.parent / target).exists() and not (page.parent.name == "docs" and target in made)
    ]
    assert missing == []


def test_the_examples_of_the_help_pages_parse() -> None:
    problems = []
    for name, command, _ in cli.helps():
        example = "\n".join(
            line.strip().removesuffix("\\") + ("\\" if line.rstrip().endswith("\\") else "")
            for line in (command.help or "").splitlines()
        )
        lines = [line for line in example.replace("\\\n", " ").splitlines() if re.match(r"(\w+=\S+ )*noterec ", line)]
        assert lines, f"{name} has no example in its help"
        for line in lines:
            for program, *arguments in blocks.Command(name, 0, line).calls():
                if program == "noterec" and (said := cli.complaint(arguments)):
                    problems.append(f"{name}: {line}: {said}")
    assert problems == []


def _complaints(program: str, arguments: list[str]) -> list[str]:
    if program == "noterec":
        return [cli.complaint(arguments)]
    if program == "make":
        return [f"make has no target {word!r}" for word in arguments if "=" not in word and word not in TARGETS]
    if program == "python" and arguments and arguments[0].startswith(("benchmarks/", "docs/")):
        script = blocks.REPOSITORY / arguments[0]
        if not script.is_file():
            return [f"no script {arguments[0]}"]
        text = "".join(path.read_text(encoding="utf-8") for path in (script, *script.parent.glob("common*.py")))
        return [
            f"{arguments[0]} has no option {word}"
            for word in arguments
            if re.match("--[a-z]", word) and f'"{word}"' not in text
        ]
    return []
