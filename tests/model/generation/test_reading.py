"""A kept cache gives what the model's own forward gives, whatever stands beside a note and wherever one has looked."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from noterec.errors import ArtefactError, InputError
from noterec.model.encoder import NoteEncoder
from noterec.model.generation.reading import Reading
from tests.model.generation.conftest import ARCHITECTURES, Encoders, full_scores

CPU = torch.device("cpu")
LENGTHS = (40, 7, 23, 1)  # around Gemma 2's sliding window of 16
PATHS = [[9, 8, 7], [6], [12, 13, 14, 15, 16], [5, 5]]


def prompts(encoder: NoteEncoder) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(5, len(encoder.backbone.tokenizer), length) for length in LENGTHS]


@pytest.fixture(autouse=True)
def _no_gradient():  # type: ignore[no-untyped-def]
    with torch.inference_mode():
        yield


def close(found: torch.Tensor, expected: list[np.ndarray]) -> None:
    np.testing.assert_allclose(found.numpy(), np.stack(expected), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_are_those_of_a_full_forward(encoder_of: Encoders, architecture: str) -> None:
    encoder = encoder_of(architecture)
    given = prompts(encoder)
    reading = Reading.read(encoder.backbone, given, CPU)
    behind = [full_scores(encoder, ids) for ids in given]
    assert np.ptp(np.stack(behind), axis=0).max() > 0.1  # the notes matter
    close(reading.next, behind)
    beyond = [full_scores(encoder, [*ids, *path]) for ids, path in zip(given, PATHS, strict=True)]
    for _ in range(2):  # looking ahead leaves no trace
        close(reading.peek(PATHS), beyond)
    close(reading.next, behind)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_going_on_forking_and_forgetting(encoder_of: Encoders, architecture: str) -> None:
    encoder = encoder_of(architecture)
    given = prompts(encoder)
    reading = Reading.read(encoder.backbone, given, CPU)
    fork = reading.fork([2, 0, 2])
    written = [list(given[row]) for row in (2, 0, 2)]
    for tokens in ([5, 6, 7], [8, 9, 10]):
        fork.extend(torch.tensor(tokens))
        written = [[*ids, token] for ids, token in zip(written, tokens, strict=True)]
    close(fork.next, [full_scores(encoder, ids) for ids in written])
    fork.keep([2, 1])
    assert len(fork) == 2
    close(
        fork.peek([[11, 12], [13]]),
        [full_scores(encoder, [*written[2], 11, 12]), full_scores(encoder, [*written[1], 13])],
    )
    for _ in range(20):  # beyond the window
        fork.extend(torch.tensor([14, 15]))
    close(fork.next, [full_scores(encoder, written[2] + [14] * 20), full_scores(encoder, written[1] + [15] * 20)])
    close(reading.peek(PATHS), [full_scores(encoder, [*ids, *path]) for ids, path in zip(given, PATHS, strict=True)])


def test_a_window_is_a_window(encoder_of: Encoders) -> None:
    """Gemma's windowed layers don't read what is far back; the test above would pass without windows if they did."""
    encoder = encoder_of("gemma2")
    (ids, *_) = prompts(encoder)
    windowed = full_scores(encoder, ids)
    types = list(encoder.model.config.layer_types)
    assert "sliding_attention" in types
    encoder.model.config.layer_types = ["full_attention"] * len(types)
    try:
        assert np.abs(full_scores(encoder, ids) - windowed).max() > 1e-3
    finally:
        encoder.model.config.layer_types = types


def test_scores_that_are_none_are_named(encoder_of: Encoders) -> None:
    encoder = encoder_of("llama")
    head = encoder.model.get_output_embeddings().weight
    kept = head[3, 0].item()
    try:
        head.data[3, 0] = float("nan")
        with pytest.raises(ArtefactError, match="scores are not finite"):
            Reading.read(encoder.backbone, prompts(encoder), CPU)
    finally:
        head.data[3, 0] = kept


def test_a_model_with_a_running_state_is_refused(encoder_of: Encoders, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = encoder_of("llama")
    monkeypatch.setattr(type(encoder.model), "_is_stateful", True)
    with pytest.raises(InputError, match="keeps a running state"):
        Reading.read(encoder.backbone, prompts(encoder), CPU)
