"""Free answers against the plainest loop there is: one note, the whole text again for every token."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from noterec.model.encoder import NoteEncoder
from noterec.model.generation.decoding import Limits, Written, explore, write
from noterec.model.generation.reading import Reading
from noterec.model.generation.search import Knowledge
from noterec.model.generation.tree import PrefixTree
from tests.model.generation.conftest import ARCHITECTURES, Encoders, full_scores
from tests.model.generation.test_reading import prompts

CPU = torch.device("cpu")


def limits(encoder: NoteEncoder, **given: object) -> Limits:
    settings = dict(
        max_tokens=9, end_ids=frozenset(), vocabulary=len(encoder.backbone.tokenizer), enough=lambda _: False
    )
    return Limits(**{**settings, **given})  # type: ignore[arg-type]


def plainly(
    encoder: NoteEncoder, ids: np.ndarray, until: Limits, random: np.random.Generator | None, temperature: float
) -> list[int]:
    """An answer token by token."""
    answer: list[int] = []
    while len(answer) < until.max_tokens and not until.enough(answer):
        scores = full_scores(encoder, [*ids, *answer])[: until.vocabulary]
        if random is None:
            token = int(scores.argmax())
        else:
            shares = np.exp((scores - scores.max()) / temperature)
            token = int(np.searchsorted(np.cumsum(shares / shares.sum()), random.random(), side="right"))
        if token in until.end_ids:
            break
        answer.append(token)
    return answer


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_answers_are_those_of_the_plain_loop(encoder_of: Encoders, architecture: str) -> None:
    encoder = encoder_of(architecture)
    given = prompts(encoder)
    end = plainly(encoder, given[1], limits(encoder), None, 1.0)[2]  # what the second note writes third ends answers
    until = limits(encoder, end_ids=frozenset([end]), enough=lambda ids: len(ids) == 7 and ids[0] % 2 == 0)
    rows = [0, 1, 2, 3, 2, 0, 1]  # more answers than prompts

    def randoms() -> list[np.random.Generator]:
        return [np.random.default_rng([5, number]) for number in range(len(rows))]

    with torch.inference_mode():
        reading = Reading.read(encoder.backbone, given, CPU)
        greedy = write(reading, rows, until)
        drawn = write(reading, rows, until, randoms=randoms(), temperature=0.8)
    for found, sources in ((greedy, [None] * len(rows)), (drawn, randoms())):
        for row, random, written in zip(rows, sources, found, strict=True):
            assert written.ids == plainly(encoder, given[row], until, random, 0.8)
            assert written.ended == (len(written.ids) < 9 and not until.enough(written.ids))
    assert greedy[1].ended
    assert drawn[0].ids != drawn[5].ids  # two samples of one note


def test_an_answer_may_be_empty(encoder_of: Encoders) -> None:
    encoder = encoder_of("qwen3")
    everything = limits(encoder, end_ids=frozenset(range(10_000)))
    with torch.inference_mode():
        reading = Reading.read(encoder.backbone, prompts(encoder), CPU)
        assert write(reading, [0, 1], everything) == [Written([], True)] * 2


def test_ids_without_text_are_never_written(encoder_of: Encoders) -> None:
    encoder = encoder_of("tied")
    assert encoder.model.config.vocab_size > len(encoder.backbone.tokenizer)
    with torch.inference_mode():
        reading = Reading.read(encoder.backbone, prompts(encoder), CPU)
        reading.next[:, len(encoder.backbone.tokenizer) :] = 1e3
        found = write(reading, [0, 1, 2, 3], limits(encoder, max_tokens=1))
    assert all(max(written.ids) < len(encoder.backbone.tokenizer) for written in found)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_searches_see_the_models_own_scores(encoder_of: Encoders, architecture: str) -> None:
    encoder = encoder_of(architecture)
    given = prompts(encoder)
    answers = [(5, 6, 0), (5, 6, 7, 0), (5, 9, 0), (8, 0), (8, 8, 8, 0)]
    for shared in ((), (11, 12)):  # ids that all categories begin with are read with the first decision
        tree = PrefixTree(list("abcde"), [(*shared, *ids) for ids in answers])
        with torch.inference_mode():
            reading = Reading.read(encoder.backbone, given, CPU)
            found = explore(reading, tree, [Knowledge(tree).best(5 if row else 1) for row in range(len(given))])
        for ids, ranked in zip(given, found, strict=True):
            whole = {}
            for category, spelled in enumerate(answers):
                whole[category] = 1.0
                for depth, token in enumerate(spelled):
                    after = {a[depth] for a in answers if a[:depth] == spelled[:depth]}
                    scores = full_scores(encoder, [*ids, *shared, *spelled[:depth]])
                    shares = {t: np.exp(scores[t] - scores[list(after)].max()) for t in after}
                    whole[category] *= shares[token] / sum(shares.values())
            assert sum(whole.values()) == pytest.approx(1)
            assert [n for n, _ in ranked] == sorted(whole, key=lambda n: -whole[n])[: len(ranked)]
            np.testing.assert_allclose([p for _, p in ranked], [whole[n] for n, _ in ranked], rtol=1e-3, atol=1e-6)
