"""Low-rank adapters: a large backbone is trained through a few small matrices beside its frozen ones (Hu et al., arXiv:2106.09685).

`add_adapters`, train, then `merge_adapters` for an ordinary model, or keep them apart: a folder of some megabytes that names its
backbone, in the format of the peft library. Only these functions know peft; to everybody else a backbone with adapters is a
backbone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from noterec.config import LoraConfig
from noterec.errors import ArtefactError, DependencyError, InputError
from noterec.model.backbone import Backbone, load_backbone, load_tokenizer, weights_hash

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
FILES = (CONFIG_FILE, WEIGHTS_FILE)
_PREFIX = "base_model.model."  # what peft's own loader expects before a module's name


def add_adapters(backbone: Backbone, config: LoraConfig, seed: int) -> None:
    """Put an adapter beside every linear layer of the trunk, and freeze all other weights of the model, in place.

    The second matrix of an adapter starts at zero: what the backbone computes doesn't change yet. The language-model head and a
    pooler get none.

    Args:
        backbone: without adapters.
        config: rank, alpha and dropout.
        seed: of the first matrices.

    Raises:
        InputError: there are adapters already, or no linear layer.
    """
    import peft
    from transformers.pytorch_utils import Conv1D

    model: Any = backbone.model
    if has_adapters(backbone):
        raise InputError("the backbone has adapters already; merge them before adding others")
    linear = _linear_layers(model)
    if not linear:
        raise InputError(f"way=lora: {type(model).__name__} has no linear layers to adapt; train it with way=full")
    alpha: Any = config.alpha  # peft declares it whole, but only divides it by the rank
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=alpha,
        lora_dropout=config.dropout,
        target_modules=list(linear),
        fan_in_fan_out=all(isinstance(layer, Conv1D) for layer in linear.values()),  # GPT-2's transposed weights
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # peft draws on the CPU, whatever device the model is on
        model.add_adapter(settings)


def has_adapters(backbone: Backbone) -> bool:
    """Whether adapters stand beside its weights, neither merged nor absent."""
    return bool(getattr(backbone.model, "peft_config", None))


def merge_adapters(backbone: Backbone) -> None:
    """Add the adapters into the weights that they stand beside; the model is an ordinary, trainable one again, in place.

    States agree with those before within rounding, so versions have to be computed anew (`NoteEncoder.weights_changed`).
    Without adapters nothing happens.
    """
    if not has_adapters(backbone):
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    model: Any = backbone.model
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            layer: Any = module
            layer.merge()
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, layer.get_base_layer())
    del model.peft_config, model._hf_peft_config_loaded
    model.requires_grad_(True)


def save_adapters(backbone: Backbone, folder: Path) -> dict[str, Any]:
    """Write adapter_config.json and adapter_model.safetensors, which peft can load onto the backbone too.

    Returns:
        What `load_adapters` needs to find the backbone: its name, how many of its layers are kept, a hash of its weights.

    Raises:
        InputError: the backbone was made in memory and stands nowhere else.
    """
    import peft
    from safetensors.torch import save_file

    if backbone.name is None:
        raise InputError(
            "lora.keep: this backbone isn't from a folder or hub, so adapters alone could never be read again; merge them"
        )
    model: Any = backbone.model
    state = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    weights = {f"{_PREFIX}{key}": value.detach().cpu().contiguous() for key, value in state.items()}
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (settings,) = model.peft_config.values()
    settings.save_pretrained(folder)
    return {"backbone": backbone.name, "layers": backbone.layers, "weights": _base_hash(model)}


def load_adapters(folder: Path, record: dict[str, Any], device: torch.device) -> Backbone:
    """The backbone that a folder's adapters belong to, with them.

    Args:
        folder: what `save_adapters` wrote, and a tokenizer.
        record: what `save_adapters` returned.
        device: where it goes.

    Raises:
        DependencyError: the backbone isn't here.
        ArtefactError: it has other weights than the one the adapters were trained on, or the adapters are damaged.
    """
    name, layers, expected = record["backbone"], record["layers"], record["weights"]
    try:
        backbone = load_backbone(name, layers=layers, device=device)
    except (InputError, DependencyError) as error:
        raise DependencyError(
            f"{folder}: holds adapters only, their backbone {name!r} does not load: {error}. Put it back, or name its new place "
            "as adapter.backbone in noterec.json"
        ) from error
    found = weights_hash(backbone.model.state_dict())
    if found != expected:
        raise ArtefactError(
            f"{folder}: its adapters were trained on weights {expected[:12]} of {name}, but {name} now holds weights {found[:12]}; "
            "give them the backbone that they were trained on, or train again"
        )
    _read(folder, backbone)
    backbone.tokenizer = load_tokenizer(str(folder))
    backbone.model.eval()
    return backbone


def _read(folder: Path, backbone: Backbone) -> None:
    import peft
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    model: Any = backbone.model
    try:
        settings = peft.LoraConfig.from_pretrained(str(folder))
        weights = load_file(folder / WEIGHTS_FILE)
        model.add_adapter(settings)
        outcome: Any = peft.set_peft_model_state_dict(model, weights)
    except (OSError, ValueError, TypeError, RuntimeError, json.JSONDecodeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise ArtefactError(f"{folder}: its adapters do not load ({first}); copy the model again") from error
    missing = [key for key in outcome.missing_keys if "lora_" in key]
    if missing or outcome.unexpected_keys:
        raise ArtefactError(
            f"{folder / WEIGHTS_FILE}: {len(missing)} weights are missing and {len(outcome.unexpected_keys)} are unknown, the "
            f"first is {[*missing, *outcome.unexpected_keys][0]}; copy the model again"
        )


def _linear_layers(model: Any) -> dict[str, nn.Module]:
    """The trunk's linear layers by their name in the model. A pooler is never run, its adapter would get no gradient."""
    from transformers.pytorch_utils import Conv1D

    trunk = cast("nn.Module", model.base_model)
    inside = {id(module) for name, module in trunk.named_modules() if "pooler" not in name.split(".")}
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and id(module) in inside
    }


def _base_hash(model: nn.Module) -> str:
    """The hash of the weights beside the adapters, under the names that they have without."""
    state = model.state_dict()
    return weights_hash({key.replace(".base_layer.", "."): state[key] for key in state if ".lora_" not in key})
