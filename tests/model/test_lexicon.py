"""TF-IDF by hand, and a lexicon that survives its file."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np

from noterec.model.lexicon import Lexicon
from noterec.model.prompts import Text

NOTES: list[Text] = [
    ("cold brew", ["coffee"], "cold cold night"),
    ("hot brew", [], "night"),
    ("rope", ["coffee"], "cold"),
]


def test_words_of_two_notes_or_more_by_hand() -> None:
    lexicon = Lexicon.of(NOTES, size=100)
    assert not {"hot", "rope"} & set(lexicon.words)  # in one note only
    assert {"brew", "cold", "night"} <= set(lexicon.words)
    idf = dict(zip(lexicon.words, lexicon.idf, strict=True))
    for word in ("brew", "cold", "night"):
        assert math.isclose(idf[word], math.log((1 + 3) / (1 + 2)) + 1, rel_tol=1e-6)


def test_vectors_by_hand() -> None:
    lexicon = Lexicon(["brew", "cold", "night"], np.array([1.0, 2.0, 3.0], dtype=np.float32))
    matrix = lexicon.vectors([NOTES[0], ("nothing known", [], ""), ("Night! NIGHT", [], "")])
    # brew once, cold three times, night once; (1 + ln tf) idf
    first = np.array([1.0, (1 + math.log(3)) * 2.0, 3.0])
    expected = [first / np.linalg.norm(first), [0, 0, 0], [0, 0, 1]]
    np.testing.assert_allclose(matrix.toarray(), expected, atol=1e-6)
    assert (matrix.shape, matrix.dtype) == ((3, 3), np.float32)


def test_the_most_common_words_stay_and_ties_go_by_spelling() -> None:
    notes: list[Text] = [("zebra apple melon", [], ""), ("zebra apple melon", [], ""), ("zebra", [], "")]
    assert Lexicon.of(notes, size=2).words == ["apple", "zebra"]


def test_a_lexicon_survives_its_file(tmp_path: Path) -> None:
    lexicon = Lexicon.of([("手冲咖啡 cold\u2028", ["tag"], ""), ("手冲咖啡 cold", ["tag"], "")], size=100)
    lexicon.save(tmp_path / "lexicon.json")
    again = Lexicon.load(tmp_path / "lexicon.json")
    assert again.words == lexicon.words
    assert again.words
    np.testing.assert_array_equal(again.idf, lexicon.idf)
    assert again.idf.dtype == np.float32


def test_no_words_at_all() -> None:
    lexicon = Lexicon.of([("one", [], "")], size=10)
    assert len(lexicon) == 0
    assert lexicon.vectors(NOTES).shape == (3, 0)
    assert Lexicon.of(NOTES, size=5).vectors([]).shape[0] == 0


def test_megabytes_are_cut() -> None:
    lexicon = Lexicon.of(NOTES, size=10)
    started = time.perf_counter()
    lexicon.vectors([("cold " * 200_000, ["night"] * 200_000, "brew " * 200_000)])
    assert time.perf_counter() - started < 1.0
