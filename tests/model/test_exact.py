"""Whatever stands beside a note, in whatever order and batch: its vector is that of Hugging Face's forward on it alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from noterec.config import PromptConfig
from noterec.model.encoder import NoteEncoder
from noterec.notes.note import Note, as_table
from tests import backbones

Folder = Callable[[str], Path]
TOLERANCE = 2e-5  # of unit vectors
LIMITS = PromptConfig(title_tokens=12, hashtags_tokens=12, content_tokens=40)

words = st.sampled_from(["cold", "brew", "手冲", "climbing", "</s>", "<bos>", '"}', "films", "\n", "\u202e", "é", "#"])
texts = st.lists(words, max_size=30).map(" ".join)
notes = st.lists(
    st.builds(Note, title=texts.map(lambda text: f"x{text}"), content=texts, hashtags=st.lists(words, max_size=3)),
    min_size=1,
    max_size=14,
)


@lru_cache
def encoders(folder: Path) -> tuple[NoteEncoder, NoteEncoder]:
    encoder = NoteEncoder.from_backbone(str(folder), prompt=LIMITS, device="cpu")
    return encoder, encoder.accelerated("fp32")


def alone(encoder: NoteEncoder, ids: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        states = encoder.backbone.trunk(input_ids=torch.from_numpy(ids)[None]).last_hidden_state[0]  # (T, H)
    state = states[-1] if encoder.backbone.kind == "causal" else states.mean(dim=0)
    return (state / state.norm()).numpy()


@pytest.mark.parametrize("architecture", backbones.ARCHITECTURES)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some=notes, budget=st.integers(64, 1000), seed=st.integers(0, 99))
def test_the_vector_of_a_note_is_its_own(
    backbone_folder: Folder, architecture: str, some: list[Note], budget: int, seed: int
) -> None:
    plain, fast = encoders(backbone_folder(architecture))
    inputs = plain.prepare(as_table(some))
    expected = np.stack([alone(plain, ids) for ids in inputs.tokens])
    order = np.random.default_rng(seed).permutation(len(some))
    for encoder in (plain, fast):
        found = np.empty_like(expected)
        for batch, part in encoder.run(inputs.take(order), batch_tokens=budget):
            found[order[batch]] = part
        np.testing.assert_allclose(found, expected, atol=TOLERANCE)


@pytest.mark.parametrize("architecture", backbones.ARCHITECTURES)
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_rounded_vector_does_not_depend_on_its_batch(
    backbone_folder: Folder, architecture: str, precision: str
) -> None:
    encoder = NoteEncoder.from_backbone(str(backbone_folder(architecture)), prompt=LIMITS, device="cpu")
    rounded = encoder.accelerated(precision)  # type: ignore[arg-type]
    some = [Note(title=f"n {i}", content="cold brew, films " * (i % 9)) for i in range(24)]
    whole = rounded.encode(some)
    for budget, rows in ((64, np.arange(24)), (300, np.arange(23, 3, -2)), (2048, np.array([5]))):
        found = rounded.encode([some[row] for row in rows], batch_tokens=budget)
        np.testing.assert_allclose(found, whole[rows], atol=1e-6)


def test_a_note_may_fill_all_positions_that_a_model_has(backbone_folder: Folder) -> None:
    """Widths are rounded up; behind the last learned position there is none."""
    folder = str(backbone_folder("gpt2"))
    around = NoteEncoder.from_backbone(folder, prompt=LIMITS, device="cpu").prompt.max_tokens - LIMITS.content_tokens
    limits = LIMITS.model_copy(update={"content_tokens": 512 - around})
    encoder = NoteEncoder.from_backbone(folder, prompt=limits, device="cpu")
    assert encoder.prompt.max_tokens == 512
    note = Note(title="t " * 60, content="w " * 600, hashtags=["h"] * 60)
    found = encoder.accelerated("bf16").encode([note])
    assert float((found * encoder.encode([note])).sum()) > 0.99
