"""`noterec split`: its options, and what it refuses before it writes anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from tests.engagement.logs import make_dataset, note_ids, random_events

Run = Callable[..., tuple[int, str, str]]  # tests/cli/conftest.py


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset of 30 notes, one created each day, and 60 people."""
    events = random_events(5, users=60, notes=30, events=3000, minutes=45_000, actions=("click",))
    path: Path = make_dataset(tmp_path / "mine", note_ids(30), events, created=list(range(30)))
    return path


def tables(folder: Path) -> dict[str, pl.DataFrame]:
    return {path.name: pl.read_parquet(path) for path in sorted(folder.glob("*.parquet"))}


@pytest.mark.parametrize("by", ["random", "time", "user"])
def test_a_split_does_not_depend_on_memory(noterec: Run, folder: Path, tmp_path: Path, by: str) -> None:
    assert noterec("split", folder, "--out", tmp_path / "s", "--by", by)[0] == 0
    assert noterec("split", folder, "--out", tmp_path / "t", "--by", by, "--memory", "1MB")[0] == 0
    few, many = tables(tmp_path / "s"), tables(tmp_path / "t")
    assert len(few) == len(many) == 5
    assert all(few[name].equals(many[name]) for name in few)


def test_the_share_of_people_held_out_is_a_choice(noterec: Run, folder: Path, tmp_path: Path) -> None:
    found = {}
    for users in (0.3, 0.6):
        code, out, _ = noterec("split", folder, "--out", tmp_path / "s", "--by", "user", "--users", users, "--json")
        assert code == 0
        found[users] = json.loads(out)
        assert sum(found[users][f"{part}_people"] for part in ("train", "valid", "test")) == 60
    assert found[0.3]["train_people"] > found[0.6]["train_people"] > 0
    assert found[0.3]["train_events"] > found[0.6]["train_events"]
    assert "train people" in noterec("split", folder, "--out", tmp_path / "s", "--by", "user")[1]
    assert "train people" not in noterec("split", folder, "--out", tmp_path / "s")[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--users", "0.3"], "give by=user too, or leave users out"),
        (["--users", "0.5"], "--users 0.5 is for --by user, and by is random"),
        (["--by", "time", "--users", "0.5"], "and by is time"),
        (["--by", "user", "--users", "1"], "users: "),
        (["--by", "user", "--users", "1e-9"], "hold out more people, or bring a longer log"),
        (["--by", "people"], "'random', 'time' or 'user' (given: 'people')"),
        (["--memory", "5"], "memory is 5 bytes; expected 1MB or more"),
        (["--memory", "1 gigabyte"], "expected a size with its unit, such as 500MB or 2GB (given: '1 gigabyte')"),
        (["--cold", "0.9", "--valid", "0.2"], "cold + valid must be below 1"),
        (["--cold", "0.001"], "30 notes give 0 test, 3 valid and 27 train notes"),
        (["--min-support", "1000"], "none of the 6 test notes has a relevant note"),
        (["--by", "time", "--set", "test_from=2024-01-20"], "belong together; give both, or neither"),
        (["--out", "mine"], "holds the dataset"),
        (["--out", "."], "holds the dataset"),
        (["--out", "full"], "exists and is no earlier split; give another output folder"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line_and_leaves_nothing(
    noterec: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = noterec("split", folder, *([] if "--out" in arguments else ["--out", "s"]), *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failed_split_leaves_the_earlier_one(noterec: Run, folder: Path, tmp_path: Path) -> None:
    noterec("split", folder, "--out", tmp_path / "s")
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    assert noterec("split", folder, "--out", tmp_path / "s", "--min-support", 1000)[0] == 2
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()} == before


def test_moments_choose_the_new_notes(noterec: Run, folder: Path, tmp_path: Path) -> None:
    moments = ["--set", "valid_from=2024-01-20", "--set", "test_from=2024-01-25T12:00:00Z"]
    out = noterec("split", folder, "--out", tmp_path / "s", "--by", "time", *moments, "--json")[1]
    counts = json.loads(out)
    assert (counts["train_notes"], counts["valid_notes"], counts["test_notes"]) == (19, 6, 5)
