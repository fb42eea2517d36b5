"""Settings of prompts and training."""

from __future__ import annotations

import re
from typing import Any, Literal, Self

import pydantic
import yaml
from pydantic import Field

from noterec.config.data import ImagesConfig
from noterec.config.settings import Settings
from noterec.config.vision import VisionConfig
from noterec.storage import local

FIELDS = ("title", "hashtags", "content")
PLACEHOLDER = re.compile("<(title|hashtags|content|image|emb|count|output)>")


class Template(Settings):
    """A prompt in one's own words or language, from a YAML file with the keys `category` and `hashtags`, and `image` for a model
    that sees.

    `<title>`, `<hashtags>` and `<content>` stand where a note's fields go, `<emb>` right behind the token whose state becomes the
    embedding, `<count>` for how many hashtags are asked for, `<output>` at the end. Notes are embedded with the `category`
    prompt up to `<emb>`. `image` is put before it where a note has images: `<image>` stands where they go, and `<emb>` right behind
    the image word (`vision.micl`).
    """

    category: str
    hashtags: str
    image: str | None = None

    @pydantic.field_validator("image")
    @classmethod
    def _shows_the_image(cls, text: str | None) -> str | None:
        if text is None:
            return text
        places = PLACEHOLDER.findall(text)
        if places not in (["image"], ["image", "emb"]):
            raise ValueError("expected <image> once, and at most one <emb> behind it")
        if "emb" in places and not text.partition("<image>")[2].partition("<emb>")[0]:
            raise ValueError(
                "expected literal text, such as a quote, between <image> and <emb>: its last token is the image word"
            )
        return text

    @pydantic.field_validator("category", "hashtags")
    @classmethod
    def _is_whole(cls, text: str, info: pydantic.ValidationInfo) -> str:
        places = PLACEHOLDER.findall(text)
        for name in ("emb", "output"):
            if places.count(name) != 1:
                raise ValueError(f"expected <{name}> exactly once")
        if "image" in places:
            raise ValueError("<image> stands in the key `image` only, which is put before this prompt")
        fields = [place for place in places if place in FIELDS]
        if not fields or len(set(fields)) < len(fields):
            raise ValueError(
                "expected each of <title>, <hashtags> and <content> at most once, and at least one of them"
            )
        if any(place in FIELDS for place in places[places.index("emb") :]):
            raise ValueError("expected the note's fields before <emb>, so that the embedding has read them")
        if places[-1] != "output" or text.rstrip().removesuffix("<output>") == text.rstrip():
            raise ValueError("expected <output> at the end")
        if info.field_name == "category" and "count" in places:
            raise ValueError("<count> is for the hashtags prompt only")
        before = text.split("<emb>")[0]
        if not before or re.search(f"{PLACEHOLDER.pattern}$", before):
            raise ValueError(
                "expected literal text, such as a quote, right before <emb>: its last token is the readout"
            )
        return text


class PromptConfig(Settings):
    """How a note becomes tokens. Limits are in tokens of the model's own tokenizer; text beyond them is cut."""

    title_tokens: int = Field(32, ge=0, description="0 leaves the field out")
    hashtags_tokens: int = Field(32, ge=0, description="0 leaves the field out")
    content_tokens: int = Field(96, ge=0, description="0 leaves the field out")
    output_tokens: int = Field(48, ge=4, description="of the hashtags or the category that a model learns to write")
    style: Literal["auto", "compress", "compress-zh", "short", "plain"] = Field(
        "auto",
        description="compress: NoteLLM's compression prompt, -zh: in Chinese; short: its quotes without the words; plain: the bare "
        "text; auto: compress for a language model, short for tiny, plain for a sentence encoder",
    )
    template: Template | None = Field(
        None, description="a YAML file with prompts of one's own, in place of a style; its text is kept with the model"
    )

    @pydantic.field_validator("template", mode="before")
    @classmethod
    def _read(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return yaml.safe_load(local(value).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ValueError(f"{value}: no readable YAML file with the keys category and hashtags ({error})") from error

    @pydantic.model_validator(mode="after")
    def _reads_something(self) -> Self:
        if not self.title_tokens + self.hashtags_tokens + self.content_tokens:
            raise ValueError("all fields have 0 tokens; expected at least one that is read")
        return self


class TasksConfig(Settings):
    """Collaborative supervised fine-tuning: what the model learns to write beside its embedding (arXiv:2403.01744 §4.4)."""

    alpha: float | None = Field(
        None,
        ge=0,
        description="of L_gen in (L_cl + alpha L_gen) / (1 + alpha); 0 = no writing; none: 0.01 (the paper) "
        "for a pretrained language model whose weights move, else 0",
    )
    hashtag_share: float = Field(
        0.4, ge=0, le=1, description="r: share of a batch that writes hashtags, the others a category"
    )
    max_hashtags: int = Field(10, ge=1, description="hashtags that a note is asked for at most; how many is drawn")


class NegativesConfig(Settings):
    """What counts against an anchor, and how much."""

    mask_related: bool = Field(True, description="notes of the batch that are known to be related are no negatives")
    logq: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the logQ popularity correction (Yi et al., RecSys'19); pairs objective only",
    )
    hard: int = Field(0, ge=0, description="mined hard negatives per pair; pairs objective only")
    hard_from: int = Field(10, ge=0, description="nearest neighbours that are skipped, as too likely related")
    hard_to: int = Field(100, ge=1, description="nearest neighbours beyond which a note is no hard negative")
    hard_margin: float = Field(
        0.95,
        gt=0,
        le=1,
        description="what a hard negative's similarity may reach of the anchor's mean similarity to its relations",
    )
    hard_every: int | None = Field(None, ge=1, description="steps between two minings; none: an epoch")

    @pydantic.model_validator(mode="after")
    def _is_a_band(self) -> Self:
        if self.hard_from >= self.hard_to:
            raise ValueError("hard_from must be below hard_to")
        return self


class LoraConfig(Settings):
    """Low-rank adapters (way=lora; Hu et al., arXiv:2106.09685)."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0, description="the update is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1)
    keep: bool = Field(
        False, description="save the adapter beside a reference to its backbone, not merged into the weights"
    )


class TrainConfig(Settings):
    """Training an encoder (`noterec train`)."""

    backbone: str = Field("tiny", description="tiny, minilm, a Hugging Face model folder, or a hub id")
    layers: int | None = Field(None, ge=1, description="keep only the backbone's first layers; none = all")
    way: Literal["auto", "full", "lora", "frozen"] = Field(
        "auto",
        description="full: every weight moves; lora: low-rank adapters move; frozen: a head on cached states; auto: full for tiny, "
        "else frozen",
    )
    lora: LoraConfig = LoraConfig()
    objective: Literal["auto", "pairs", "graph"] = Field(
        "auto",
        description="pairs: contrastive loss over pairs (the paper's); graph: soft targets over a block of notes and all "
        "their relations in it; auto: graph for frozen, else pairs",
    )
    dimension: int = Field(128, ge=2, description="D, the embedding's length")
    matryoshka: list[int] = Field(
        [],
        description="shorter lengths that are trained with it (32, 64, ...): a prefix of the vector is an embedding too",
    )
    prompt: PromptConfig = PromptConfig()
    vision: VisionConfig = VisionConfig()
    images: ImagesConfig = ImagesConfig()
    tasks: TasksConfig = TasksConfig()
    negatives: NegativesConfig = NegativesConfig()
    lexicon: int | None = Field(
        None,
        ge=0,
        description="words with a trained vector of their own beside the backbone; none: 100,000 if frozen or tiny, else 0",
    )
    head_branch: int = Field(0, ge=0, description="width of the head's nonlinear residual branch; 0 = a linear head")
    steps: int | None = Field(
        None, ge=0, description="optimiser steps at most; none: 120 for tiny, else 300; 0 saves the start, untrained"
    )
    batch_notes: int | None = Field(
        None,
        ge=4,
        description="notes seen by a step, 2P for P pairs; none: 256 for pairs, 2048 for a graph block, or 1024 below 10,000 "
        "training notes",
    )
    chunk_notes: int | None = Field(
        None,
        ge=1,
        description="gradient cache: notes whose activations are held at a time, whatever the batch; "
        "none: the whole batch",
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute each layer on the way back: less memory, a third slower"
    )
    lr: float | None = Field(
        None,
        gt=0,
        description="peak learning rate of head, logit scale and a tiny backbone; none: 2e-3 for tiny, else 1e-3, or 3e-4 below "
        "10,000 training notes",
    )
    words_lr: float | None = Field(
        None,
        gt=0,
        description="peak learning rate of the lexicon; none: 1e-2 for tiny, else 3e-3, or 1e-3 below "
        "10,000 training notes",
    )
    backbone_lr: float | None = Field(
        None,
        gt=0,
        description="peak learning rate of a pretrained language model that moves; none: 5e-5, or 3e-4 for lora",
    )
    weight_decay: float = Field(1e-3, ge=0)
    warmup: float = Field(0.1, ge=0, le=1, description="share of the steps with a rising learning rate")
    logit_scale: float | None = Field(
        None,
        description="starting value of τ; cosines are multiplied by e^τ; none: 3 for pairs (the paper), 2.66 for graph",
    )
    valid_every: int = Field(20, ge=1, description="steps between two looks at cold recall")
    valid_queries: int | None = Field(None, ge=1, description="cold queries of a look; none: 5,000 if frozen, else 500")
    valid_pool: int | None = Field(
        None, ge=10, description="notes that they are ranked among; none: 100,000 if frozen, else 4,000"
    )
    patience: int = Field(5, ge=1, description="looks without a better recall before training stops")
    checkpoint_every: int = Field(100, ge=1, description="steps between two checkpoints")
    batch_tokens: int = Field(16384, ge=64, description="tokens per forward pass where no gradient is needed")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="of the backbone's matrix products; auto: bf16 where it is trained and the device has it in hardware, "
        "fp32 for cached states",
    )
    vocabulary: int = Field(8000, ge=300, description="tokens of tiny's own tokenizer")
    loggers: dict[str, dict[str, Any]] = Field(
        {"csv": {}, "tensorboard": {}},
        description="csv, tensorboard, or any class of lightning.pytorch.loggers by name (WandbLogger), with its arguments",
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    devices: int = Field(1, ge=1, description="processes that share every batch, one per GPU (or per CPU share)")
    seed: int = Field(0, ge=0)

    @pydantic.model_validator(mode="after")
    def _adapters_are_wanted(self) -> Self:
        if self.lora != LoraConfig() and self.way != "lora":
            raise ValueError(f"lora settings are given and way={self.way}; give way=lora too")
        return self

    @pydantic.model_validator(mode="after")
    def _lengths_are_nested(self) -> Self:
        if any(not 2 <= length < self.dimension for length in self.matryoshka):
            raise ValueError(f"matryoshka lengths must be at least 2 and below dimension={self.dimension}")
        return self
