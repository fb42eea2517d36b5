"""What the pages show: their fenced blocks, which of them are commands, and the commands one by one.

A block marked sh or bash holds commands. One without a mark holds commands if its first line begins with a program that is known
here, and then all of its lines must; else it is output or a drawing. A block with a title is a file: ```python title="make.py".
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PROGRAMS = frozenset(
    {
        "noterec",
        "make",
        "python",
        "python3",
        "pip",
        "curl",
        "git",
        "docker",
        "crontab",
        "systemctl",
        "dagster",
        "mkdocs",
        "cp",
        "cat",
        "ls",
        "mkdir",
        "rm",
        "journalctl",
        "uv",
    }
)
# Their commands made the figures beside them, on data that isn't part of this repository: they are read, not run.
RECORDS = frozenset({"docs/benchmarks.md", "docs/experiments.md"})

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<info>[^`\n]*)$")
_INLINE = re.compile(r"(?<!`)`(noterec [^`\n]+)`(?!`)")
_TITLE = re.compile(r'title="([^"]+)"')
_PLACEHOLDER = re.compile(r"<[a-z][a-z -]*>")  # <your folder>
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_TOKEN = re.compile(
    r"""\s*(?:(?P<operator>[|&;()<>]+)|(?P<word>(?:'[^']*'|"(?:\\.|[^"\\])*"|\\.|[^\s|&;()<>'"\\])+))""", re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: the page's path in the repository.
        line: where its text begins, counted from 1.
        language: what stands behind the fence, "" where nothing does.
        title: the file that it is, or "".
    """

    page: str
    line: int
    language: str
    title: str
    text: str

    @property
    def is_commands(self) -> bool:
        """Whether a shell is meant to read this block."""
        if self.title or self.language not in ("", "sh", "bash"):
            return False
        return bool(self.language) or next((_program(line) in PROGRAMS for line, _ in self._logical()), False)

    def commands(self) -> Iterator[Command]:
        """Its commands, one a logical line.

        Raises:
            ValueError: an unmarked block mixes commands with other lines; mark it sh, or split it.
        """
        if not self.is_commands:
            return
        for text, line in self._logical():
            if not self.language and _program(text) not in PROGRAMS:
                raise ValueError(f"{self.page}:{line}: {text!r} stands among commands and begins with no known program")
            yield Command(self.page, line, text)

    def _logical(self) -> Iterator[tuple[str, int]]:
        """Lines without comments, those that end in a backslash joined with the next, or that close a quotation."""
        held, began = "", 0
        for number, line in enumerate(self.text.splitlines(), self.line):
            began = began or number
            held += line
            if held.endswith("\\"):
                held = held[:-1].rstrip() + " "
                continue
            try:
                words = shlex.split(held, comments=True)
            except ValueError:  # a quotation goes on
                held += "\n"
                continue
            if words:
                yield _without_comment(held).strip(), began
            held, began = "", 0
        if held.strip():
            yield held.strip(), began


@dataclass(frozen=True)
class Command:
    """A command line of a page."""

    page: str
    line: int
    text: str
    where: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "where", f"{self.page}:{self.line}")

    @property
    def filled(self) -> str:
        """Its text, with a word in place of each <thing to fill in>."""
        return _PLACEHOLDER.sub("PLACEHOLDER", self.text)

    def calls(self) -> list[list[str]]:
        """The programs that it calls, each with its arguments; redirections and assignments left out."""
        found: list[list[str]] = [[]]
        into = False  # the next word is a file
        for token in _TOKEN.finditer(self.filled):
            operator, word = token["operator"], token["word"]
            if operator and set(operator) & set("<>"):
                into = True
                if found[-1] and found[-1][-1].isdigit():
                    found[-1].pop()  # 2> file
            elif operator:
                into = False
                found.append([])
            elif into:
                into = False
            elif found[-1] or not _ASSIGNMENT.match(word):
                found[-1] += shlex.split(word)
        return [words for words in found if words]


def pages() -> list[Path]:
    """Every page that shows commands: README.md and its like at the root and in folders, and docs/."""
    root = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
    folders = [REPOSITORY / name / "README.md" for name in ("data", "docker", "pipelines")]
    return [path for path in (*root, *folders, *sorted((REPOSITORY / "docs").glob("*.md"))) if path.is_file()]


def name(path: Path) -> str:
    """A page's path in the repository."""
    return path.relative_to(REPOSITORY).as_posix()


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a page, in their order.

    Raises:
        ValueError: a fence that is never closed.
    """
    found: list[Block] = []
    opened: tuple[str, str, str] | None = None
    lines: list[str] = []
    began = 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        match = _FENCE.match(line)
        if opened is None:
            if match:
                opened, lines, began = (match["indent"], match["fence"], match["info"].strip()), [], number + 1
        elif match and match["fence"] == opened[1] and not match["info"].strip():
            indent, _, info = opened
            title = _TITLE.search(info)
            language = "" if info.startswith("title=") else info.split(" ")[0]
            text = "\n".join(line.removeprefix(indent) for line in lines)
            found.append(Block(name(path), began, language, title[1] if title else "", text))
            opened = None
        else:
            lines.append(line)
    if opened is not None:
        raise ValueError(f"{path}:{began}: a block that is never closed")
    return found


def inline(path: Path) -> list[Command]:
    """`noterec ...` in running text: it may leave arguments out."""
    found = []
    fenced = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if _FENCE.match(line):
            fenced = not fenced
        elif not fenced:
            found += [Command(name(path), number, text) for text in _INLINE.findall(line)]
    return found


def _program(line: str) -> str:
    """The first word that isn't an assignment."""
    return next((word for word in line.split() if not _ASSIGNMENT.match(word)), "")


def _without_comment(line: str) -> str:
    """A line without what follows a # that begins a word outside of quotations."""
    quote = ""
    for at, character in enumerate(line):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character == "#" and (at == 0 or line[at - 1].isspace()):
            return line[:at]
    return line
