"""The cache of states, as a table by content hash."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from noterec.embedding import states as module
from noterec.embedding.intake import cache_root
from noterec.embedding.states import StateCache
from noterec.model.encoder import NoteEncoder
from noterec.notes.note import as_table, content_hashes

NOTES = [{"title": f"note {i % 7} on coffee"} for i in range(20)]


@pytest.fixture(scope="module")
def encoder(backbone_folder: Callable[[str], Path]) -> NoteEncoder:
    return NoteEncoder.from_pretrained(backbone_folder("llama"), device="cpu")


def test_what_is_added_is_found_again_after_reopening(encoder: NoteEncoder, tmp_path: Path) -> None:
    cache = StateCache(tmp_path, encoder)
    random = np.random.default_rng(0)
    hashes = np.array([2**64 - 1, 5, 0, 77], dtype=np.uint64)
    values = random.standard_normal((4, 32)).astype(np.float32)
    cache.add(hashes[:2], values[:2])
    cache.add(hashes[2:], values[2:])
    cache.add(hashes[:0], values[:0])
    for opened in (cache, StateCache(tmp_path, encoder)):
        found, states = opened.lookup(np.array([77, 6, 2**64 - 1, 0, 5], dtype=np.uint64))
        assert found.tolist() == [True, False, True, True, True]
        np.testing.assert_array_equal(states[[0, 2, 3, 4]], values[[3, 0, 2, 1]])
        assert len(opened) == 4


def test_states_are_those_of_the_encoder_and_parts_are_kept(
    encoder: NoteEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART_NOTES", 3)
    table = as_table(NOTES)
    inputs, hashes = encoder.prepare(table), content_hashes(table)
    cache = StateCache(tmp_path, encoder)
    counted: list[int] = []
    states, found = cache.states_of(encoder, inputs, hashes, batch_tokens=300, advance=counted.append)
    assert (found, len(cache), sum(counted)) == (0, 7, 20)  # equal contents once
    np.testing.assert_allclose(encoder.project_states(states), encoder.encode(NOTES), atol=1e-5)
    assert len(list(tmp_path.rglob("*.parquet"))) == 3  # seven contents in parts of three
    again, found = StateCache(tmp_path, encoder).states_of(
        encoder, inputs, hashes, batch_tokens=300, advance=counted.append
    )
    assert found == 20
    np.testing.assert_array_equal(again, states)


def test_bfloat16_states_are_kept_apart(encoder: NoteEncoder, tmp_path: Path) -> None:
    StateCache(tmp_path, encoder).add(np.array([1], dtype=np.uint64), np.ones((1, 32), dtype=np.float32))
    assert len(StateCache(tmp_path, encoder, precision="bf16")) == 0


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTEREC_CACHE", "/somewhere")
    assert cache_root() == Path("/somewhere")
    monkeypatch.delenv("NOTEREC_CACHE")
    assert cache_root() == Path.home() / ".cache" / "noterec"
