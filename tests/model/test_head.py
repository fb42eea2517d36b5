"""The head's start: the geometry of its training notes, exactly, before any training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix, random_array
from torch import Tensor

from noterec.errors import ConfigError
from noterec.model.head import Bags, Head, start_from, truncated

N, H, V = 60, 12, 40


def states(seed: int = 0) -> Tensor:
    """States with a strong common direction, as language models have."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(N, H, generator=random) * torch.linspace(3, 0.2, H) + 5


def words(seed: int = 0) -> csr_matrix:
    """Sparse rows, some of them empty."""
    return csr_matrix(random_array((N, V), density=0.08, rng=np.random.default_rng(seed), dtype=np.float32))


def cosines(rows: np.ndarray) -> np.ndarray:
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ rows.T


@torch.no_grad()
def embedded(head: Head, x: Tensor, bags: csr_matrix | None = None) -> np.ndarray:
    return head(x, None if bags is None else Bags.of(bags)).numpy()


@pytest.mark.parametrize("branch", [0, 7])
def test_a_square_uncentred_head_keeps_the_states_cosines(branch: int) -> None:
    head = Head(H, H, branch=branch)
    start_from(head, states(), centre=False)
    unseen = states(seed=1)
    np.testing.assert_allclose(cosines(embedded(head, unseen)), cosines(unseen.numpy()), atol=1e-4)


def test_a_centred_head_keeps_the_cosines_about_the_mean() -> None:
    head = Head(H, H)
    start_from(head, states())
    unseen = states(seed=1)
    about = unseen - states().mean(dim=0)
    np.testing.assert_allclose(cosines(embedded(head, unseen)), cosines(about.numpy()), atol=1e-4)


@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("dimension", [5, 20])
def test_with_words_it_is_the_truncated_svd_of_both_side_by_side(centre: bool, dimension: int) -> None:
    head = Head(H, dimension, lexicon=V)
    bags = words()
    start_from(head, states(), bags, centre=centre)
    x = states().double().numpy()
    x = x - x.mean(axis=0) if centre else x
    x = x / np.linalg.norm(x, axis=1).mean()
    both = np.concatenate([x, bags.toarray()], axis=1)
    axes = np.linalg.svd(both, full_matrices=False)[2][:dimension]  # (D, H + V)
    expected = both @ axes.T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = embedded(head, states(), bags)
    signs = np.sign((expected * found).sum(axis=0))  # an axis and its opposite are one
    np.testing.assert_allclose(found * signs, expected, atol=2e-3)


def test_fewer_notes_than_dimensions() -> None:
    head = Head(H, 30, lexicon=V)
    bags = words()[:4]
    start_from(head, states()[:4], bags)
    found = embedded(head, states()[:4], bags)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_the_branch_adds_nothing_at_the_start_and_something_after() -> None:
    with_branch, without = Head(H, 5, branch=9, lexicon=V), Head(H, 5, lexicon=V)
    for head in (with_branch, without):
        start_from(head, states(), words())
    np.testing.assert_array_equal(embedded(with_branch, states(), words()), embedded(without, states(), words()))
    loss = with_branch(states(), Bags.of(words()))[:, 0].sum()
    loss.backward()
    assert with_branch.down.weight.grad is not None
    assert float(with_branch.down.weight.grad.abs().max()) > 0  # it can be trained from there


def test_the_same_seed_gives_the_same_start() -> None:
    heads = [Head(H, 5, branch=3, lexicon=V) for _ in range(2)]
    for number, head in enumerate(heads):
        torch.manual_seed(number)  # the global generator plays no part
        start_from(head, states(), words(), seed=4)
    one, two = (head.state_dict() for head in heads)
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_the_formula() -> None:
    head = Head(H, 5, branch=3, lexicon=V)
    torch.nn.init.normal_(head.down.weight)
    with torch.no_grad():
        head.mean.fill_(0.7)
        head.spread.fill_(2.0)
    bags = words()
    x = states() - 0.7
    with torch.no_grad():
        expected = x @ head.linear.weight.T + torch.from_numpy(bags.toarray()) @ head.words.weight
        inner = torch.nn.functional.gelu(x / 2.0 @ head.up.weight.T + head.up.bias)
        expected = torch.nn.functional.normalize(expected + inner @ head.down.weight.T, dim=1)
    np.testing.assert_allclose(embedded(head, states(), bags), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("branch", [0, 6])
def test_a_truncated_head_gives_the_prefix_normalised_anew(branch: int) -> None:
    bags = words()
    head = Head(states().shape[1], 6, branch=branch, lexicon=bags.shape[1])
    start_from(head, states(), bags)
    if branch:
        torch.nn.init.normal_(head.down.weight)
    whole = embedded(head, states(1), words(1))
    prefix = whole[:, :3] / np.linalg.norm(whole[:, :3], axis=1, keepdims=True)
    np.testing.assert_allclose(embedded(truncated(head, 3), states(1), words(1)), prefix, atol=1e-6)
    with pytest.raises(ConfigError, match="dimension=6: expected 2 to 5"):
        truncated(head, 6)


def test_more_dimensions_than_the_backbone_gives() -> None:
    with pytest.raises(ConfigError, match="dimension=13 exceeds what the backbone gives"):
        Head(H, 13)
    Head(H, 13, lexicon=1)
