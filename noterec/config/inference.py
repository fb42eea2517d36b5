"""Settings of the stages that apply a model: embedding and generation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from noterec.config.data import ImagesConfig
from noterec.config.settings import Settings


class Incremental(Settings):
    """What stages that go through a dataset's notes, and only those that are new or changed, have in common."""

    source: Literal["snapshot", "delta"] = Field(
        "snapshot",
        description="what the notes table is: a snapshot (a note that isn't in it was deleted, and is withdrawn from the output) "
        "or a delta (only `deleted` says so, and it may hold no notes at all)",
    )
    max_deleted: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of the output's notes that one run may withdraw; above it nothing is withdrawn and it is an error",
    )
    full: bool = Field(
        False,
        description="do every note again, which needs a snapshot; if it is stopped or fails, the next run over a snapshot "
        "continues it, with this setting or without",
    )
    images: ImagesConfig = ImagesConfig()
    max_rejected: float = Field(
        0.05,
        ge=0,
        le=1,
        description="share of the notes with nothing to read, or of unusable pictures, above which it is an error",
    )


class EmbedConfig(Incremental):
    """Notes to vectors (`noterec embed`)."""

    batch_tokens: int | None = Field(
        None,
        ge=64,
        description="tokens of a batch, padding included; none = 2048 on a CPU, where a batch that stays in its caches is fastest, "
        "and 16384 on a GPU",
    )
    shard_rows: int = Field(
        10_000,
        ge=1,
        description="notes per output shard: what is sorted by length together, and what a killed job loses",
    )
    dimension: int | None = Field(
        None, ge=2, description="store only the first so many dimensions (a length trained by matryoshka); none = all"
    )
    dtype: Literal["float32", "float16"] = Field("float32", description="of the stored vectors")
    precision: Literal["fp32", "bf16", "fp16", "int8"] = Field(
        "fp32",
        description="of the backbone's matrix products; `noterec calibrate` says what one of the others costs in recall. fp16: GPU",
    )
    view: Literal["both", "text", "image", "shuffled", "visual"] = Field(
        "both",
        description="what of a note is encoded, for comparisons; both: all of it; text or image: that alone; shuffled: its text "
        "with another note's images; visual: the image word (vision.micl)",
    )
    device: str = Field(
        "auto",
        description="auto, cpu, cuda, cuda:1, ...; several, a process each: all (every GPU here), `cuda:0,cuda:1` or `cpu,cpu`",
    )
    engine: Literal["local", "ray"] = Field(
        "local", description="where encoders run: on this machine, or on a Ray cluster"
    )
    address: str | None = Field(
        None,
        description="of the Ray cluster, such as ray://head:10001; none = RAY_ADDRESS, or one that is started here",
    )
    workers: int | None = Field(
        None,
        ge=1,
        description="encoders on the Ray cluster, each with one GPU where it has any; none = as many as it has room for",
    )


class GenerateConfig(Incremental):
    """Notes to hashtags or a category (`noterec generate`)."""

    decoding: Literal["constrained", "free"] = Field(
        "constrained",
        description="of categories; constrained: one of the closed set, with its probability; free: whatever the model writes",
    )
    n: int = Field(5, ge=1, le=100, description="hashtags per note")
    top: int = Field(1, ge=1, description="categories listed per note with their probabilities; constrained only")
    samples: int = Field(
        0,
        ge=0,
        description="answers sampled per note at most, for the confidence; 0 = the greedy answer (hashtags: filled up to n)",
    )
    window: int = Field(
        4, ge=2, description="sampling stops when so many answers in a row agree (ESC, arXiv:2401.10480)"
    )
    early_stopping: bool = Field(True, description="off: always draw all samples")
    temperature: float = Field(0.7, gt=0)
    max_tokens: int = Field(48, ge=1, description="of an answer that is written freely")
    batch_tokens: int = Field(8192, ge=64, description="tokens of a batch, padding included")
    shard_rows: int = Field(2000, ge=1, description="notes per output shard; the unit that a killed job loses")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="of the backbone's matrix products; bf16 is faster where the device has it in hardware"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    seed: int = Field(0, ge=0)
