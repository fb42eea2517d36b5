"""The losses against numbers worked out by hand and against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from noterec.errors import BatchError
from noterec.model.losses import contrastive_loss, generation_loss, graph_loss, joint_loss, matryoshka_loss


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


NONE = torch.zeros(4, 4, dtype=torch.bool)


def test_mined_negatives_count_against_every_anchor_by_hand() -> None:
    extra = unit([[4.0, -3.0]])  # cosines with rows 0 to 3: .8, 0, -.6, -1
    related = torch.zeros(4, 5, dtype=torch.bool)
    related[2, 4] = True  # known to be related to row 2
    e = math.exp
    by_hand = (
        -(
            math.log(e(1.2) / (e(1.2) + e(0.0) + e(-1.6) + e(1.6)))
            + math.log(e(1.2) / (e(1.2) + e(1.6) + e(0.0) + e(0.0)))
            + math.log(e(1.2) / (e(0.0) + e(1.6) + e(1.2)))
            + math.log(e(1.2) / (e(-1.6) + e(0.0) + e(1.2) + e(-2.0)))
        )
        / 4  # four anchors: the mined note is none
    )
    assert float(contrastive_loss(unit(ROWS), SCALE, related, extra=extra)) == pytest.approx(by_hand, abs=1e-6)


def test_popular_columns_weigh_less_by_hand() -> None:
    shares = [0.5, 0.125, 0.25, 0.125]
    e = math.exp
    by_hand = (
        -(
            math.log(e(1.2) / 0.125 / (e(1.2) / 0.125 + e(0.0) / 0.25 + e(-1.6) / 0.125))
            + math.log(e(1.2) / 0.5 / (e(1.2) / 0.5 + e(1.6) / 0.25 + e(0.0) / 0.125))
            + math.log(e(1.2) / 0.125 / (e(0.0) / 0.5 + e(1.6) / 0.125 + e(1.2) / 0.125))
            + math.log(e(1.2) / 0.25 / (e(-1.6) / 0.5 + e(0.0) / 0.125 + e(1.2) / 0.25))
        )
        / 4
    )
    log_q = torch.tensor(shares).log()
    assert float(contrastive_loss(unit(ROWS), SCALE, NONE, log_q=log_q)) == pytest.approx(by_hand, abs=1e-6)
    plain = float(contrastive_loss(unit(ROWS), SCALE, NONE))
    even = contrastive_loss(unit(ROWS), SCALE, NONE, log_q=torch.full((4,), -7.0))
    assert float(even) == pytest.approx(plain, abs=1e-6)  # where all are drawn alike there is nothing to correct


@settings(max_examples=25, deadline=None)
@given(pairs=st.integers(2, 5), mined=st.integers(0, 4), seed=st.integers(0, 2**16), share=st.floats(0, 1))
def test_all_of_it_together_against_a_loop(pairs: int, mined: int, seed: int, share: float) -> None:
    random = np.random.default_rng(seed)
    rows = random.standard_normal((2 * pairs + mined, 4))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    related = random.random((2 * pairs, 2 * pairs + mined)) < share
    log_q = -5 * random.random(2 * pairs + mined)
    losses = []
    for i in range(2 * pairs):
        others = [j for j in range(len(rows)) if j != i and (j == i ^ 1 or not related[i, j])]
        shares = np.exp([3.0 * rows[i] @ rows[j] - log_q[j] for j in others])
        losses.append(-np.log(shares[others.index(i ^ 1)] / shares.sum()))
    tensor = torch.from_numpy(rows)
    loss = contrastive_loss(
        tensor[: 2 * pairs],
        torch.tensor(3.0),
        torch.from_numpy(related),
        log_q=torch.from_numpy(log_q),
        extra=tensor[2 * pairs :],
    )
    assert float(loss) == pytest.approx(np.mean(losses), abs=1e-5)


def test_a_mined_negative_is_pushed_off_by_each_anchor_as_near_as_it_is() -> None:
    rows, extra = unit(ROWS), unit([[4.0, -3.0]]).requires_grad_()
    contrastive_loss(rows, SCALE, torch.zeros(4, 5, dtype=torch.bool), extra=extra).backward()
    e = math.exp
    shares = [
        e(1.6) / (e(1.2) + e(0.0) + e(-1.6) + e(1.6)),
        e(0.0) / (e(1.2) + e(1.6) + e(0.0) + e(0.0)),
        e(-1.2) / (e(0.0) + e(1.6) + e(1.2) + e(-1.2)),
        e(-2.0) / (e(-1.6) + e(0.0) + e(1.2) + e(-2.0)),
    ]
    by_hand = 2.0 / 4 * sum(share * row for share, row in zip(shares, rows, strict=True))
    torch.testing.assert_close(extra.grad[0], by_hand, atol=1e-6, rtol=1e-6)


def test_logits_are_float32_under_autocast() -> None:
    rows = torch.nn.functional.normalize(torch.randn(16, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    related, weights, scale = torch.zeros(16, 16, dtype=torch.bool), torch.ones(16, 16), torch.tensor(50.0)
    plain = contrastive_loss(rows, scale, related), graph_loss(rows, scale, weights)
    with torch.autocast("cpu", torch.bfloat16):
        assert (contrastive_loss(rows, scale, related), graph_loss(rows, scale, weights)) == plain


def test_matryoshka_is_the_mean_over_normalised_prefixes_by_hand() -> None:
    rows = torch.tensor([[0.6, 0.0, 0.8], [0.0, 0.28, 0.96]])
    seen = []

    def loss(part: torch.Tensor) -> torch.Tensor:
        seen.append(part)
        return part[0] @ part[1] + 10.0

    # Prefixes of 2: (1, 0) and (0, 1), product 0; of 3: the rows themselves, product .768.
    assert float(matryoshka_loss(rows, [2, 3], loss)) == pytest.approx(10.384)
    torch.testing.assert_close(seen[0], torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    torch.testing.assert_close(seen[1], rows)


def test_matryoshka_of_the_whole_length_is_the_plain_loss_in_value_and_gradient() -> None:
    raw = torch.randn(7, 6, generator=torch.Generator().manual_seed(0))  # three pairs and a mined negative

    def loss(part: torch.Tensor) -> torch.Tensor:
        return contrastive_loss(part[:6], SCALE, torch.zeros(6, 7, dtype=torch.bool), extra=part[6:])

    gradients = []
    for value in (loss, lambda rows: matryoshka_loss(rows, [6], loss)):
        x = raw.clone().requires_grad_()
        value(torch.nn.functional.normalize(x, dim=1)).backward()
        gradients.append(x.grad)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-5)


def test_generation_loss_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [math.log(7.0), 0.0], [0.0, 0.0]])
    total, count = generation_loss(logits, torch.tensor([1, 1, 0]))
    assert float(total) == pytest.approx(-math.log(3 / 4) - math.log(1 / 8) - math.log(1 / 2), abs=1e-6)
    assert (int(count), total.dtype, count.dtype) == (3, torch.float32, torch.int64)


def test_nothing_to_write_is_no_loss_but_still_part_of_the_graph() -> None:
    states = torch.ones(0, 4)
    head = torch.nn.Linear(4, 9)
    total, count = generation_loss(head(states), torch.zeros(0, dtype=torch.int64))
    assert (float(total.detach()), int(count)) == (0.0, 0)
    total.backward()  # a language-model head that is not in the graph would leave other processes waiting
    assert float(head.weight.grad.abs().sum()) == 0.0


def test_joint_loss_by_hand() -> None:
    assert float(joint_loss(torch.tensor(2.0), torch.tensor(5.0), 0.5)) == pytest.approx(3.0)
    assert float(joint_loss(torch.tensor(2.0), torch.tensor(5.0), 0.0)) == 2.0
