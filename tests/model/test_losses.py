"""Both losses against numbers worked out by hand and against a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from noterec.errors import BatchError
from noterec.model.losses import contrastive_loss, graph_loss


def unit(rows: list[list[float]]) -> torch.Tensor:
    """Rows divided by their norms."""
    return torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float64), dim=1)


# Pair 0 is rows 0 and 1, pair 1 is rows 2 and 3; in the plane the cosines are easily read.
ROWS = [[1.0, 0.0], [3.0, 4.0], [0.0, 1.0], [-4.0, 3.0]]
COSINES = [
    [1.0, 0.6, 0.0, -0.8],
    [0.6, 1.0, 0.8, 0.0],
    [0.0, 0.8, 1.0, 0.6],
    [-0.8, 0.0, 0.6, 1.0],
]
SCALE = torch.tensor(2.0)


def test_two_pairs_by_hand() -> None:
    e = math.exp
    by_hand = (
        -(
            math.log(e(1.2) / (e(1.2) + e(0.0) + e(-1.6)))
            + math.log(e(1.2) / (e(1.2) + e(1.6) + e(0.0)))
            + math.log(e(1.2) / (e(0.0) + e(1.6) + e(1.2)))
            + math.log(e(1.2) / (e(-1.6) + e(0.0) + e(1.2)))
        )
        / 4
    )
    loss = contrastive_loss(unit(ROWS), SCALE, torch.zeros(4, 4, dtype=torch.bool))
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(by_hand, abs=1e-6)


def test_known_relations_are_no_negatives() -> None:
    related = torch.zeros(4, 4, dtype=torch.bool)
    related[1, 2] = related[2, 1] = True  # the nearest wrong pair is known to be related
    e = math.exp
    by_hand = (
        -(
            math.log(e(1.2) / (e(1.2) + e(0.0) + e(-1.6)))
            + math.log(e(1.2) / (e(1.2) + e(0.0)))
            + math.log(e(1.2) / (e(0.0) + e(1.2)))
            + math.log(e(1.2) / (e(-1.6) + e(0.0) + e(1.2)))
        )
        / 4
    )
    assert float(contrastive_loss(unit(ROWS), SCALE, related)) == pytest.approx(by_hand, abs=1e-6)


def test_the_same_note_twice_is_no_negative_of_itself() -> None:
    rows = unit([ROWS[0], ROWS[1], ROWS[0], ROWS[3]])  # rows 0 and 2 are one note
    related = torch.zeros(4, 4, dtype=torch.bool)
    related[0, 2] = related[2, 0] = True
    leaning = contrastive_loss(rows, torch.tensor(50.0), related)
    assert float(contrastive_loss(rows, torch.tensor(50.0), torch.zeros_like(related))) > float(leaning)
    e = math.exp
    first = -math.log(e(30.0) / (e(30.0) + e(-40.0)))  # cos(0, 1) = .6 against cos(0, 3) = -.8
    partner = -math.log(e(30.0) / (e(30.0) + e(30.0) + e(0.0)))  # row 1 sees the note twice
    third = -math.log(e(-40.0) / (e(-40.0) + e(30.0)))
    fourth = -math.log(e(-40.0) / (e(-40.0) + e(-40.0) + e(0.0)))
    assert float(leaning) == pytest.approx((first + partner + third + fourth) / 4, rel=1e-6)


def test_the_positive_is_never_masked() -> None:
    everything = torch.ones(4, 4, dtype=torch.bool)
    assert float(contrastive_loss(unit(ROWS), SCALE, everything)) == 0.0  # the positive alone is left: log 1


@pytest.mark.parametrize("rows", [0, 2, 3, 5])
def test_too_few_or_odd_rows_are_refused(rows: int) -> None:
    with pytest.raises(BatchError, match=f"batch of {rows} notes"):
        contrastive_loss(torch.ones(rows, 3), SCALE, torch.zeros(rows, rows, dtype=torch.bool))


def test_graph_loss_by_hand() -> None:
    weights = torch.zeros(4, 4)
    weights[0, 1], weights[0, 3] = 3.0, 1.0  # three quarters and one quarter of the target
    weights[2, 1] = 0.5  # a single positive: all of it, whatever its weight
    weights[2, 2] = 9.0  # the diagonal counts as nothing
    e = math.exp
    zero = e(1.2) + e(0.0) + e(-1.6)
    two = e(0.0) + e(1.6) + e(1.2)
    by_hand = (-(0.75 * math.log(e(1.2) / zero) + 0.25 * math.log(e(-1.6) / zero)) - math.log(e(1.6) / two)) / 2
    assert float(graph_loss(unit(ROWS), SCALE, weights)) == pytest.approx(by_hand, abs=1e-6)


def test_what_is_the_same_is_neither_positive_nor_negative() -> None:
    weights = torch.zeros(4, 4)
    weights[0, 1], weights[0, 3] = 3.0, 1.0
    same = torch.zeros(4, 4, dtype=torch.bool)
    same[0, 3] = same[3, 0] = True
    e = math.exp
    by_hand = -math.log(e(1.2) / (e(1.2) + e(0.0)))  # row 3 is gone from target and from the others alike
    assert float(graph_loss(unit(ROWS), SCALE, weights, same)) == pytest.approx(by_hand, abs=1e-6)


def test_graph_loss_leaves_its_weights_alone() -> None:
    weights = torch.ones(4, 4)
    graph_loss(unit(ROWS), SCALE, weights)
    assert torch.equal(weights, torch.ones(4, 4))


def test_a_block_without_relations_is_refused() -> None:
    with pytest.raises(BatchError, match="no two of the 4 notes"):
        graph_loss(unit(ROWS), SCALE, torch.eye(4))


@settings(max_examples=25, deadline=None)
@given(pairs=st.integers(2, 6), seed=st.integers(0, 2**16))
def test_one_positive_each_makes_the_losses_equal_in_value_and_gradient(pairs: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(2 * pairs, 5, generator=random), dim=1)
    partner = torch.arange(2 * pairs) ^ 1
    weights = torch.zeros(2 * pairs, 2 * pairs).scatter(1, partner[:, None], 1.0)
    gradients = []
    for loss in (
        lambda x: contrastive_loss(x, SCALE, torch.zeros(2 * pairs, 2 * pairs, dtype=torch.bool)),
        lambda x: graph_loss(x, SCALE, weights),
    ):
        x = rows.clone().requires_grad_()
        value = loss(x)
        value.backward()
        gradients.append((float(value.detach()), x.grad))
    assert gradients[0][0] == pytest.approx(gradients[1][0], abs=1e-5)
    torch.testing.assert_close(gradients[0][1], gradients[1][1], atol=1e-5, rtol=1e-4)


@settings(max_examples=25, deadline=None)
@given(pairs=st.integers(2, 5), seed=st.integers(0, 2**16), share=st.floats(0, 1))
def test_contrastive_loss_against_a_loop(pairs: int, seed: int, share: float) -> None:
    random = np.random.default_rng(seed)
    rows = random.standard_normal((2 * pairs, 4))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    related = random.random((2 * pairs, 2 * pairs)) < share
    losses = []
    for i in range(2 * pairs):
        positive = i ^ 1
        others = [j for j in range(2 * pairs) if j != i and (j == positive or not related[i, j])]
        shares = np.exp([3.0 * rows[i] @ rows[j] for j in others])
        losses.append(-np.log(shares[others.index(positive)] / shares.sum()))
    loss = contrastive_loss(torch.from_numpy(rows), torch.tensor(3.0), torch.from_numpy(related))
    assert float(loss) == pytest.approx(np.mean(losses), abs=1e-5)


def test_gradients_stay_finite_where_all_but_the_positive_are_masked() -> None:
    rows = unit(ROWS).float().requires_grad_()
    contrastive_loss(rows, torch.tensor(100.0), torch.ones(4, 4, dtype=torch.bool)).backward()
    graph_loss(rows, torch.tensor(100.0), torch.ones(4, 4)).backward()
    assert bool(torch.isfinite(rows.grad).all())
