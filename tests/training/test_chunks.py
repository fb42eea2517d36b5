"""A batch in chunks: the plain loss and its gradients, dropout and autocast as in the first pass, and memory of one chunk."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from noterec.model.losses import contrastive_loss
from noterec.training.chunks import in_chunks

CPU = torch.device("cpu")


def network(dropout: float = 0.0, width: int = 24) -> nn.Sequential:
    """A few layers, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, 5))


def batch(rows: int) -> Tensor:
    """(rows, 6) inputs."""
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(1))


Forward = Callable[[slice], tuple[Tensor, ...]]
Chunked = Callable[[Forward, int], tuple[Tensor, ...]]


def by(chunk: int | None) -> Chunked:
    return lambda forward, total: in_chunks(forward, total, chunk, device=CPU)


def keeping_everything(chunk: int) -> Chunked:
    """The same chunks in the same order without recomputation: the oracle where random numbers are drawn."""

    def run(forward: Forward, total: int) -> tuple[Tensor, ...]:
        parts = [forward(slice(start, min(start + chunk, total))) for start in range(0, total, chunk)]
        rows, *sums = zip(*parts, strict=True)
        return torch.cat(rows), *(sum(values) for values in sums)

    return run


def step(model: nn.Sequential, rows: Tensor, chunked: Chunked, bf16: bool = False) -> tuple[Tensor, list[Tensor]]:
    """The loss of a contrastive and an additive part, and the gradients."""
    total = len(rows)
    scale = nn.Parameter(torch.tensor(1.5))

    def forward(part: slice) -> tuple[Tensor, Tensor, Tensor]:
        out = model(rows[part]).float()
        return F.normalize(out, dim=1), out.square().sum(), torch.tensor(part.stop - part.start)

    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        embeddings, energy, count = chunked(forward, total)
    assert int(count) == total
    loss = contrastive_loss(embeddings, scale.exp(), torch.zeros(total, total, dtype=torch.bool)) + energy / count
    loss.backward()
    return loss.detach(), [*(weight.grad for weight in model.parameters()), scale.grad]


@settings(max_examples=30, deadline=None)
@given(pairs=st.integers(2, 12), chunk=st.integers(1, 30))
def test_any_chunk_gives_the_plain_loss_and_gradients(pairs: int, chunk: int) -> None:
    rows = batch(2 * pairs)
    loss, gradients = step(network(), rows, by(None))
    found, found_gradients = step(network(), rows, by(chunk))
    torch.testing.assert_close(found, loss, atol=1e-6, rtol=1e-6)
    for one, other in zip(found_gradients, gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 5, 8])
def test_dropout_is_the_same_on_the_way_back(chunk: int) -> None:
    rows = batch(16)
    loss, gradients = step(network(0.4), rows, keeping_everything(chunk))
    found, found_gradients = step(network(0.4), rows, by(chunk))
    assert float(found) == float(loss)
    for one, other in zip(found_gradients, gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    other_draws = step(network(0.0), rows, by(chunk))[1]
    assert not torch.allclose(other_draws[0], gradients[0], atol=1e-3)  # dropout did something


def test_the_random_state_moves_on_as_without_recomputation() -> None:
    """What is drawn after the step doesn't depend on whether chunks were computed anew."""
    after = []
    for chunked in (keeping_everything(4), by(4)):
        step(network(0.4), batch(16), chunked)
        after.append(torch.rand(3))
    assert torch.equal(after[0], after[1])


def test_autocast_is_the_same_on_the_way_back() -> None:
    rows = batch(16)
    loss, gradients = step(network(), rows, by(None), bf16=True)
    found, found_gradients = step(network(), rows, by(4), bf16=True)
    torch.testing.assert_close(found, loss, atol=1e-3, rtol=1e-3)
    for one, other in zip(found_gradients, gradients, strict=True):
        assert float((one - other).norm()) <= 0.02 * float(other.norm()) + 1e-6
    exact = step(network(), rows, by(4))[0]
    assert float(exact) != float(found)  # it did multiply in bfloat16


def test_one_chunk_is_one_plain_call() -> None:
    calls: list[slice] = []

    def forward(part: slice) -> tuple[Tensor, ...]:
        calls.append(part)
        return (torch.ones(part.stop - part.start, 2, requires_grad=True) * 2,)

    for chunk in (None, 6, 7):
        (rows,) = in_chunks(forward, 6, chunk, device=CPU)
        rows.sum().backward()
        assert rows.shape == (6, 2)
    assert calls == [slice(0, 6)] * 3  # and none is run twice


def test_every_chunk_is_run_twice_in_order_and_back() -> None:
    weight = torch.ones(3, requires_grad=True)
    calls: list[int] = []

    def forward(part: slice) -> tuple[Tensor, Tensor]:
        calls.append(part.start)
        rows = (torch.arange(float(part.start), float(part.stop))[:, None] * weight).exp()
        return rows, rows.sum()

    rows, total = in_chunks(forward, 5, 2, device=CPU)
    torch.testing.assert_close(rows[:, 0], torch.arange(5.0).exp())
    torch.testing.assert_close(total, rows.sum())
    assert calls == [0, 2, 4]
    (rows.sum() + total).backward()
    assert calls == [0, 2, 4, 4, 2, 0]


def test_without_gradient_there_is_nothing_to_run_again() -> None:
    with torch.no_grad():
        model, calls = network(), []

        def forward(part: slice) -> tuple[Tensor, ...]:
            calls.append(part)
            return (model(batch(8)[part]),)

        torch.testing.assert_close(in_chunks(forward, 8, 3, device=CPU)[0], model(batch(8)))
    assert len(calls) == 3


class Live(TorchDispatchMode):
    """Counts the bytes of tensors that are alive, on the way there and back."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage.data_ptr()
        if not storage.nbytes() or key in self._seen:
            return
        self._seen.add(key)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, key, storage.nbytes())

    def _remove(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def test_activations_do_not_grow_with_the_batch() -> None:
    def peak(total: int, chunk: int | None) -> int:
        model, rows = network(width=2048), batch(total)
        with Live() as counter:
            (out,) = in_chunks(lambda part: (model(rows[part]),), total, chunk, device=CPU)
            out.sum().backward()
        return counter.peak

    peak(16, 4)
    layer = 2048 * 4  # bytes of a row in the widest layer
    gradients = sum(weight.numel() for weight in network(width=2048).parameters()) * 4 * 2
    assert peak(512, None) > 2 * 512 * layer  # two such outputs of every row
    assert peak(512, 16) < gradients + 16 * 6 * layer + 512 * 200
    assert peak(512, 16) - peak(64, 16) < (512 - 64) * 200  # outputs of 5 floats, and the bookkeeping
