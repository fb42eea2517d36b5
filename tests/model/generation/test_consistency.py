"""Self-consistency by hand: when sampling stops, who wins, what was saved."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noterec.model.generation.consistency import majority, more, saved_share, shares


def drawn(answers: str, **settings: int | bool) -> str:
    """The prefix of `answers` that is drawn."""
    count = 0
    while size := more(answers[:count], samples=len(answers), **settings):  # type: ignore[arg-type]
        count += size
    return answers[:count]


@pytest.mark.parametrize(
    ("answers", "window", "taken"),
    [
        ("aaaabbbbbbbb", 4, "aaaa"),  # the first window agrees
        ("abaabbbbaaaa", 4, "abaabbbb"),  # the second does
        ("abbbbaaaaaaa", 4, "abbbbaaaaaaa"),  # four in a row across windows don't count; the third window agrees
        ("abababababab", 4, "abababababab"),
        ("ababa", 2, "ababa"),  # a last, short window
        ("abb", 2, "abb"),
        ("aab", 2, "aa"),
        ("aa", 4, "aa"),  # fewer samples than a window
        ("", 4, ""),
    ],
)
def test_sampling_stops_at_the_first_window_of_one_mind(answers: str, window: int, taken: str) -> None:
    assert drawn(answers, window=window) == taken
    assert drawn(answers, window=window, early_stopping=False) == answers


def test_without_early_stopping_everything_is_asked_for_at_once() -> None:
    assert more("", samples=20, window=4, early_stopping=False) == 20
    assert more("a" * 20, samples=20, window=4, early_stopping=False) == 0
    assert [more("ab" * n, samples=7, window=4) for n in (0, 2, 4)] == [4, 3, 0]


@given(st.text("ab", max_size=30), st.integers(2, 6))
def test_what_is_drawn_is_a_prefix_in_windows(answers: str, window: int) -> None:
    taken = drawn(answers, window=window)
    windows = [taken[start : start + window] for start in range(0, len(taken), window)]
    assert taken == answers or (len(set(windows[-1])) == 1 and len(windows[-1]) == window)
    assert all(len(set(part)) > 1 for part, _ in pairwise(windows))


def test_the_vote() -> None:
    vote = majority(["b", "a", "a", "b", "c"])
    assert (vote.winner, vote.share) == ("b", 0.4)  # the first seen of two
    assert majority([()]).share == 1.0
    named = shares([["x", "y"], ["y", "z", "y"], ["z", "y"], []])
    assert list(named.items()) == [("y", 0.75), ("z", 0.5), ("x", 0.25)]


def test_the_saved_share() -> None:
    assert saved_share(8, 20) == pytest.approx(0.6)
    assert saved_share(20, 20) == 0
    assert saved_share(4, 0) is None
