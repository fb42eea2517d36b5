"""Changed pictures show the same: about half mirrored, most of the area kept, a little brighter or darker, all by the seed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from noterec.errors import InputError
from noterec.model.vision.augment import augment


def ramps(images: int, side: int = 64) -> Tensor:
    """(I, 3, side, side) uint8: left to right in red, top to bottom in green, one level in blue."""
    line = torch.linspace(20, 220, side)
    red, green = line[None, :].expand(side, side), line[:, None].expand(side, side)
    picture = torch.stack([red, green, torch.full((side, side), 200.0)]).round().to(torch.uint8)
    return picture.expand(images, -1, -1, -1).clone()


def read(found: Tensor) -> dict[str, Tensor]:
    """What was done to each ramp: where the kept part lies, in 0..1, and how much lighter it is."""
    light = found[:, 2].float().mean(dim=(1, 2)) / 200  # (I,)
    across = (found[:, 0].float().mean(dim=1) / light[:, None] - 20) / 200  # (I, w), places from 0 to 1
    down = (found[:, 1].float().mean(dim=2) / light[:, None] - 20) / 200  # (I, h)
    wide, high = across[:, -1] - across[:, 0], down[:, -1] - down[:, 0]
    return {
        "light": light,
        "wide": wide,
        "high": high,
        "left": across.min(dim=1).values,
        "right": across.max(dim=1).values,
    }


def test_what_is_done() -> None:
    found = read(augment(ramps(400), 0))
    mirrored = found["wide"] < 0
    assert 0.42 < mirrored.float().mean() < 0.58
    assert (found["high"] > 0).all()  # never upside down
    area = found["wide"].abs() * found["high"]
    assert 0.69 < area.min() < 0.72
    assert area.max() < 1.01
    assert 0.83 < area.mean() < 0.87
    torch.testing.assert_close(found["wide"].abs(), found["high"], atol=0.03, rtol=0)  # not stretched
    assert found["left"].min() > -0.02
    assert found["right"].max() < 1.02
    assert found["left"].max() > 0.1  # parts on the right, and on the left
    assert found["right"].min() < 0.9
    assert 0.89 < found["light"].min() < 0.92
    assert 1.08 < found["light"].max() < 1.11


def test_a_crop_resized_is_what_interpolate_makes_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three quarters of each side, from a whole pixel on: the same as cutting it out and interpolating."""
    monkeypatch.setattr("noterec.model.vision.augment.MIN_AREA", 0.5)
    # Not mirrored, this area, in the middle across, at the top, no lighter.
    drawn = torch.tensor([[0.9], [(0.75**2 - 0.5) / 0.5], [0.5], [0.0], [0.5]])
    monkeypatch.setattr(torch, "rand", lambda *_, **__: drawn)
    pixels = torch.randint(0, 256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    expected = F.interpolate(pixels[:, :, :48, 8:56].float(), size=(64, 64), mode="bilinear", align_corners=False)
    inside = slice(2, -2)  # at its border the one sees what the other has cut away
    found = augment(pixels, 0).float()
    assert (found - expected)[:, :, inside, inside].abs().max() <= 0.51


@settings(max_examples=30, deadline=None)
@given(images=st.integers(0, 5), height=st.integers(1, 20), width=st.integers(1, 20), seed=st.integers(0, 2**31))
def test_by_the_seed_alone(images: int, height: int, width: int, seed: int) -> None:
    pixels = torch.randint(0, 256, (images, 3, height, width), generator=torch.Generator().manual_seed(seed)).to(
        torch.uint8
    )
    before = pixels.clone()
    found = augment(pixels, seed)
    assert (found.shape, found.dtype) == (pixels.shape, torch.uint8)
    assert torch.equal(augment(pixels, seed), found)
    assert torch.equal(augment(pixels, torch.Generator().manual_seed(seed)), found)
    assert torch.equal(pixels, before)


def test_another_seed_and_another_picture_are_changed_otherwise() -> None:
    pixels = ramps(2)
    found = augment(pixels, 1)
    assert not torch.equal(found, augment(pixels, 2))
    assert not torch.equal(found[0], found[1])
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(augment(pixels, generator), found)
    assert not torch.equal(augment(pixels, generator), found)  # it goes on


def test_nothing_overflows() -> None:
    white = augment(torch.full((50, 3, 4, 4), 255, dtype=torch.uint8), 0)
    assert white.min() >= 229  # brighter white is white, not black
    assert augment(torch.zeros((5, 3, 4, 4), dtype=torch.uint8), 0).max() == 0


@pytest.mark.parametrize("pixels", [torch.zeros(2, 3, 4, 4), torch.zeros(3, 4, 4, dtype=torch.uint8)])
def test_what_is_no_batch_of_pictures(pixels: Tensor) -> None:
    with pytest.raises(InputError, match=r"expected \(I, 3, h, w\) uint8, got"):
        augment(pixels, 0)
