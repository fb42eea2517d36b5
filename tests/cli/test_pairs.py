"""`noterec pairs`: what it refuses before it counts, what it leaves behind, and what hostile notes may do to a terminal."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from noterec import storage
from noterec.cli.description import one_line
from tests.engagement.logs import make_dataset, note_ids, random_events

Run = Callable[..., tuple[int, str, str]]  # tests/cli/conftest.py


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset; temporary files go to `temporary` beside it."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    events = random_events(3, users=40, notes=20, events=600, actions=("click",))
    path: Path = make_dataset(tmp_path / "mine", note_ids(20), events, category=["Food/Tea"] * 10 + ["Art"] * 10)
    return path


def test_describe_mines_writes_and_describes(noterec: Run, folder: Path, tmp_path: Path) -> None:
    code, out, _ = noterec("pairs", folder, "--out", tmp_path / "p.parquet", "--describe", "--top", 4)
    assert code == 0
    assert "weighting cosine; min support 2; top 4" in out
    assert out.index("pairs below support") < out.index("in both directions") < out.index("some of them")
    assert pl.read_parquet(tmp_path / "p.parquet")["rank"].max() == 4
    assert noterec("pairs", folder, "--pairs", tmp_path / "p.parquet", "--describe")[1] == out.partition("\n\n")[2]


def test_without_out_nothing_stays(noterec: Run, folder: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    code, out, _ = noterec("pairs", folder, "--describe", "--weighting", "lift", "--sample", 2, "--seed", 7)
    assert code == 0
    assert "weighting lift" in out
    assert sorted(tmp_path.rglob("*")) == before
    code, _, err = noterec("pairs", folder, "--describe", "--min-support", 99)
    assert (code, sorted(tmp_path.rglob("*"))) == (2, before)
    assert "no related pair is left" in err


def test_json_has_both_parts(noterec: Run, folder: Path, tmp_path: Path) -> None:
    record = json.loads(noterec("pairs", folder, "--out", tmp_path / "p", "--describe", "--json", "--sample", 2)[1])
    assert record["mined"]["pairs"] == record["description"]["pairs"] == pl.read_parquet(tmp_path / "p").height
    assert len(record["description"]["sample"]) == 2
    assert set(record["description"]["scores"]["by_rank"]["all"]) == {"0.01", "0.1", "0.5", "0.9", "0.99"}
    record = json.loads(noterec("pairs", folder, "--pairs", tmp_path / "p", "--describe", "--json")[1])
    assert record["mined"] is None
    assert "settings" in record["description"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--out is missing; say where the pairs go, or add --describe"),
        (["--pairs", "p.parquet"], "--pairs was given without --describe"),
        (
            ["--pairs", "p", "--describe", "--top", "3", "--window-days", "7"],
            "given with --top, --window-days; it describes",
        ),
        (["--pairs", "p", "--describe", "--out", "q"], "given with --out; it describes pairs that are there"),
        (["--pairs", "p", "--describe", "--set", "top=3"], "given with --set"),
        (["--out", "p", "--sample", "3"], "--sample and --seed choose the notes that --describe shows"),
        (["--pairs", "NOWHERE", "--describe"], "NOWHERE: no such file"),
        (["--describe", "--sample", "-1"], "--sample -1; expected 0 or more"),
        (["--describe", "--seed", "-1"], "--seed -1; expected 0 or more"),
        (["--describe", "--memory", "much"], "expected a size with its unit, such as 500MB or 2GB (given: 'much')"),
        (["--describe", "--memory", "-5GB"], "expected a size with its unit"),
        (["--describe", "--memory", "10"], "memory is 10 bytes; expected 1MB or more"),
        (["--describe", "--set", "memory=1000"], "memory is 1,000 bytes; expected 1MB or more"),
        (["--describe", "--lower", "5", "--upper", "1"], "lower is 5.0 and upper is 1.0, which no score is between"),
        (["--describe", "--lower", "nan"], "lower is nan"),
        (["--out", "."], "--out . is a folder; expected the file to write"),
        (["--out", "mine/notes/a.parquet"], "is among the tables of the dataset; give another place"),
        (["--out", "mine/engagement/deep/p.parquet"], "is among the tables of the dataset"),
        (["--describe", "--half-life-days", "0"], "half_life_days: "),
        (["--describe", "--per-category-pair", "0"], "per_category_pair: "),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line_and_changes_nothing(
    noterec: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = noterec("pairs", folder, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_is_counted_for_a_balance_without_categories(
    noterec: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("noterec.engagement.pairs.mine", None)
    folder = make_dataset(tmp_path / "d", note_ids(8), random_events(3, users=20, notes=8))
    code, _, err = noterec("pairs", folder, "--out", tmp_path / "p", "--per-category-pair", 5)
    assert code == 2
    assert "none of 8 notes has a category; expected" in err


def test_a_state_gives_what_a_count_gives(noterec: Run, folder: Path, tmp_path: Path) -> None:
    state = ["--state", tmp_path / "state"]
    code, out, _ = noterec("pairs", folder, "--out", tmp_path / "p", *state, "--window-days", 7, "--describe")
    assert code == 0
    assert out.index("events entered") < out.index("in both directions")
    again = json.loads(noterec("pairs", folder, "--out", tmp_path / "q", *state, "--window-days", 7, "--json")[1])
    assert (again["events_entered"], again["events_read"], again["anew"]) == (0, 0, "")
    other = json.loads(noterec("pairs", folder, "--out", tmp_path / "r", *state, "--weighting", "npmi", "--json")[1])
    assert "settings" in other["anew"]
    noterec("pairs", folder, "--out", tmp_path / "alone", "--window-days", 7)
    alone = pl.read_parquet(tmp_path / "alone")
    assert pl.read_parquet(tmp_path / "p").equals(alone)
    assert pl.read_parquet(tmp_path / "q").equals(alone)
    assert not pl.read_parquet(tmp_path / "r").equals(alone)


def test_what_a_state_cannot_keep_is_said(noterec: Run, folder: Path, tmp_path: Path) -> None:
    code, out, err = noterec(
        "pairs", folder, "--out", tmp_path / "p", "--state", tmp_path / "s", "--weighting", "swing"
    )
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "leave the state out" in err
    assert not (tmp_path / "p").exists()


HOSTILE = "[red]x[/red]\x1b[31m\x1b]0;owned\x07\r\n\t\u202egnp.exe\u2028 \x9b2J" + "界" * 80


def test_hostile_notes_stay_text(noterec: Run, tmp_path: Path) -> None:
    ids = [f"{i}\x1b[2J" for i in range(8)]
    events = random_events(3, users=20, notes=8, events=200, actions=("click",))
    events = [(user, ids[int(note[1:])], minute) for user, note, minute, _ in events]
    folder = make_dataset(
        tmp_path / "d", ids, events, title=[HOSTILE] * 8, category=[HOSTILE] * 8, author_id=[HOSTILE] * 8
    )
    code, out, _ = noterec("pairs", folder, "--out", tmp_path / "p", "--describe")
    assert code == 0
    assert "[red]x[/red]" in out
    assert "…" in out
    table = pl.read_parquet(tmp_path / "p").to_arrow()
    storage.write_table(table, tmp_path / "q", origin={"config": {"weighting": HOSTILE, "top": [HOSTILE]}})
    out += noterec("pairs", folder, "--pairs", tmp_path / "q", "--describe")[1]
    assert {character for character in out if not character.isprintable()} == {"\n"}
    assert max(map(len, out.split("\n"))) < 140


def test_hostile_notes_are_whole_in_json_and_harm_no_terminal(noterec: Run, tmp_path: Path) -> None:
    events = random_events(3, users=20, notes=8, events=200, actions=("click",))
    folder = make_dataset(tmp_path / "d", note_ids(8), events, title=[HOSTILE + "\x7f\n"] * 8)
    out = noterec("pairs", folder, "--describe", "--json", "--sample", 1)[1]
    assert json.loads(out)["description"]["sample"][0]["title"] == HOSTILE + "\x7f\n"
    assert "界" in out
    assert not set("\x1b\x07\u202e\x9b\x7f\r\t") & set(out)


def test_a_text_takes_as_many_cells_as_it_may() -> None:
    assert one_line("tea", 5) == "tea  "
    assert one_line("teapot", 5) == "teap…"
    assert one_line("界界界", 5) == "界界…"
    assert one_line("界界界", 6) == "界界界"
    assert one_line(" a\n b ", 5) == "a b  "


def test_a_text_that_ends_in_a_wide_character_is_marked_as_cut() -> None:
    assert one_line("a界界", 4) == "a界…"
    assert one_line("", 3) == "   "


def test_a_text_of_marks_without_width_is_cut() -> None:
    assert one_line("e" + "\u0301" * 100_000, 5) == "e" + "\u0301" * 19 + "   …"
    assert len(one_line("👩\u200d👧" * 10_000, 5)) <= 21


@pytest.mark.parametrize("settings", [{"config": "text"}, {"config": None}, {}, {"config": {"top": {"a": 1}}}])
def test_an_origin_of_another_maker_harms_nothing(noterec: Run, folder: Path, tmp_path: Path, settings: Any) -> None:
    noterec("pairs", folder, "--out", tmp_path / "p")
    storage.write_table(pl.read_parquet(tmp_path / "p").to_arrow(), tmp_path / "q", origin=settings)
    code, out, _ = noterec("pairs", folder, "--pairs", tmp_path / "q", "--describe", "--sample", 0)
    assert code == 0
    assert "some of them" not in out
