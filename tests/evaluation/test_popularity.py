"""Where the places of a ranking go, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from noterec.evaluation.popularity import Popularity
from noterec.ranking.metrics import Relevance

# Ten notes: note 9 is the most clicked, 7 and 8 tie behind it, five were never clicked.
CLICKS = np.array([0, 0, 0, 0, 0, 1, 2, 5, 5, 9])


def means(found: object) -> dict[str, float]:
    assert isinstance(found, dict)
    return {name: value["mean"] for name, value in found.items()}


def test_shares_by_hand() -> None:
    popularity = Popularity(CLICKS)
    assert popularity.least == [9, 9]  # one note is 1 % and 10 % of ten
    top = np.array([[9, 7, 0], [9, 5, -1]])
    found = popularity.of_shown(top, resamples=200, seed=0)
    assert means(found) == pytest.approx(
        # of five notes that were shown: 9 twice, 7, 5, 0
        {"top_1": 2 / 5, "top_10": 2 / 5, "unclicked": 1 / 5, "percentile": (0.95 + 0.8 + 0.25 + 0.95 + 0.55) / 5}
    )
    assert found is not None and found["top_1"]["n"] == 5
    assert found["top_1"]["low"] <= 2 / 5 <= found["top_1"]["high"]
    assert (found["top_1"]["low"], found["top_1"]["high"]) == (pytest.approx(1 / 3), pytest.approx(1 / 2))
    relevant = popularity.of_relevant(Relevance.from_lists([[0, 1], [9]]), resamples=200, seed=0)
    assert means(relevant) == pytest.approx(
        {"top_1": 1 / 3, "top_10": 1 / 3, "unclicked": 2 / 3, "percentile": (0.25 + 0.25 + 0.95) / 3}
    )


def test_ties_keep_the_lower_row_and_the_unclicked_never_count() -> None:
    clicks = np.zeros(30, dtype=np.int64)
    clicks[[4, 8, 12, 16]] = 3
    popularity = Popularity(clicks)
    shown = popularity.of_shown(np.array([[4], [8], [12], [16]]), resamples=100, seed=0)
    assert means(shown)["top_1"] == 1 / 4  # 4 alone
    assert means(shown)["top_10"] == 3 / 4  # 4, 8 and 12
    only = Popularity(np.array([0, 0, 7] + [0] * 97))
    assert only.least == [7, 7]
    assert means(only.of_shown(np.array([[2, 0]]), resamples=100, seed=0))["top_10"] == 1 / 2
    nothing = Popularity(np.zeros(5, dtype=np.int64))
    assert nothing.least == [0, 0]
    assert means(nothing.of_shown(np.array([[0]]), resamples=100, seed=0)) == {
        "top_1": 0, "top_10": 0, "unclicked": 1, "percentile": 0.5,
    }  # fmt: skip


def test_an_arm_that_shows_nothing_has_no_shares() -> None:
    assert Popularity(CLICKS).of_shown(np.full((3, 2), -1), resamples=100, seed=0) is None
    lone = Popularity(CLICKS).of_shown(np.array([[9], [-1], [-1]]), resamples=100, seed=0)
    assert means(lone)["top_1"] == 1
