"""The gate, by hand; and a note without a picture keeps its state to the bit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from noterec.errors import ConfigError
from noterec.model.vision.fusion import Gate


@torch.no_grad()
def test_by_hand() -> None:
    gate = Gate(2, 2)
    gate.value.weight.copy_(torch.tensor([[1.0, 0.0], [2.0, 1.0]]))
    gate.gate.weight.copy_(torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.5, -1.0]]))
    gate.gate.bias.copy_(torch.tensor([0.0, 1.0]))
    # (5, 1) is normalised to (1, -1): v = (1, 1). h = (4, 3). z = sigmoid(1, 0.5 * 4 - 3 + 1) = (sigmoid(1), 0.5)
    first = 1 / (1 + math.exp(-1))
    found = gate(torch.tensor([[4.0, 3.0]]), torch.tensor([[5.0, 1.0]]), torch.tensor([True]))
    torch.testing.assert_close(
        found, torch.tensor([[first * 1 + (1 - first) * 4, 0.5 * 1 + 0.5 * 3]]), atol=1e-4, rtol=1e-4
    )


@settings(max_examples=30, deadline=None)
@given(seen=st.lists(st.booleans(), min_size=1, max_size=9), seed=st.integers(0, 99))
def test_what_is_not_seen_is_not_touched(seen: list[bool], seed: int) -> None:
    torch.manual_seed(seed)
    gate = Gate(5, 7)
    torch.nn.init.normal_(gate.gate.weight)
    rows = torch.tensor(seen)
    states = (torch.randn(len(seen), 7) * 40).requires_grad_()
    summary = torch.randn(len(seen), 5)
    summary[~rows] = math.nan
    summary.requires_grad_()
    found = gate(states, summary, rows)
    assert torch.equal(found[~rows], states[~rows])
    assert found.isfinite().all()
    assert not rows.any() or (found[rows] != states[rows]).any()
    found.sum().backward()
    assert states.grad is not None
    assert summary.grad is not None
    assert (states.grad[~rows] == 1).all()
    assert (summary.grad[~rows] == 0).all()
    for parameter in gate.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize(("vision", "hidden"), [(32, 256), (256, 32), (96, 96)])
@pytest.mark.parametrize("std", [1.0, 8.0])
@torch.no_grad()
def test_it_starts_as_the_mean_of_two_of_one_scale(vision: int, hidden: int, std: float) -> None:
    torch.manual_seed(0)
    gate = Gate(vision, hidden, std=std)
    states, summary = torch.randn(200, hidden) * std, torch.randn(200, vision) * 50 + 20
    value = 2 * gate(states, summary, torch.ones(200, dtype=torch.bool)) - states
    torch.testing.assert_close(value, gate.value(gate.norm(summary)), atol=1e-3, rtol=1e-3)
    assert 0.8 * std < value.std() < 1.2 * std


@torch.no_grad()
def test_what_was_near_stays_near() -> None:
    """Where a state has more elements than a summary, v keeps all cosines of normalised summaries."""
    gate = Gate(24, 64)
    normed = gate.norm(torch.randn(12, 24))
    cosines = torch.nn.functional.cosine_similarity(normed[:, None], normed[None], dim=2)
    value = gate.value(normed)
    torch.testing.assert_close(torch.nn.functional.cosine_similarity(value[:, None], value[None], dim=2), cosines)


@torch.no_grad()
def test_dtype_batch_and_saving() -> None:
    gate = Gate(5, 7)
    torch.nn.init.normal_(gate.gate.weight)
    states, summary, seen = torch.randn(6, 7), torch.randn(6, 5), torch.tensor([True, False] * 3)
    found = gate(states, summary, seen)
    torch.testing.assert_close(
        torch.cat([gate(states[i : i + 1], summary[i : i + 1], seen[i : i + 1]) for i in range(6)]), found
    )
    assert gate(states.bfloat16(), summary.half(), seen).dtype == torch.bfloat16
    other = Gate(5, 7)
    other.load_state_dict(gate.state_dict())
    assert torch.equal(other(states, summary, seen), found)
    assert gate(states[:0], summary[:0], seen[:0]).shape == (0, 7)


@pytest.mark.parametrize("change", [{"vision_size": 0}, {"hidden_size": 0}, {"std": 0.0}, {"std": math.inf}])
def test_what_makes_no_gate(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="gate: expected sizes of at least 1 and std above 0"):
        Gate(**{"vision_size": 4, "hidden_size": 4, **change})
