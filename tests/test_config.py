"""Settings: the later source is the stronger, and what is mistyped is never ignored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from noterec import config as configs
from noterec.config import EvaluateConfig, IndexConfig, PairsConfig, SampleConfig, SplitConfig, TrainConfig, load, make
from noterec.errors import ConfigError


def test_file_then_overrides_then_arguments(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text("lr: 1e-4\nseed: 1\nsteps: 7\nprompt:\n  title_tokens: 20\n  style: short\n")
    config = load(TrainConfig, file, ("seed=2", "steps=8", "prompt.title_tokens=21"), steps=9, dimension=None)
    assert (config.lr, config.seed, config.steps, config.dimension) == (1e-4, 2, 9, 128)
    assert (config.prompt.title_tokens, config.prompt.style, config.prompt.content_tokens) == (21, "short", 96)


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ("lr=3e-4", "lr", 3e-4),
        ("lr=1E-3", "lr", 1e-3),
        ("backbone=org/model", "backbone", "org/model"),
        ("layers=null", "layers", None),
        (" seed = 5", "seed", 5),
    ],
)
def test_values_are_read_as_meant(override: str, field: str, value: Any) -> None:
    assert getattr(load(TrainConfig, overrides=(override,)), field) == value


def test_lists() -> None:
    assert load(EvaluateConfig, overrides=("at=[5, 20]",)).at == [5, 20]
    assert load(IndexConfig, overrides=("attributes=[]",)).attributes == []


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("learning_rat=1",), "unknown setting 'learning_rat'"),
        (("sed=1",), "did you mean 'seed'"),
        (("prompt.titel_tokens=3",), "unknown setting 'prompt.titel_tokens'; did you mean 'title_tokens'"),
        (("zzzzzz=1",), "known are backbone, layers"),
        (("seed",), "--set seed: expected KEY=VALUE"),
        (("seed=[",), "not valid YAML"),
        (("seed.deep=1",), "seed"),
        (("seed=1", "seed.deep=1"), "seed is a single value and has no settings below it"),
        (("lr=0",), "lr: .*greater than 0"),
        (("lr=nan",), "lr: "),
        (("way=ful",), r"way: .*'auto', 'full', 'lora' or 'frozen'.*given: 'ful'"),
        (("steps=1.5",), "steps: .*given: 1.5"),
        (("backbone=7",), "backbone: .*string"),
        (("=1",), "unknown setting ''"),
    ],
)
def test_what_is_wrong_is_said(overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(TrainConfig, overrides=overrides)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n- b\n", "expected a mapping of settings .*found list"),
        ("just text", "found str"),
        ("a: [", "not valid YAML"),
        ("\x00", "not valid YAML"),
        ("seeed: 1", r"train\.yaml: unknown setting 'seeed'; did you mean 'seed'"),
        ("lr: fast", r"train\.yaml: lr: "),
        ("prompt: 3", "prompt: "),
    ],
)
def test_files_that_are_wrong(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "train.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        load(TrainConfig, tmp_path / "train.yaml")


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load(TrainConfig, tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="can't be read"):
        load(TrainConfig, tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"backbone: \xe9\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load(TrainConfig, tmp_path / "latin.yaml")
    (tmp_path / "empty.yaml").write_text("")
    assert load(TrainConfig, tmp_path / "empty.yaml") == TrainConfig()


def test_a_file_of_defaults_is_no_change(tmp_path: Path) -> None:
    for kind in (TrainConfig, PairsConfig, SplitConfig, SampleConfig, EvaluateConfig):
        config = kind()
        (tmp_path / "c.yaml").write_text(config.to_yaml())
        assert yaml.safe_load(config.to_yaml()) == config.model_dump(mode="json")
        assert load(kind, tmp_path / "c.yaml").hash == config.hash


def test_the_hash_follows_every_setting() -> None:
    hashes = {
        TrainConfig().hash,
        TrainConfig(seed=1).hash,
        load(TrainConfig, overrides=("prompt.title_tokens=3",)).hash,
    }
    assert len(hashes) == 3


def test_settings_do_not_change_and_check_each_other() -> None:
    with pytest.raises(Exception, match="frozen"):
        TrainConfig().seed = 3  # type: ignore[misc]
    with pytest.raises(ConfigError, match=r"split: .*cold \+ valid must be below 1"):
        make(SplitConfig, {"cold": 0.6, "valid": 0.4}, where="split")


@pytest.mark.parametrize(
    "kind",
    [
        configs.EmbedConfig,
        configs.EvaluateConfig,
        configs.GenerateConfig,
        configs.IndexConfig,
        configs.PairsConfig,
        configs.SampleConfig,
        configs.SplitConfig,
        configs.TrainConfig,
    ],
)
def test_the_described_settings_are_a_file_of_the_defaults(kind: type[configs.Settings], tmp_path: Path) -> None:
    text = kind.described()
    assert text.count("#") >= len(kind.model_fields) // 2
    (tmp_path / "all.yaml").write_text(text, encoding="utf-8")
    assert configs.load(kind, tmp_path / "all.yaml") == kind()
