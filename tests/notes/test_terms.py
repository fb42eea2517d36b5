"""Tokens of English and Chinese text and of hashtags, by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noterec.notes.terms import hashtag_tokens, note_tokens, singular, tokens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Two Cats, and a dog's bowl!", ["two", "cat", "and", "a", "dog", "s", "bowl"]),
        ("snake_case e-mail 3.5km", ["snake", "case", "e", "mail", "3", "5km"]),
        ("东京拉面", ["东京", "京拉", "拉面"]),
        ("去吃ramen吧", ["去吃", "ramen", "吧"]),
        ("ラーメン日記", ["ラー", "ーメ", "メン", "ン日", "日記"]),
        ("ＡＢＣ ﬁne", ["abc", "fine"]),
        ("Ünïcode ÉTÉ", ["ünïcode", "été"]),
        ("한국 여행", ["한국", "여행"]),
        ("", []),
        ("!!! ___ 🍜", []),
    ],
)
def test_tokens(text: str, expected: list[str]) -> None:
    assert tokens(text) == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("recipes", "recipe"),
        ("cities", "city"),
        ("boots", "boot"),
        ("bus", "bus"),
        ("glass", "glass"),
        ("virus", "virus"),
        ("shoes", "shoe"),
        ("gas", "gas"),
        ("churches", "churche"),
    ],
)
def test_plural_endings(word: str, expected: str) -> None:
    assert singular(word) == expected


def test_a_hashtag_is_its_parts_and_its_whole() -> None:
    assert hashtag_tokens("Deep-Learning_models") == ["deep", "learning", "model", "#deeplearningmodels"]
    assert hashtag_tokens("#ramen") == ["ramen", "#ramen"]
    assert hashtag_tokens("拉面") == ["拉面", "#拉面"]
    assert hashtag_tokens("##") == []


def test_a_note_is_all_its_parts() -> None:
    assert note_tokens("A", "b c", ["d-e", None, ""]) == ["a", "d", "e", "#de", "b", "c"]
    assert note_tokens(None, None, None) == []


@given(st.text())
def test_any_text_gives_clean_tokens(text: str) -> None:
    found = tokens(text)
    assert all(token and not any(c.isspace() for c in token) for token in found)
