"""Visual tokens: the maps are those that are promised, and start with the scale of words whatever comes in."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from noterec.errors import ConfigError
from noterec.model.vision.connector import Connector, averaged

KINDS = ("qformer", "mlp", "pooled")
V, H, TOKENS = 96, 48, 4


def make(kind: Any, *, seed: int = 0, **changes: Any) -> Connector:
    torch.manual_seed(seed)
    return Connector(
        kind, **{"vision_size": V, "hidden_size": H, "tokens": TOKENS, "layers": 2, "std": 0.02, **changes}
    )


def features(images: int, patches: int = 16, *, seed: int = 0, scale: float = 1.0, size: int = V) -> Tensor:
    return torch.randn(images, 1 + patches, size, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("std", "scale", "hidden"), [(0.02, 1.0, 128), (0.02, 300.0, 1024), (1.5, 0.01, 32)])
@torch.no_grad()
def test_tokens_start_with_the_scale_of_words(kind: str, std: float, scale: float, hidden: int) -> None:
    tokens = make(kind, std=std, hidden_size=hidden)(features(24, scale=scale) + 2 * scale)
    assert tokens.shape == (24, TOKENS, hidden)
    assert 0.75 * std < tokens.std() < 1.3 * std
    assert tokens.mean().abs() < 0.2 * std


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [32, 96, 768])
@torch.no_grad()
def test_pictures_make_a_difference_from_the_start(kind: str, size: int) -> None:
    tokens = make(kind, vision_size=size)(features(8, size=size))  # (8, TOKENS, H)
    assert (tokens - tokens.mean(dim=0)).std() > 0.2 * tokens.std()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_every_picture_for_itself_and_twice_the_same(kind: str) -> None:
    connector, given_ = make(kind), features(5)
    found = connector.train()(given_)
    assert torch.equal(connector(given_), found)
    torch.testing.assert_close(connector.eval()(given_), found)
    torch.testing.assert_close(connector(given_[[3]]), found[[3]], atol=1e-6, rtol=1e-5)
    assert connector(given_[:0]).shape == (0, TOKENS, H)
    assert connector(given_.half()).dtype == torch.float32


def bert_block(states: Tensor, source: Tensor, weights: dict[str, Tensor], name: str, heads: int) -> Tensor:
    """Attention and what follows it, written out."""

    def linear(x: Tensor, key: str) -> Tensor:
        return x @ weights[f"{name}.{key}.weight"].T + weights[f"{name}.{key}.bias"]

    width = states.shape[1]
    query, key, value = (
        linear(x, f"attention.{part}").reshape(len(x), heads, -1).transpose(0, 1)
        for x, part in ((states, "query"), (source, "key"), (source, "value"))
    )  # (heads, tokens, size) each
    chances = (query @ key.transpose(1, 2) / math.sqrt(width // heads)).softmax(dim=-1)
    mixed = linear((chances @ value).transpose(0, 1).reshape(len(states), width), "output.dense")
    norm = f"{name}.output.LayerNorm"
    return F.layer_norm(mixed + states, (width,), weights[f"{norm}.weight"], weights[f"{norm}.bias"], 1e-6)


@torch.no_grad()
def test_the_qformer_written_out() -> None:
    """Learned queries, self-attention, attention to summary and patches in every layer, and two layers with a GELU between."""
    connector = make("qformer")
    for parameter in connector.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.05)
    given_ = features(1)
    weights = {key.removeprefix("qformer."): value for key, value in connector.state_dict().items()}
    source = F.layer_norm(given_[0], (V,), weights["norm.weight"], weights["norm.bias"])
    width = weights["queries"].shape[2]
    assert width == 128  # the next multiple of 64
    states = F.layer_norm(weights["queries"][0], (width,), weights["layernorm.weight"], weights["layernorm.bias"], 1e-6)
    for layer in range(2):
        prefix = f"encoder.layer.{layer}"
        states = bert_block(states, states, weights, f"{prefix}.attention", heads=2)
        states = bert_block(states, source, weights, f"{prefix}.crossattention", heads=2)
        up, down, norm = (
            f"{prefix}.{part}" for part in ("intermediate_query.dense", "output_query.dense", "output_query.LayerNorm")
        )
        inner = F.gelu(states @ weights[f"{up}.weight"].T + weights[f"{up}.bias"])
        outer = inner @ weights[f"{down}.weight"].T + weights[f"{down}.bias"]
        states = F.layer_norm(outer + states, (width,), weights[f"{norm}.weight"], weights[f"{norm}.bias"], 1e-6)
    inner = F.gelu(states @ weights["map.up.weight"].T + weights["map.up.bias"])
    expected = inner @ weights["map.down.weight"].T + weights["map.down.bias"]
    torch.testing.assert_close(connector(given_)[0], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_averaging_kinds_written_out() -> None:
    given_ = features(2)
    groups = given_[:, 1:].reshape(2, 2, 2, 2, 2, V).mean(dim=(2, 4)).reshape(2, 4, V)  # 4 x 4 patches to 2 x 2
    linear, mlp = make("pooled"), make("mlp")
    for connector in (linear, mlp):
        for parameter in connector.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    one, two = linear.state_dict(), mlp.state_dict()
    normed = F.layer_norm(groups, (V,), one["norm.weight"], one["norm.bias"])
    torch.testing.assert_close(linear(given_), normed @ one["map.down.weight"].T + one["map.down.bias"])
    normed = F.layer_norm(groups, (V,), two["norm.weight"], two["norm.bias"])
    inner = F.gelu(normed @ two["map.up.weight"].T + two["map.up.bias"])
    torch.testing.assert_close(mlp(given_), inner @ two["map.down.weight"].T + two["map.down.bias"])


def test_who_reads_the_summary() -> None:
    for kind in KINDS:
        given_ = features(1).requires_grad_()
        make(kind)(given_).square().sum().backward()
        assert given_.grad is not None
        assert (given_.grad[0, 0].abs().sum() > 0) == (kind == "qformer")
        assert given_.grad[0, 1:].abs().sum(dim=1).min() > 0  # every patch


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_learns(kind: str) -> None:
    connector = make(kind, std=1.0)
    (connector(features(3)) * torch.randn(TOKENS, H)).sum().backward()
    # A bias of keys adds the same to every chance of a row: softmax doesn't see it.
    still = [n for n, p in connector.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert [name for name in still if not name.endswith("key.bias")] == []


def brute(patches: np.ndarray, groups: int) -> np.ndarray:
    """(S, V) to (groups, V): the mean of what lies between the borders, cut outwards to whole patches."""

    def runs(count: int, parts: int) -> list[range]:
        return [range(i * count // parts, -(-(i + 1) * count // parts)) for i in range(parts)]

    side, coarse = math.isqrt(len(patches)), math.isqrt(groups)
    if side**2 == len(patches) and coarse**2 == groups:
        cells = [
            [r * side + c for r in rows for c in columns]
            for rows in runs(side, coarse)
            for columns in runs(side, coarse)
        ]
    else:
        cells = [list(run) for run in runs(len(patches), groups)]
    return np.stack([patches[cell].mean(axis=0) for cell in cells])


@settings(max_examples=60, deadline=None)
@given(count=st.one_of(st.integers(1, 40), st.integers(1, 9).map(lambda n: n * n)), share=st.floats(0, 1))
def test_averaging_any_number_of_patches_to_any_smaller_one(count: int, share: float) -> None:
    groups = max(1, round(count * share))
    patches = np.random.default_rng(count).normal(size=(2, count, 3)).astype(np.float32)
    found = averaged(torch.from_numpy(patches), groups).numpy()
    np.testing.assert_allclose(found, np.stack([brute(each, groups) for each in patches]), atol=1e-5)


def test_averaging_by_hand() -> None:
    grid = torch.arange(16.0).reshape(1, 16, 1)
    assert averaged(grid, 4).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]  # quarters of 4 x 4
    assert averaged(grid, 2).flatten().tolist() == [3.5, 11.5]  # 2 is no square: runs
    assert averaged(torch.arange(6.0).reshape(1, 6, 1), 3).flatten().tolist() == [0.5, 2.5, 4.5]
    assert torch.equal(averaged(grid, 16), grid)


def test_more_tokens_than_patches() -> None:
    for kind in ("mlp", "pooled"):
        with pytest.raises(
            ConfigError, match=r"vision\.tokens=4: the vision encoder gives 3 patches; expected no more"
        ):
            make(kind)(features(1, patches=3))
    assert make("qformer")(features(1, patches=3)).shape == (1, TOKENS, H)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_saved_and_loaded(kind: str) -> None:
    one = make(kind, seed=1)
    other = make(kind, seed=3)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(features(2)), other(features(2)))
    assert torch.equal(make(kind, seed=1)(features(2)), one(features(2)))
    assert not torch.equal(make(kind, seed=2)(features(2)), one(features(2)))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"kind": "conv"}, "connector='conv': expected qformer, mlp or pooled"),
        ({"tokens": 0}, "tokens=0"),
        ({"layers": 0}, "layers=0"),
        ({"std": 0.0}, "std=0.0"),
        ({"std": math.nan}, "std=nan"),
    ],
)
def test_what_makes_no_connector(change: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make(**{"kind": "mlp", **change})
