"""BM25 in a bundle: against another library, note by note, and from a file that is mapped."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noterec.errors import ArtefactError
from noterec.evaluation.baselines import Bm25
from noterec.index.lexical import LEXICAL_FILE, Lexical, _mapped, build_lexical, write_counts
from noterec.index.words import K1, B, WordCounter
from noterec.notes.dataset import Dataset
from noterec.notes.terms import note_tokens

from .conftest import write_dataset

NOTES: dict[str, list[Any]] = {
    "note_id": ["a", "b", "c", "d", "e"],
    "title": ["cat cat dog", "dog", None, "猫咖啡", "Cats' map"],
    "content": ["a cat", None, None, "cold brew", "dog dog dog"],
    "hashtags": [["pets"], [], None, ["coffee"], ["pets", None]],
}


@pytest.fixture
def lexical(tmp_path: Path) -> Lexical:
    write_dataset(tmp_path / "d", one={k: v[:2] for k, v in NOTES.items()}, two={k: v[2:] for k, v in NOTES.items()})
    build_lexical(Dataset(tmp_path / "d"), pl.Series(["a", "b", "c", "d", "e", "gone"]), tmp_path)
    return Lexical.open(tmp_path)


def tokens(row: int) -> list[str]:
    return note_tokens(NOTES["title"][row], NOTES["content"][row], NOTES["hashtags"][row]) if row < 5 else []


def test_scores_are_those_of_bm25s(lexical: Lexical) -> None:
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)
    vocabulary: dict[str, int] = {}
    ids = [[vocabulary.setdefault(token, len(vocabulary)) for token in tokens(row)] for row in range(6)]
    other = bm25s.BM25(k1=K1, b=B, method="lucene", backend="numpy")
    other.index((ids, vocabulary), create_empty_token=False, show_progress=False)
    for word, number in vocabulary.items():
        scores = lexical.scores(lexical.terms([word]))
        np.testing.assert_allclose(scores, other.get_scores_from_ids([number]), rtol=1e-6)
        assert (scores > 0).any()


def test_a_score_by_hand(tmp_path: Path) -> None:
    counter = WordCounter()
    counter.add([0, 1], [("cat cat dog", None, None), ("dog", None, None)])
    write_counts(counter.finish(3), tmp_path)  # the third note has no words
    lexical = Lexical.open(tmp_path)
    mean = 4 / 3
    cat = math.log(1 + 2.5 / 1.5) * 2 / (2 + 1.5 * (0.25 + 0.75 * 3 / mean))
    dog = [math.log(1 + 1.5 / 2.5) / (1 + 1.5 * (0.25 + 0.75 * length / mean)) for length in (3, 1)]
    np.testing.assert_allclose(lexical.scores(lexical.terms(["cat"])), [cat, 0, 0], rtol=1e-6)
    # A word that the query says twice weighs 1 + ln 2.
    twice = lexical.scores(lexical.terms(["dog", "dog", "cat", "unknown"]))
    np.testing.assert_allclose(twice, [cat + (1 + math.log(2)) * dog[0], (1 + math.log(2)) * dog[1], 0], rtol=1e-6)


def test_a_note_as_a_query_has_its_own_words(lexical: Lexical) -> None:
    for row in range(6):
        own, typed = lexical.note_terms(row), lexical.terms(tokens(row))
        assert own.words.tolist() == typed.words.tolist()
        assert own.weights.tolist() == typed.weights.tolist()
        assert len(own) == len(set(tokens(row)))
    assert len(lexical.note_terms(6)) == len(lexical.note_terms(-1)) == 0  # added since, or nowhere


def test_the_evaluation_counts_alike(lexical: Lexical) -> None:
    columns = [pl.Series(NOTES[name] + [None], dtype=kind) for name, kind in KINDS.items()]
    arm = Bm25(*columns)
    scores = arm.scorer(None)(np.arange(6))
    for row in range(6):
        np.testing.assert_allclose(scores[row], lexical.scores(lexical.note_terms(row)), rtol=1e-5)
    assert arm.has_words.tolist() == [True, True, False, True, True, False]


KINDS = {"title": pl.String, "content": pl.String, "hashtags": pl.List(pl.String)}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet="ab猫é🦊 \n'\"", max_size=12), min_size=1, max_size=8), st.text(max_size=10))
def test_words_are_found_whatever_their_letters(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], q: str
) -> None:
    folder = tmp_path_factory.mktemp("l")
    counter = WordCounter()
    counter.add(range(len(texts)), [(text, None, None) for text in texts])
    write_counts(counter.finish(len(texts)), folder)
    lexical = Lexical.open(folder)
    found = [set(note_tokens(text, None, None)) for text in texts]
    for word in {*set().union(*found), *note_tokens(q, None, None), "b猫", "\ud800", ""}:
        expected = [word in words for words in found]
        assert (lexical.scores(lexical.terms([word])) > 0).tolist() == expected


def test_nothing_is_read_until_it_is_asked_for(lexical: Lexical) -> None:
    arrays = [value for value in vars(lexical).values() if isinstance(value, np.ndarray)]
    assert len(arrays) == 8
    for array in arrays:
        base: Any = array
        while isinstance(base.base, np.ndarray):
            base = base.base
        assert isinstance(base, np.memmap)
        assert not array.flags.writeable


def test_the_file_is_what_the_safetensors_library_reads(lexical: Lexical, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    mapped, read = _mapped(tmp_path / LEXICAL_FILE), load_file(tmp_path / LEXICAL_FILE)
    assert mapped.keys() == read.keys()
    for name, array in mapped.items():
        assert array.dtype == read[name].dtype
        assert array.flags.aligned
        np.testing.assert_array_equal(array, read[name])


def test_a_catalogue_without_a_word(tmp_path: Path) -> None:
    write_counts(WordCounter().finish(2), tmp_path)
    lexical = Lexical.open(tmp_path)
    assert lexical.scores(lexical.terms(["cat"])).tolist() == [0, 0]
    assert len(lexical.note_terms(0)) == 0


def test_a_damaged_file_is_refused(lexical: Lexical, tmp_path: Path) -> None:
    file = tmp_path / LEXICAL_FILE
    whole = file.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    del header["note_word"]
    fewer = json.dumps(header).encode()
    for data in (
        b"",
        whole[:100],
        whole[:-8],
        b"\xff" * 16,
        len(fewer).to_bytes(8, "little") + fewer + whole[8 + length :],
    ):
        file.write_bytes(data)
        with pytest.raises(ArtefactError, match="build the index again"):
            Lexical.open(tmp_path)
    file.unlink()
    with pytest.raises(ArtefactError, match="missing or damaged"):
        Lexical.open(tmp_path)
