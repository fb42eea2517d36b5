"""What a training run will do: a configuration with every `auto` decided."""

from __future__ import annotations

import dataclasses

import torch

from noterec.config import TrainConfig, VisionConfig
from noterec.errors import ConfigError
from noterec.model.backbone import Kind, fast_bf16

SMALL_NOTES = 10_000
LEXICON_WORDS = 100_000
PAPER_ALPHA = 0.01  # arXiv:2403.01744 §5.1
TOWER_LR = 5e-5  # of a pretrained vision encoder, also beside adapters, which start at nothing and want more
PASS_TOKENS = 4096  # of one pass with gradient: long enough to fill the hardware, short enough for notes of like length


@dataclasses.dataclass(frozen=True)
class Plan:
    """A configuration with every `auto` decided."""

    way: str
    objective: str
    steps: int
    lr: float
    words_lr: float
    batch_notes: int
    lexicon: int
    valid_queries: int
    valid_pool: int
    logit_scale: float
    backbone_lr: float
    tower_lr: float  # of a pretrained vision encoder that moves
    alpha: float
    pass_tokens: int
    bf16: bool  # the backbone's products while it is trained, and at the looks
    vision: VisionConfig

    @classmethod
    def of(cls, config: TrainConfig, train_notes: int, kind: Kind, device: torch.device) -> Plan:
        """Decide what the configuration leaves open.

        Args:
            config: the settings.
            train_notes: how many notes there are to train on.
            kind: of the backbone.
            device: where it is trained.

        Raises:
            ConfigError: settings that exclude each other.
        """
        small = train_notes < SMALL_NOTES  # few relations are learned by heart in a few large steps
        tiny_model = config.backbone == "tiny"
        way = way_of(config)
        frozen = way == "frozen"
        objective = config.objective if config.objective != "auto" else "graph" if frozen else "pairs"
        graph = objective == "graph"
        if graph and (config.negatives.hard or config.negatives.logq):
            raise ConfigError(
                "negatives.hard and negatives.logq need objective=pairs: a graph block is drawn uniformly, not by popularity, and "
                "holds thousands of negatives already"
            )
        if frozen and (config.devices > 1 or config.chunk_notes is not None or config.gradient_checkpointing):
            raise ConfigError(
                "devices, chunk_notes and gradient_checkpointing are for a backbone whose weights move (way=full or lora); a head "
                "on cached states trains in seconds on one device"
            )
        if tiny_model and (config.layers is not None or way != "full"):
            raise ConfigError(
                "backbone tiny is trained from scratch: it takes neither layers nor another way than full"
            )
        return cls(
            way=way,
            objective=objective,
            steps=config.steps if config.steps is not None else 120 if tiny_model else 300,
            lr=config.lr or (2e-3 if tiny_model else 3e-4 if small else 1e-3),
            words_lr=config.words_lr or (1e-2 if tiny_model else 1e-3 if small else 3e-3),
            batch_notes=config.batch_notes or ((1024 if small else 2048) if graph else 256),
            lexicon=config.lexicon if config.lexicon is not None else LEXICON_WORDS if frozen or tiny_model else 0,
            valid_queries=config.valid_queries or (5000 if frozen else 500),
            valid_pool=config.valid_pool or (100_000 if frozen else 4000),
            logit_scale=config.logit_scale if config.logit_scale is not None else 2.66 if graph else 3.0,
            backbone_lr=config.backbone_lr or (3e-4 if way == "lora" else 5e-5),
            tower_lr=TOWER_LR,
            alpha=_alpha(config, way, kind),
            pass_tokens=min(config.batch_tokens, PASS_TOKENS),
            bf16=config.precision == "bf16" or (config.precision == "auto" and not frozen and fast_bf16(device)),
            vision=decided(config.vision, frozen=frozen, kind=kind),
        )


def way_of(config: TrainConfig) -> str:
    """full, lora or frozen."""
    return config.way if config.way != "auto" else "full" if config.backbone == "tiny" else "frozen"


def decided(vision: VisionConfig, *, frozen: bool, kind: Kind) -> VisionConfig:
    """How images enter, with every `auto` decided.

    Args:
        vision: the settings.
        frozen: the backbone stands still, its states are cached.
        kind: of the backbone.

    Raises:
        ConfigError: settings that exclude each other, or that leave the images unused.
    """
    if not vision.on:
        return vision
    tokens = vision.tokens if vision.tokens is not None else 0 if frozen else 16
    micl = vision.micl if vision.micl is not None else bool(tokens) and kind == "causal"
    fusion = vision.fusion if vision.fusion != "auto" else "head" if frozen else "gate"
    train = vision.train if vision.train is not None else vision.encoder == "tiny"
    if frozen and (tokens or fusion != "head" or train):
        raise ConfigError(
            "way=frozen trains a head on cached states: images come in there (vision.fusion=head, vision.tokens=0) from a vision "
            "encoder that stands still (vision.train=false, not tiny); or use way full or lora"
        )
    if micl and not (tokens and kind == "causal"):
        raise ConfigError(
            "vision.micl needs visual tokens (vision.tokens) in the prompt of a causal language model; found "
            f"{f'tokens={tokens}' if kind == 'causal' else 'a sentence encoder'}"
        )
    if not tokens and fusion == "none":
        raise ConfigError(
            "vision.tokens=0 with vision.fusion=none leaves the images out; give one of them, or encoder=none"
        )
    if vision.augment and not train:
        raise ConfigError(
            "vision.augment needs vision.train: the features of a vision encoder that stands still are cached"
        )
    _check_heeded(vision, tokens=tokens, micl=micl)
    return vision.model_copy(update={"tokens": tokens, "micl": micl, "fusion": fusion, "train": train})


def _check_heeded(vision: VisionConfig, *, tokens: int, micl: bool) -> None:
    """Refuse a setting that was changed and that nothing would heed."""
    in_prompt = "visual tokens in the prompt, and there are none (vision.tokens=0, always so with way=frozen)"
    needed = {"connector": in_prompt, "grid": in_prompt, "connector_layers": in_prompt} if not tokens else {}
    if tokens and vision.connector != "qformer":
        needed["connector_layers"] = "vision.connector=qformer"
    if not micl:
        needed["visual_weight"] = "an image word (vision.micl)"
    for name, lacking in needed.items():
        if getattr(vision, name) != VisionConfig.model_fields[name].default:
            raise ConfigError(f"vision.{name}={getattr(vision, name)} needs {lacking}; leave it out")


def _alpha(config: TrainConfig, way: str, kind: Kind) -> float:
    """The weight of writing; 0 where nothing can learn to write."""
    can = kind == "causal" and way != "frozen"
    if config.tasks.alpha is None:  # tiny's words carry its embedding, and writing took half as long again for nothing
        return PAPER_ALPHA if can and config.backbone != "tiny" else 0.0
    if config.tasks.alpha and not can:
        raise ConfigError(
            f"tasks.alpha={config.tasks.alpha}: learning to write needs a causal language model whose weights move; found "
            f"{'a sentence encoder' if kind == 'encoder' else 'way=frozen'}. Use --way full or lora with a language model, or "
            "tasks.alpha=0"
        )
    return config.tasks.alpha
