"""Texts to answers: hashtags that a person could have typed, whatever a model wrote."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noterec.model.generation.answers import MAX_CHARACTERS, category_of, filled_up, hashtags_of, voted
from noterec.model.tasks import normal


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("cold brew, coffee,home", ["cold brew", "coffee", "home"]),
        ("#cold #brew #COLD", ["cold", "brew"]),
        ("手冲，咖啡、水温", ["手冲", "咖啡", "水温"]),
        ("coffee, Coffee ,  COFFEE,#coffee", ["coffee"]),
        ("cold  brew, Cold brew", ["cold brew"]),
        ("one\ntwo\r\nthree\u2028four", ["one", "two", "three", "four"]),
        ("👩‍👩‍👧, ☕️, 1984, C++", ["👩‍👩‍👧", "☕️", "1984", "C++"]),
        ("..., -, \u202eevil\u202c, a\x00b\x1b[31m", ["evil", "a b [31m"]),
        ("caf\ufffd, \ufffd", ["caf"]),
        (f"{'x' * MAX_CHARACTERS}, {'y' * (MAX_CHARACTERS + 1)}", ["x" * MAX_CHARACTERS]),
        ("", []),
        (" , ,, #", []),
        (", ".join(f"tag{n}" for n in range(200)), [f"tag{n}" for n in range(200)]),
    ],
)
def test_hashtags(text: str, tags: list[str]) -> None:
    assert hashtags_of(text, ended=True) == tags


def test_a_cut_off_answer_loses_its_last_hashtag() -> None:
    assert hashtags_of("coffee, home, cold br", ended=False) == ["coffee", "home"]
    assert hashtags_of("coffee, home,", ended=False) == ["coffee", "home"]
    assert hashtags_of("coffee", ended=False) == []


@given(st.text(max_size=60) | st.text("a#,，、 \n\x00\u202e😀", max_size=60))
def test_any_text_gives_clean_distinct_hashtags(text: str) -> None:
    tags = hashtags_of(text, ended=True)
    assert len({normal(tag) for tag in tags}) == len(tags)
    for tag in tags:
        assert tag == " ".join(tag.split())
        assert 0 < len(tag) <= MAX_CHARACTERS
        assert not set(tag) & set("#,，、\n\r")
        assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in tag)
        assert hashtags_of(tag, ended=True) == [tag]


@pytest.mark.parametrize(
    ("text", "category"),
    [
        ("Travel/Asia", "Travel/Asia"),
        ("\n \n Travel \nThe compression word", "Travel"),
        ("Food, drink", "Food, drink"),
        ("a\x00b", "a b"),
        (" \n", ""),
        ("", ""),
    ],
)
def test_a_category_is_the_first_line_that_says_anything(text: str, category: str) -> None:
    assert category_of(text) == category


def test_samples_fill_up_by_votes() -> None:
    drawn = [("Home", "tea"), ("tea", "Coffee"), ("mill",)]
    assert filled_up(["coffee"], drawn, 3) == ["coffee", "tea", "Home"]
    assert filled_up(["coffee"], drawn, 9) == ["coffee", "tea", "Home", "mill"]
    assert filled_up(["a", "b", "c"], drawn, 2) == ["a", "b"]


def test_samples_vote_and_the_first_answer_only_names_what_is_left() -> None:
    drawn = [("Tea", "home"), ("tea", "Coffee"), ("TEA", "coffee"), ("mill",)]
    assert list(voted(["coffee", "cup"], drawn, 9).items()) == [
        ("Tea", 0.75),
        ("coffee", 0.5),  # as the first answer spells it
        ("home", 0.25),
        ("mill", 0.25),
        ("cup", 0.0),
    ]
    assert list(voted(["cup"], drawn, 2)) == ["Tea", "Coffee"]
