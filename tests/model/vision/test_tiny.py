"""The small tower from scratch: one seed, one model; small, and saved like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from noterec.errors import ConfigError
from noterec.model.vision.tiny import tiny_tower
from noterec.model.vision.tower import load_tower, save_tower
from tests import vision_models


def test_its_size() -> None:
    tower = tiny_tower()
    assert tower.pixel_shape == (3, 64, 64)
    assert tower.feature_shape == (65, 96)
    assert 200_000 < sum(parameter.numel() for parameter in tower.parameters()) < 500_000
    assert tiny_tower(32, grid=2).feature_shape == (5, 96)


def test_one_seed_one_model_and_the_global_generator_stays() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = tiny_tower(seed=1)
    assert torch.equal(torch.rand(1), expected)
    assert first.version == tiny_tower(seed=1).version != tiny_tower(seed=2).version


def test_the_shorter_side_is_resized_and_the_middle_kept() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8))
    resized = np.asarray(picture.resize((64, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    np.testing.assert_array_equal(tiny_tower(32).transform(picture), resized[:, :, 16:48])


@torch.no_grad()
def test_untrained_it_already_tells_pictures_apart() -> None:
    """Colours of pictures can be read off summaries by a linear map that has not seen them."""
    tower = tiny_tower()
    pictures = vision_models.pictures(240)
    colours = torch.tensor(np.array([np.asarray(p.resize((1, 1)))[0, 0] for p in pictures])).float()  # (I, 3)
    summaries = tower(vision_models.pixels(tower.transform, pictures))[:, 0]  # (I, V)
    seen, new = slice(0, 180), slice(180, 240)
    with_one = torch.cat([summaries, torch.ones(len(summaries), 1)], dim=1).double()
    ridge = with_one[seen].T @ with_one[seen] + 0.1 * torch.eye(97, dtype=torch.float64)
    weights = torch.linalg.solve(ridge, with_one[seen].T @ colours[seen].double())
    error = (with_one[new] @ weights - colours[new]).square().mean() / colours[new].var(dim=0).mean()
    assert error < 0.2


def test_saved_and_loaded(tmp_path: Path) -> None:
    tower = tiny_tower(32, seed=4)
    save_tower(tower, tmp_path)
    again = load_tower(str(tmp_path))
    assert again.version == tower.version
    pixels = vision_models.pixels(again.transform, vision_models.pictures(2))
    with torch.no_grad():
        assert torch.equal(again(pixels), tower(pixels))


def test_a_size_that_is_no_multiple_of_a_patch() -> None:
    with pytest.raises(ConfigError, match="image_px=60: expected a multiple of 8"):
        tiny_tower(60)


@torch.no_grad()
def test_untrained_it_already_sees_where_things_are() -> None:
    """The same patches in another order make another summary, though colours say most of it."""
    tower = tiny_tower()
    pixels = vision_models.pixels(tower.transform, vision_models.pictures(40))
    cells = pixels.reshape(40, 3, 8, 8, 8, 8)
    order = torch.tensor([3, 6, 0, 5, 1, 7, 2, 4])
    mixed = cells[:, :, order][:, :, :, :, order].reshape(40, 3, 64, 64)
    summaries = tower(pixels)[:, 0]
    assert (summaries - tower(mixed)[:, 0]).std() > 0.02 * summaries.std()
