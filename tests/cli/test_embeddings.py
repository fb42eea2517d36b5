"""`noterec embeddings` from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from noterec import cli, storage
from tests.embedding.outputs import many, run, write


@pytest.fixture
def used(tmp_path: Path) -> Path:
    notes = many(20)
    run(write(tmp_path / "d", notes), tmp_path / "e")
    run(write(tmp_path / "d", {**dict(list(notes.items())[1:]), "n001": "changed"}), tmp_path / "e")
    return tmp_path / "e"


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *given: Any) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["noterec", "embeddings", *map(str, given)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0), *capsys.readouterr()


def test_status_compact_and_repair(
    used: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = command(monkeypatch, capsys, "status", used)
    assert code == 0
    assert [line.split() for line in out.splitlines() if line.startswith(("rows", "compactable"))] == [
        ["rows", "22"],
        ["compactable", "0.1364"],
    ]
    code, out, _ = command(monkeypatch, capsys, "compact", used, "--shard-rows", 8, "--json")
    assert (code, json.loads(out)["rows_freed"], json.loads(out)["shards"]) == (0, 3, 3)
    file = storage.parquet_files(used)[0]
    file.write_bytes(b"PAR1")
    code, out, _ = command(monkeypatch, capsys, "status", used, "--deep")
    assert (code, file.name in out) == (0, True)
    code, out, _ = command(monkeypatch, capsys, "repair", used, "--json")
    assert (code, list(json.loads(out)["struck"])) == (0, [file.name])
    code, out, _ = command(monkeypatch, capsys, "status", used, "--json")
    assert (json.loads(out)["damage"], json.loads(out)["notes"]) == ({}, 11)
    assert (json.loads(out)["complete"], "struck out" in json.loads(out)["incomplete"]) == (False, True)
    assert "the next run over a snapshot" in command(monkeypatch, capsys, "repair", "--help")[1]


@pytest.mark.parametrize("name", ["status", "compact", "repair"])
def test_wrong_input_is_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = command(monkeypatch, capsys, name, tmp_path / "none")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "none: nothing there; expected the folder that `noterec embed`" in err


def test_help_loads_nothing_heavy_and_work_no_torch(used: Path) -> None:
    program = (
        "import sys\n"
        "sys.argv = ['noterec', 'embeddings', {}]\n"
        "from noterec.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    sys.stderr.write(','.join(sorted({{'torch', 'pyarrow', 'numpy'}} & set(sys.modules))))\n"
    )
    for given, heavy in ((["--help"], ""), (["status", str(used)], "numpy,pyarrow")):
        given_program = program.format(", ".join(map(repr, given)))
        done = subprocess.run([sys.executable, "-c", given_program], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, heavy)
