"""The settings of every stage: one pydantic model each, with the unit and meaning beside the field.

A setting that doesn't exist is an error, never ignored. `load` merges, weakest first: the defaults, a YAML file, `key=value`
overrides. `Settings.hash` goes into what a stage writes.
"""

from __future__ import annotations

import difflib
import os
from typing import Any, Literal, Self, TypeVar

import pydantic
import yaml
from pydantic import ConfigDict, Field

from noterec.errors import ConfigError
from noterec.storage import local, value_hash


class Settings(pydantic.BaseModel):
    """Base of all settings: immutable, and strict about names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_yaml(self) -> str:
        """These settings as YAML, in the order in which they are declared."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    @property
    def hash(self) -> str:
        """16 hexadecimal digits that change when any setting changes."""
        return value_hash(self.model_dump(mode="json"))


class SampleConfig(Settings):
    """The synthetic platform (`noterec sample`)."""

    notes: int = Field(3000, ge=50, description="notes, the last week's new ones included")
    users: int = Field(1500, ge=10, description="people")
    weeks: int = Field(4, ge=2, le=52, description="length of the log in weeks; the last one brings the new notes")
    image_px: int = Field(64, ge=16, le=512, description="side of the square pictures, in pixels")
    seed: int = Field(0, ge=0)


Weighting = Literal["notellm", "count", "cosine", "lift"]


class PairsConfig(Settings):
    """Related pairs from a log (`noterec pairs`)."""

    weighting: Weighting = Field("cosine", description="how a pair of notes is scored; notellm is directional")
    min_support: int = Field(2, ge=1, description="people who must share a pair")
    top: int = Field(10, ge=1, description="related notes kept per anchor (t in arXiv:2403.01744)")
    lower: float | None = Field(None, description="scores below are dropped; notellm: 0.01 unless set")
    upper: float | None = Field(None, description="scores above are dropped; notellm: 30 unless set")
    window_days: float | None = Field(None, gt=0, description="only the last days of the log; none = all of it")
    max_notes_per_user: int = Field(1000, ge=2, description="a person's most recent notes; older ones are left out")
    partition_events: int = Field(
        250_000, ge=1000, description="co-occurrences are built for about this many events at a time"
    )


class SplitConfig(Settings):
    """Leak-proof splits (`noterec split`)."""

    by: Literal["random", "time"] = Field(
        "random", description="which notes are new: drawn at random, or the last created"
    )
    cold: float = Field(0.2, gt=0, lt=1, description="share of the notes held out as new for test")
    valid: float = Field(0.1, ge=0, lt=1, description="share of the notes held out as new for model choice")
    top: int = Field(10, ge=1, description="relevant notes per query")
    min_support: int = Field(2, ge=1, description="people who must share a relevant pair")
    max_notes_per_user: int = Field(1000, ge=2, description="as in pairs; for the relevant notes only")
    seed: int = Field(0, ge=0)

    @pydantic.model_validator(mode="after")
    def _some_must_stay(self) -> Self:
        if self.cold + self.valid >= 1:
            raise ValueError("cold + valid must be below 1, so that some notes are left to train on")
        return self


class PromptConfig(Settings):
    """How a note becomes tokens. Limits are in tokens of the model's own tokenizer; text beyond them is cut."""

    title_tokens: int = Field(32, ge=1)
    hashtags_tokens: int = Field(32, ge=1)
    content_tokens: int = Field(96, ge=1)
    style: Literal["auto", "compress", "short", "plain"] = Field(
        "auto",
        description="compress: NoteLLM's compression prompt; short: its quotes without the words; plain: the bare text; "
        "auto: compress for a language model, short for tiny, plain for a sentence encoder",
    )


class TrainConfig(Settings):
    """Training an encoder (`noterec train`)."""

    backbone: str = Field("tiny", description="tiny, minilm, a Hugging Face model folder, or a hub id")
    layers: int | None = Field(None, ge=1, description="keep only the backbone's first layers; none = all")
    way: Literal["auto", "full", "frozen"] = Field(
        "auto",
        description="full: every weight moves; frozen: a head on cached states; auto: full for tiny, else frozen",
    )
    objective: Literal["auto", "pairs", "graph"] = Field(
        "auto",
        description="pairs: contrastive loss over pairs (the paper's); graph: soft targets over a block of notes and all "
        "their relations in it; auto: graph for frozen, else pairs",
    )
    dimension: int = Field(128, ge=2, description="D, the embedding's length")
    prompt: PromptConfig = PromptConfig()
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
    backbone_lr: float = Field(5e-5, gt=0, description="peak learning rate of a pretrained backbone that moves")
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
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    seed: int = Field(0, ge=0)


class EmbedConfig(Settings):
    """Notes to vectors (`noterec embed`)."""

    batch_tokens: int = Field(16384, ge=64, description="tokens of a batch, padding included")
    shard_rows: int = Field(10_000, ge=1, description="notes per output shard; the unit that a killed job loses")
    dtype: Literal["float32", "float16"] = Field("float32", description="of the stored vectors")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="of the backbone's matrix products; bf16 is faster where the device has it in hardware"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")


class IndexConfig(Settings):
    """Vectors to a FAISS bundle (`noterec index`)."""

    kind: Literal["auto", "flat"] = Field("auto", description="auto and flat are both exact search in this version")
    attributes: list[str] = Field(
        ["title", "category", "author_id", "language", "created_at", "exposure"],
        description="columns of the notes that are kept beside the vectors, for reading and filtering",
    )
    keep: int = Field(3, ge=1, description="bundles kept, the live one included")


class EvaluateConfig(Settings):
    """The evaluation protocol (`noterec evaluate`)."""

    at: list[int] = Field([10, 50, 100], min_length=1, description="cut-offs K of recall and hit")
    rank_at: int = Field(10, ge=1, description="cut-off of MRR and nDCG")
    builtin: list[str] = Field(["random", "popularity", "bm25"], description="built-in arms beside the user's own")
    fuse: bool = Field(True, description="add NAME+bm25, reciprocal-rank fusion, for every arm that the user gives")
    fuse_depth: int = Field(1000, ge=10, description="ranks that enter a fusion")
    rrf_k: float = Field(10.0, gt=0, description="constant of reciprocal-rank fusion")
    fuse_weight: float = Field(2.0, gt=0, description="weight of the embedding's ranking beside 1 of BM25's")
    resamples: int = Field(2000, ge=100, description="bootstrap resamples over queries")
    seed: int = Field(0, ge=0)


S = TypeVar("S", bound=Settings)


def load(
    kind: type[S],
    file: str | os.PathLike[str] | None = None,
    overrides: list[str] | tuple[str, ...] = (),
    **given: Any,
) -> S:
    """Build settings from defaults, a YAML file, `key=value` strings and keyword arguments, the later the stronger.

    Args:
        kind: the settings class.
        file: a YAML file with a mapping of settings, or None.
        overrides: strings such as `lr=3e-4` or `prompt.title_tokens=20`; the value is read as YAML.
        given: settings by name; those that are None count as not given.

    Raises:
        ConfigError: the file isn't a mapping, a key is unknown (with the nearest name), or a value is out of range.
    """
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = yaml.safe_load(local(file).read_text(encoding="utf-8")) or {}
        except FileNotFoundError as error:
            raise ConfigError(f"{file}: no such file; expected a YAML file of {kind.__name__} settings") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: not valid YAML: {str(error).splitlines()[0]}") from error
        except OSError as error:
            raise ConfigError(f"{file}: can't be read: {error.strerror}; expected a YAML file") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{file}: expected a mapping of settings (key: value), found {type(values).__name__}")
    for override in overrides:
        key, sign, text = override.partition("=")
        if not sign:
            raise ConfigError(f"--set {override}: expected KEY=VALUE")
        *path, last = key.strip().split(".")
        place = values
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ConfigError(f"--set {override}: {part} is a single value and has no settings below it")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {override}: the value is not valid YAML; quote it") from error
        place[last] = float(value) if isinstance(value, str) and _is_number(value) else value
    values.update({key: value for key, value in given.items() if value is not None})
    return make(kind, values, where=str(file) if file else "settings")


def make(kind: type[S], values: dict[str, Any], *, where: str) -> S:
    """Validate a mapping as settings of a kind; `where` names its source in the message."""
    try:
        return kind.model_validate(values)
    except pydantic.ValidationError as error:
        raise ConfigError(f"{where}: " + "; ".join(_explain(kind, item) for item in error.errors())) from error


def _is_number(text: str) -> bool:
    try:
        float(text)  # YAML 1.1 reads 3e-4 as a string
    except ValueError:
        return False
    return True


def _explain(kind: type[Settings], item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] != "extra_forbidden":
        return f"{key or kind.__name__}: {item['msg']} (given: {item['input']!r})"
    fields: dict[str, Any] = kind.model_fields
    for part in item["loc"][:-1]:
        fields = fields[part].annotation.model_fields
    near = difflib.get_close_matches(str(item["loc"][-1]), fields, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(fields)}"
    return f"unknown setting {key!r}; {hint}"
