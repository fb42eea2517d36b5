"""Dropout on a GPU has random numbers of its own, which recomputing a chunk has to draw again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from noterec.training.chunks import in_chunks

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("bf16", [False, True])
def test_dropout_is_the_same_on_the_way_back(bf16: bool) -> None:
    device = torch.device("cuda")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.Dropout(0.4), nn.Linear(32, 5)).to(device)
    rows = torch.randn(24, 6, device=device)

    def forward(part: slice) -> tuple[Tensor, ...]:
        return (model(rows[part]).float(),)

    def gradients(recompute: bool) -> list[Tensor]:
        model.zero_grad()
        torch.manual_seed(1)
        with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
            if recompute:
                (out,) = in_chunks(forward, len(rows), 5, device=device)
            else:
                out = torch.cat([forward(slice(start, start + 5))[0] for start in range(0, len(rows), 5)])
        out.square().sum().backward()
        return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]

    for one, other in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
