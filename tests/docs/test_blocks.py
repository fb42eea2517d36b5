"""Which text of a page is a command, and which commands the program would take."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import blocks, cli


def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> list[blocks.Block]:
    monkeypatch.setattr(blocks, "REPOSITORY", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(text)
    return blocks.blocks(page)


def commands(text: str, language: str = "") -> list[str]:
    return [command.text for command in blocks.Block("page.md", 10, language, "", text).commands()]


def test_the_blocks_of_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = '# A\n```\nmake demo\n```\n- item\n\n  ```sh\n  ls\n  ```\n````md\n```\n````\n```python title="a.py"\nx = 1\n```\n'
    assert [(b.line, b.language, b.title, b.text) for b in found(tmp_path, monkeypatch, text)] == [
        (3, "", "", "make demo"),
        (8, "sh", "", "ls"),
        (11, "md", "", "```"),
        (14, "python", "a.py", "x = 1"),
    ]
    with pytest.raises(ValueError, match="never closed"):
        found(tmp_path, monkeypatch, "```sh\nls\n")


def test_comments_and_continued_lines_make_one_command() -> None:
    text = "# first\nnoterec a --b 'x # y' \\\n   --c  # why\n\nNAME=v noterec d\npip install \"a\n b\""
    assert commands(text) == ["noterec a --b 'x # y'    --c", "NAME=v noterec d", 'pip install "a\n b"']
    lines = [c.line for c in blocks.Block("page.md", 10, "sh", "", text).commands()]
    assert lines == [11, 14, 15]


def test_output_is_no_command() -> None:
    assert commands("arm   recall@10\nnoterec  .456") == []
    assert commands('notes ─► "engagement" it\'s') == []
    assert commands("noterec embed", language="text") == []
    assert commands("anything at all", language="sh") == ["anything at all"]
    assert blocks.Block("page.md", 1, "sh", "run.sh", "ls").is_commands is False
    with pytest.raises(ValueError, match=r"page\.md:11: 'what it said'"):
        commands("noterec doctor\nwhat it said")


def test_the_programs_of_a_command() -> None:
    command = blocks.Command(
        "p", 1, "A=1 noterec settings train 2> log > a.yaml && curl 'http://x?a=1&b=2' | B=$(cat t) jq -r '.[0] | .x'"
    )
    assert command.calls() == [
        ["noterec", "settings", "train"],
        ["curl", "http://x?a=1&b=2"],
        ["cat", "t"],
        ["jq", "-r", ".[0] | .x"],
    ]
    assert blocks.Command("p", 1, "git clone <this repository> && cd noterec").calls() == [
        ["git", "clone", "PLACEHOLDER"],
        ["cd", "noterec"],
    ]
    assert blocks.Command("p", 1, "noterec x --set hosts='[a b]' \"c|d\"").calls() == [
        ["noterec", "x", "--set", "hosts=[a b]", "c|d"]
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("embed data --model m --out e", ""),
        ("embed data --modl m --out e", "No such option: --modl"),
        ("embed data --model m", "Missing"),
        ("embeddings status e", ""),
        ("embeddings status", "Missing"),
        ("nothing", "No such command"),
        ("index e --notes n --out i", ""),
        ("index add i fresh --notes n", ""),
        ("query i --note-id n -k five", "Invalid value"),
        ("pairs a b --out p", "unexpected extra argument"),
        ("embed --help", ""),
        ("", "expects a command"),
    ],
)
def test_what_the_program_would_say(line: str, said: str) -> None:
    complaint = cli.complaint(line.split())
    assert said in complaint
    assert bool(complaint) == bool(said)


def test_text_may_leave_arguments_out_but_not_invent_any() -> None:
    assert cli.complaint(["evaluate", "--arm"], lax=True) == ""
    assert cli.complaint(["embed"], lax=True) == ""
    assert cli.complaint([], lax=True) == ""
    assert "No such option" in cli.complaint(["embed", "--nope"], lax=True)
