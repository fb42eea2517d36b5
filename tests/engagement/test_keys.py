"""Ids as keys and codes: the same everywhere and always, and never mistaken."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from noterec.engagement.counting import keys as module
from noterec.engagement.counting.keys import UNKNOWN, DatasetNotes, NoteCodes, keys, mix
from noterec.errors import InputError


def test_a_key_never_changes():
    """Kept states and other machines depend on these numbers."""
    found = keys(pa.array(["a", "b", "", "小红书"]))
    assert found.tolist() == [198367012849983736, 4482684837372322821, 17665956581633026203, 1704561077300247334]
    assert mix(found[:2], found[1:3]).tolist() == [1824189679868997785, 9829300934722893936]


def test_keys_of_slices_chunks_and_types_are_those_of_the_text():
    whole = keys(pa.array(["x", "", "a", "b"]))
    pieces = pa.chunked_array([pa.array(["-", "x", ""])[1:], pa.array([], pa.string()), pa.array(["a", "b"])])
    assert (keys(pieces) == whole).all()
    assert (keys(pl.Series(["x", "", "a", "b"]).to_arrow()) == whole).all()
    assert (keys(pa.array(["x", "", "a", "b"], pa.large_string())) == whole).all()


def test_codes_follow_the_ids_and_unknown_notes_keep_apart():
    notes = DatasetNotes(pl.Series(["c", "a", "b", "a"]))
    assert notes.ids.to_list() == ["a", "b", "c"]
    found = notes.find(keys(pa.array(["c", "zz", "a", "yy", "zz"])))
    assert found[[0, 2]].tolist() == [2, 0]
    assert (found[[1, 3, 4]] >= UNKNOWN).all()
    assert found[1] == found[4] != found[3]


def test_a_hundred_thousand_notes_are_all_found():
    ids = pa.array([f"n{i}" for i in range(100_000)])
    notes = NoteCodes(keys(ids))
    order = np.random.default_rng(0).permutation(100_000)
    assert (notes.find(keys(ids)[order]) == order).all()


def test_two_notes_of_one_key_are_refused(monkeypatch):
    monkeypatch.setattr(module, "keys", lambda ids: np.array([7, 8, 7], dtype=np.uint64))
    with pytest.raises(InputError, match=r"the notes 'c' and another share a 64-bit key"):
        DatasetNotes(pl.Series(["a", "b", "c"]))
