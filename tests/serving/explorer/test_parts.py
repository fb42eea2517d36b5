"""What pages are made of: addresses, outlines, reasons, figures."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noterec.errors import InputError
from noterec.evaluation.report import load_report
from noterec.index.search import Index
from noterec.serving.explorer.cards import Shelf, age, reasons, split_text
from noterec.serving.explorer.catalogue import Card, Catalogue
from noterec.serving.explorer.figures import _axis_end, _ticks, figures
from noterec.serving.explorer.lookup import rows_of, search
from noterec.serving.explorer.outline import COLOURS, outline
from noterec.serving.explorer.related import Related
from noterec.serving.explorer.state import Choice


@given(
    st.builds(
        Choice,
        note=st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
        k=st.integers(1, 96),
        candidates=st.sampled_from(["all", "new"]),
        category=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        author=st.booleans(),
        reposts=st.booleans(),
        diversity=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    )
)
def test_an_address_says_all_of_a_choice(choice: Choice) -> None:
    parts = urlsplit(choice.url("/map"))
    assert parts.path == "/map" and not parts.fragment
    assert Choice.read(dict(parse_qsl(parts.query, keep_blank_values=True))) == choice


def test_what_is_usual_is_left_out_of_an_address() -> None:
    assert Choice().url() == "/"
    assert Choice(note="a b", k=12).url() == "/?note=a+b"
    assert Choice(note="a").url(note="b", author=True) == "/?note=b&author=1"
    assert not Choice(note="a").narrowed and Choice(k=6).narrowed


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"k": "0"}, "k=0; expected a whole number from 1 to 96"),
        ({"k": "97"}, "k=97"),
        ({"k": "1.5"}, "whole number"),
        ({"diversity": "nan"}, "diversity=nan; expected a number from 0 to 1"),
        ({"diversity": "2"}, "diversity=2"),
        ({"candidates": "old"}, "candidates=old; expected all or new"),
        ({"author": "yes"}, "author=yes; expected 0 or 1"),
        ({"note": "x" * 513}, "note: has 513 characters"),
    ],
)
def test_an_address_that_makes_no_sense_is_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Choice.read(given)


def test_an_outline(world: Path) -> None:
    found = outline(Index.open(world / "index"))
    assert found.count == 46
    assert found.now == dt.datetime(2026, 4, 9, tzinfo=dt.UTC)
    assert found.new is not None and found.new.sum() == 7  # of the last 7 days
    assert found.has_authors
    assert found.tops == [("Food", 20), ("Sport", 10), ("Travel", 10), ("<u>Food<", 1)]
    assert found.categories[:3] == [("Food", 20), ("Food/Baking", 10), ("Food/Coffee", 10)]
    assert [found.colour(name) for name in ("Food/Tea", "Travel", "Nowhere", None)] == [0, 2, COLOURS, COLOURS]


def shelf(world: Path, catalogue: Catalogue | None, related: Related | None) -> Shelf:
    index = Index.open(world / "index")
    return Shelf(index, outline(index), catalogue, related)


def said(found: Any) -> list[tuple[str, str]]:
    return [(reason.text, reason.kind) for reason in found.reasons]


def test_the_reasons_beside_a_neighbour(world: Path, catalogue: Catalogue, related: Related) -> None:
    whole = shelf(world, catalogue, related)
    rows = rows_of(whole.index, ["n00", "n04", "n35", "n36"])
    of = whole.show("n00", rows["n00"]).card
    close = whole.neighbour(of, "n04", rows["n04"], 1, 0.87654)
    assert said(close) == [
        ("shares #coffee #daily", "shared"),
        ("2 people engaged with both", "people"),
        ("same category", "category"),
        ("35 days old", "fact"),
        ("shown 12 times", "fact"),
    ]
    assert close.reasons[1].detail == "number 1 among its mined pairs"
    assert (close.rank, close.share) == (1, 87.7)
    new = whole.neighbour(of, "n35", rows["n35"], 2, -0.2)
    assert said(new) == [
        ("shares #daily", "shared"),
        ("nobody engaged with both yet", "alone"),
        ("same author", "author"),
        ("new, 4 days old", "new"),
        ("shown 105 times", "fact"),
    ]
    assert new.share == 0
    tried = whole.neighbour(Card("", hashtags=("#COFFEE",)), "n36", rows["n36"], 1, 0.5)
    assert said(tried) == [("shares #coffee", "shared"), ("new, 3 days old", "new"), ("shown 108 times", "fact")]


def test_without_a_catalogue_the_index_says_what_it_keeps(world: Path) -> None:
    bare = shelf(world, None, None)
    shown = bare.show("n01", rows_of(bare.index, ["n01"])["n01"])
    assert (shown.card.title, shown.card.category, shown.card.exposure) == ("A baking day, number 1", "Food/Baking", 3)
    assert shown.preview == "" and shown.pictures == []
    assert [note_id for note_id, _ in search(bare, "BAKING number 1", 3)] == ["n01", "n13", "n17"]
    assert [note_id for note_id, _ in search(bare, "n0", 2)] == ["n00", "n01"]
    assert search(bare, " ", 2) == search(bare, "nothing like it", 2) == []


def test_pairs_alone_say_whether_not_how_many(world: Path) -> None:
    pairs = Related.open(world / "pairs.parquet")
    note, other = Card("n00"), shelf(world, None, None)
    texts = [
        reasons(note, other.show(i, row), pairs)[0].text for i, row in rows_of(other.index, ["n04", "n08"]).items()
    ]
    assert texts == ["related by engagement, number 1 among its mined pairs", "not among its mined pairs"]


def test_text_is_split_between_words() -> None:
    assert split_text("short") == ("short", "")
    text = "word " * 200
    first, rest = split_text(text)
    assert first + rest == text and rest.startswith(" word") and 220 <= len(first) <= 280
    assert [len(part) for part in split_text("x" * 1000)] == [280, 720]


@pytest.mark.parametrize(
    ("days", "words"),
    [(0.5, "less than a day"), (1, "1 day"), (59, "59 days"), (61, "2 months"), (365, "11 months"), (800, "2 years")],
)
def test_ages(days: float, words: str) -> None:
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    assert age(now - dt.timedelta(days=days), now) == words
    assert age(None, now) == age(now, None) == ""


def test_figures(report: Path) -> None:
    found = figures(load_report(report))
    main, warm = found.directions
    assert (found.dataset, found.notes, main.counts["queries"]) == ("mine", 1234, 50)
    assert main.columns == ["recall@10", "recall@50", "coverage@10"]
    bm25, mine = main.rows["bm25"], main.rows["<i>mine</i>"]
    assert mine[0] is not None and (mine[0].mean, mine[0].interval, mine[0].best) == ("0.4000", "0.3500 – 0.4500", True)
    assert bm25[0] is not None and not bm25[0].best
    assert bm25[2] is None  # not measured
    assert mine[2] is not None and (mine[2].interval, mine[2].best) == ("", False)
    assert [(dot.x, dot.low, dot.high, dot.at) for dot in main.dots["<i>mine</i>"]] == [
        (50, 43.75, 56.25, 0),
        (87.5, 75, 100, 1),
    ]
    assert main.ticks == [(0, "0"), (25, "0.2"), (50, "0.4"), (75, "0.6"), (100, "0.8")]
    assert (main.verdicts, main.reference) == ({"<i>mine</i>": "better"}, "bm25")
    assert list(warm.rows) == ["bm25"] and warm.reference == ""


@given(st.floats(1e-4, 1))
def test_an_axis_ends_at_a_tick_beyond_all_values(highest: float) -> None:
    top = _axis_end([{"mean": highest / 2, "high": highest}])
    ticks = _ticks(top)
    assert highest <= top * (1 + 1e-9) and top <= 2 * highest * (1 + 1e-9)
    assert 3 <= len(ticks) <= 7 and ticks[0] == (0, "0") and ticks[-1][0] == 100
    assert float(ticks[-1][1]) == pytest.approx(top, rel=1e-6)
    assert _axis_end([{"mean": 0.0, "high": None}]) == _axis_end([]) == 1
