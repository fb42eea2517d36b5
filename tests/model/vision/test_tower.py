"""Features are those of Hugging Face's own forward behind its own image processor, and what can't see is refused with a way out."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor, nn

from noterec.errors import ArtefactError, ConfigError, DependencyError, InputError
from noterec.model.vision.tower import VisionTower, load_tower, save_tower
from noterec.model.vision.transform import Carried, Transform, square
from tests import vision_models
from tests.vision_models import KINDS, MEAN, STD

Folder = Callable[[str], Path]
CLASSES = {
    "clip": "CLIPVisionModel",
    "siglip": "SiglipVisionModel",
    "siglip2": "Siglip2VisionModel",
    "dinov2": "Dinov2Model",
    "dinov2-registers": "Dinov2WithRegistersModel",
    "dinov3": "DINOv3ViTModel",
    "dinov3-convnext": "DINOv3ConvNextModel",
    "vit": "ViTModel",
    "swin": "SwinModel",
    "convnext": "ConvNextModel",
    "efficientnet": "EfficientNetModel",
    "clip-whole": "CLIPModel",
    "siglip-whole": "SiglipModel",
    "siglip2-whole": "Siglip2Model",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Give a kind, get its random model folder."""
    made: dict[str, Path] = {}

    def of(kind: str) -> Path:
        if kind not in made:
            made[kind] = vision_models.make(kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return of


def own_model(kind: str, folder: Path) -> Any:
    if kind == "vit-bare":
        return transformers.ViTModel.from_pretrained(folder, add_pooling_layer=False).eval()
    model = getattr(transformers, CLASSES[kind]).from_pretrained(folder).eval()
    return model.vision_model if kind.endswith("whole") else model


def own_inputs(kind: str, picture: Image.Image) -> dict[str, Tensor]:
    if not kind.startswith("dinov3"):
        return dict(vision_models.processor(kind)(picture, return_tensors="pt"))
    resized = np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR), dtype=np.float32)  # (32, 32, 3)
    values = (resized / 255 - np.array(MEAN, dtype=np.float32)) / np.array(STD, dtype=np.float32)
    return {"pixel_values": torch.from_numpy(values).permute(2, 0, 1)[None]}


@torch.no_grad()
def one_at_a_time(kind: str, folder: Path, pictures: list[Image.Image]) -> Tensor:
    """The oracle: (I, 1 + S, V) by the library's own classes, one picture after another."""
    model, (before, patches), features = own_model(kind, folder), KINDS[kind], []
    skipped = before or 0
    for picture in pictures:
        output = model(**own_inputs(kind, picture))
        states = output.last_hidden_state
        if before is None:
            states = states[0].permute(1, 2, 0).reshape(1, patches, -1)
        assert states.shape[1] == skipped + patches
        summary = states[:, 0] if kind == "vit-bare" else output.pooler_output.reshape(1, -1)
        features.append(torch.cat([summary[:, None], states[:, skipped:]], dim=1))
    return torch.cat(features)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_models_own_forward(folder: Folder, kind: str) -> None:
    tower = load_tower(str(folder(kind)))
    # NaFlex fits its grid of patches to the shape of a picture; a square is where both agree.
    pictures = [p.resize((50, 50)) if kind.startswith("siglip2") else p for p in vision_models.pictures(4)]
    expected = one_at_a_time(kind, folder(kind), pictures)
    pixels = vision_models.pixels(tower.transform, pictures)
    with torch.no_grad():
        found = tower(pixels)
        alone = torch.cat([tower(pixels[[row]]) for row in (2, 0)])
    assert tuple(found.shape[1:]) == tower.feature_shape
    assert tuple(pixels.shape[1:]) == tower.pixel_shape
    assert found.shape[2] == tower.hidden_size
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(alone, found[[2, 0]], atol=1e-4, rtol=1e-4)
    assert (found[0] - found[1]).abs().max() > 1e-3  # it sees the difference


@pytest.mark.parametrize("kind", ["clip-whole", "siglip-whole", "siglip2-whole"])
def test_of_a_model_that_also_reads_the_vision_half_alone_is_kept(folder: Folder, kind: str) -> None:
    tower = load_tower(str(folder(kind)))
    assert not [key for key in tower.state_dict() if "text" in key or "token" in key or "logit" in key]


@pytest.mark.parametrize("kind", ["clip", "siglip", "vit"])
def test_learned_positions_are_interpolated_for_another_size(folder: Folder, kind: str) -> None:
    tower = load_tower(str(folder(kind)), image_px=48)
    pixels = vision_models.pixels(tower.transform, vision_models.pictures(2))
    with torch.no_grad():
        values = pixels * torch.from_numpy(tower.transform.scale) + torch.from_numpy(tower.transform.offset)
        expected = own_model(kind, folder(kind))(values, interpolate_pos_encoding=True).last_hidden_state
        found = tower(pixels)
    assert tower.feature_shape == (37, 32)
    torch.testing.assert_close(found[:, 1:], expected[:, -36:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["dinov2", "dinov2-registers", "dinov3", "siglip2", "convnext", "efficientnet"])
def test_another_size_where_positions_need_no_flag(folder: Folder, kind: str) -> None:
    tower = load_tower(str(folder(kind)), image_px=64)
    pixels = vision_models.pixels(tower.transform, vision_models.pictures(2))
    assert tuple(pixels.shape[1:]) == tower.pixel_shape == (3, 64, 64)
    with torch.no_grad():
        assert tuple(tower(pixels).shape[1:]) == tower.feature_shape
    assert tower.feature_shape[0] - 1 == (4 if KINDS[kind][1] == 1 else 4 * KINDS[kind][1])


def test_naflex_needs_whole_patches(folder: Folder) -> None:
    with pytest.raises(ConfigError, match="image_px=44: expected a multiple of the model's patches of 8 px"):
        load_tower(str(folder("siglip2")), image_px=44)


def test_a_grid_holds_the_mean_of_its_patches(folder: Folder) -> None:
    plain, coarse, bare = (load_tower(str(folder("dinov2-registers")), grid=grid) for grid in (None, 2, 0))
    pixels = vision_models.pixels(plain.transform, vision_models.pictures(3))
    with torch.no_grad():
        whole, found, summary = plain(pixels), coarse(pixels), bare(pixels)
    assert coarse.feature_shape == (5, 32)
    assert bare.feature_shape == (1, 32)
    torch.testing.assert_close(found[:, 0], whole[:, 0])
    torch.testing.assert_close(summary, whole[:, :1])
    corner = [1 + place for place in (2, 3, 6, 7)]  # upper right of 4 x 4
    torch.testing.assert_close(found[:, 2], whole[:, corner].mean(dim=1))


def test_a_grid_finer_than_the_patches(folder: Folder) -> None:
    with pytest.raises(ConfigError, match=r"grid=5: the model has 4 x 4 patches of a picture of 32 x 32 px"):
        load_tower(str(folder("vit")), grid=5)


@pytest.mark.parametrize("kind", ["clip-whole", "siglip2", "dinov3", "vit-bare", "convnext", "efficientnet"])
def test_saved_and_loaded_it_is_the_same(folder: Folder, kind: str, tmp_path: Path) -> None:
    tower = load_tower(str(folder(kind)), image_px=48, grid=1)
    save_tower(tower, tmp_path)
    again = load_tower(str(tmp_path), grid=1)
    pixels = vision_models.pixels(tower.transform, vision_models.pictures(2))
    assert again.version == tower.version
    assert (again.pixel_shape, again.feature_shape) == (tower.pixel_shape, tower.feature_shape)
    with torch.no_grad():
        assert torch.equal(again(pixels), tower(pixels))
    assert torch.equal(vision_models.pixels(again.transform, vision_models.pictures(2)), pixels)


def test_the_version_knows_weights_transform_and_grid(folder: Folder) -> None:
    name = str(folder("vit"))
    tower = load_tower(name)
    towers = [tower, load_tower(name, image_px=40), load_tower(name, grid=2), load_tower(str(folder("vit-bare")))]
    assert len({each.version for each in towers}) == 4
    assert load_tower(name).version == tower.version
    before = tower.version
    with torch.no_grad():
        next(tower.model.parameters()).add_(0.01)
    assert tower.version == before  # not computed at every look
    tower.weights_changed()
    assert tower.version != before


@pytest.mark.parametrize("kind", KINDS)
def test_saving_keeps_the_version(folder: Folder, kind: str, tmp_path: Path) -> None:
    tower = load_tower(str(folder(kind)))
    save_tower(tower, tmp_path)
    assert load_tower(str(tmp_path)).version == tower.version


def test_the_version_knows_the_models_configuration(folder: Folder, tmp_path: Path) -> None:
    """Where weights are the same, an activation or a norm's epsilon makes other features."""
    source = folder("clip-whole")
    versions = [load_tower(str(source)).version]
    changes: list[dict[str, Any]] = [{"hidden_act": "relu"}, {"layer_norm_eps": 1e-3}]
    volatile = {
        "transformers_version": "4.0.0",
        "architectures": ["Other"],
        "torch_dtype": "float16",
        "dtype": "float16",
    }
    for number, change in enumerate([*changes, volatile]):
        place = tmp_path / str(number)
        shutil.copytree(source, place)
        config = json.loads((source / "config.json").read_text())
        config["vision_config"] |= change
        (place / "config.json").write_text(json.dumps(config | (volatile if change is volatile else {})))
        versions.append(load_tower(str(place)).version)
    assert len(set(versions)) == 3 and versions[3] == versions[0]


def test_the_state_dict_is_the_models(folder: Folder) -> None:
    one, other = load_tower(str(folder("clip"))), load_tower(str(folder("clip")))
    assert all(key.startswith("model.") for key in one.state_dict())
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.mul_(1.1)
    other.load_state_dict(one.state_dict())
    pixels = vision_models.pixels(one.transform, vision_models.pictures(1))
    with torch.no_grad():
        assert torch.equal(one(pixels), other(pixels))


def test_no_pictures(folder: Folder) -> None:
    tower = load_tower(str(folder("clip")), grid=2)
    assert tower(torch.zeros((0, *tower.pixel_shape), dtype=torch.uint8)).shape == (0, 5, 32)


def test_gradients_reach_the_first_layer(folder: Folder) -> None:
    tower = load_tower(str(folder("clip"))).train()
    tower(vision_models.pixels(tower.transform, vision_models.pictures(2))).square().sum().backward()
    first: Any = tower.model
    assert first.embeddings.patch_embedding.weight.grad.abs().sum() > 0


def test_the_name_is_the_folder_in_full(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder("vit")
    monkeypatch.chdir(place.parent)
    assert load_tower(f"./{place.name}").name == str(place.resolve())


# Classes that a user registers, as for weights in a format of their own.


class MapConfig(transformers.PreTrainedConfig):
    """Of a convolution with a feature map for output, and no pooling."""

    model_type = "noterec-test-map"


class Map(transformers.PreTrainedModel):
    config_class = MapConfig

    def __init__(self, config: MapConfig) -> None:
        super().__init__(config)
        self.stem = nn.Conv2d(3, 12, 8, stride=8)
        self.post_init()

    def forward(self, pixel_values: Tensor) -> Any:
        return SimpleNamespace(last_hidden_state=self.stem(pixel_values))


class FixedConfig(transformers.PreTrainedConfig):
    """Of a model whose positions are learned for one size, with no way to interpolate them."""

    model_type = "noterec-test-fixed"
    image_size: int = 32


class Fixed(transformers.PreTrainedModel):
    config_class = FixedConfig

    def __init__(self, config: FixedConfig) -> None:
        super().__init__(config)
        self.stem = nn.Conv2d(3, 12, 8, stride=8)
        self.positions = nn.Parameter(torch.zeros(1, 16, 12))
        self.post_init()

    def forward(self, pixel_values: Tensor) -> Any:
        return SimpleNamespace(last_hidden_state=self.stem(pixel_values).flatten(2).transpose(1, 2) + self.positions)


class PixelsOfMyOwn(transformers.ViTImageProcessorPil):
    """An image processor that the library doesn't know."""


def register(config: Any, model: Any) -> None:
    transformers.AutoConfig.register(config.model_type, config, exist_ok=True)
    transformers.AutoModel.register(config, model, exist_ok=True)


def test_a_registered_model_with_a_feature_map_and_its_own_image_processor(tmp_path: Path) -> None:
    register(MapConfig, Map)
    transformers.AutoImageProcessor.register(MapConfig, image_processor_classes={"pil": PixelsOfMyOwn}, exist_ok=True)
    model = Map(MapConfig()).eval()
    model.save_pretrained(tmp_path)
    PixelsOfMyOwn(size={"height": 40, "width": 40}, image_mean=MEAN, image_std=STD).save_pretrained(tmp_path)
    tower = load_tower(str(tmp_path))
    assert isinstance(tower.transform.pixels, Carried)
    assert type(tower.transform.pixels.processor) is PixelsOfMyOwn
    picture = vision_models.pictures(1)[0]
    with torch.no_grad():
        found = tower(vision_models.pixels(tower.transform, [picture]))[0]
        expected = model.stem(
            PixelsOfMyOwn(size=40, image_mean=MEAN, image_std=STD)(picture, return_tensors="pt").pixel_values
        )
    states = expected[0].flatten(1).T  # (25, 12)
    torch.testing.assert_close(found[1:], states, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[0], states.mean(dim=0), atol=1e-5, rtol=1e-5)


def test_positions_that_can_not_be_interpolated(tmp_path: Path) -> None:
    register(FixedConfig, Fixed)
    Fixed(FixedConfig()).save_pretrained(tmp_path)
    square(32, MEAN, STD, resample=2).save_pretrained(tmp_path)
    assert load_tower(str(tmp_path)).feature_shape == (17, 12)
    with pytest.raises(
        ConfigError, match=r"image_px=48: .* does not take pictures of 48 x 48 px .*leave vision\.image_px"
    ):
        load_tower(str(tmp_path), image_px=48)


@pytest.mark.parametrize("states", [None, torch.zeros(1, 12), torch.zeros(1, 14, 12)])
def test_an_output_without_patches(states: Tensor | None) -> None:
    class Blind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config, self.weight = SimpleNamespace(), nn.Parameter(torch.ones(1))

        def forward(self, pixel_values: Tensor) -> Any:
            return SimpleNamespace(last_hidden_state=states)

    transform = Transform.of(square(32, MEAN, STD, resample=2), "m")
    with pytest.raises(InputError, match=r"m: (gives no last_hidden_state|can't tell which of its 14 tokens)"):
        VisionTower(Blind(), transform, name="m")


@pytest.mark.parametrize("model_type", ["bert", "llama", "t5", "wav2vec2"])
def test_a_model_that_sees_nothing(model_type: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    match = rf"can't see with a {model_type} model; expected one of images alone, or with such a half \(CLIP"
    with pytest.raises(InputError, match=match):
        load_tower(str(tmp_path))


def test_a_folder_that_is_not_there() -> None:
    with pytest.raises(InputError, match="no such folder; expected a Hugging Face model folder"):
        load_tower("/nowhere/at/all")


def test_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no model there; expected a Hugging Face folder with config\.json"):
        load_tower(str(tmp_path))


def test_the_hub_out_of_reach_names_ways_out() -> None:
    with pytest.raises(
        DependencyError, match=r"(?s)no such folder here.*preprocessor_config\.json.*vision\.encoder=tiny"
    ):
        load_tower("somebody/some-model")


def test_a_folder_without_an_image_processor(folder: Folder, tmp_path: Path) -> None:
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((folder("vit") / file).read_bytes())
    with pytest.raises(InputError, match=r"no image processor there .*expected preprocessor_config\.json beside"):
        load_tower(str(tmp_path))


def changed(source: Path, target: Path, change: Callable[[dict[str, Tensor]], None]) -> str:
    """A copy of a model folder with other weights."""
    from safetensors.torch import load_file, save_file

    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    weights = load_file(source / "model.safetensors")
    change(weights)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return str(target)


def test_missing_weights_are_refused(folder: Folder, tmp_path: Path) -> None:
    name = changed(folder("vit"), tmp_path, lambda weights: weights.pop("layernorm.weight"))
    with pytest.raises(ArtefactError, match=r"1 weights are missing, the first is layernorm\.weight; fetch the model"):
        load_tower(name)


def test_weights_of_another_shape_are_refused(folder: Folder, tmp_path: Path) -> None:
    def shorten(weights: dict[str, Tensor]) -> None:
        weights["layernorm.weight"] = weights["layernorm.weight"][:8].clone()

    with pytest.raises(ArtefactError, match="the model folder does not load"):
        load_tower(changed(folder("vit"), tmp_path, shorten))


def test_damaged_weights_are_said_to_be_so(folder: Folder, tmp_path: Path) -> None:
    name = changed(folder("vit"), tmp_path, lambda weights: None)
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 64)
    with pytest.raises(ArtefactError, match="the model folder does not load"):
        load_tower(name)


def test_pooling_without_weights_is_not_made_up(
    folder: Folder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def strip(weights: dict[str, Tensor]) -> None:
        for key in [key for key in weights if key.startswith("pooler.")]:
            del weights[key]

    name = changed(folder("vit"), tmp_path, strip)
    with caplog.at_level(logging.INFO, logger="noterec"):
        tower = load_tower(name)
    assert "no weights for pooling" in caplog.text
    assert load_tower(name).version == tower.version
    pixels = vision_models.pixels(tower.transform, vision_models.pictures(2))
    with torch.no_grad():
        expected = own_model("vit", folder("vit"))(pixels.float() * 2 / 255 - 1).last_hidden_state
        torch.testing.assert_close(tower(pixels)[:, 0], expected[:, 0], atol=1e-5, rtol=1e-5)
