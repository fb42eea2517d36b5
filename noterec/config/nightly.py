"""Settings of the nightly job (`noterec nightly`): one file for all its stages."""

from __future__ import annotations

from typing import Self

import pydantic
from pydantic import Field

from noterec.config.data import PairsConfig
from noterec.config.index import IndexConfig
from noterec.config.inference import EmbedConfig
from noterec.config.model import TrainConfig
from noterec.config.quality import EvaluateConfig
from noterec.config.settings import Settings


class TrainingConfig(Settings):
    """When the nightly job trains a model of its own, and when one takes the place of the live one."""

    every_days: float | None = Field(
        None,
        gt=0,
        description="days between two trainings; none = only where there is no model at all. Where a model is named, what is "
        "trained has to win over it, and the named one, once beaten, is still compared every night",
    )
    valid_days: float = Field(
        3,
        gt=0,
        description="the last days before the new notes choose the best weights and are not trained on",
    )
    win: float = Field(
        0.0,
        description="another model is published only if the lower end of its relative gain over the live one (95 %, paired, on "
        "tonight's questions) is above this; -0.01 lets one through that is surely not more than 1 % worse",
    )
    settings: TrainConfig = TrainConfig()


class NightEvaluateConfig(EvaluateConfig):
    """The evaluation protocol, without the arm that knows tonight's clicks."""

    builtin: list[str] = Field(["bm25"], description="built-in arms beside the model's: bm25, random")
    html: bool = Field(True, description="write the evaluation's page, report.html, too")


class GatesConfig(Settings):
    """What stops a night before anything is published. A gate that can't be measured says so in the report and stops nothing."""

    rejects: float = Field(
        0.05, ge=0, le=1, description="share of the notes with nothing to read, and of unusable pictures, at most"
    )
    deleted: float = Field(
        0.2, ge=0, le=1, description="share of the live index's notes that may be gone from the dataset at once"
    )
    notes: float = Field(
        0.25,
        gt=0,
        description="relative change of the number of notes since the live index was built, at most; 20 notes more "
        "are never too many",
    )
    counts: float = Field(
        4.0,
        gt=1,
        description="tonight's new and deleted notes lie between the median of the last 14 nights divided and multiplied by this; "
        "judged once four nights say what is usual, and up to 20 notes are never too many. A night after missing ones may bring "
        "that much for each",
    )
    canaries: int = Field(512, ge=0, description="unchanged notes that are encoded again and compared; 0 = none")
    canary_cosine: float = Field(
        0.999,
        gt=0,
        le=1,
        description="of every canary's vector with the stored one, at least; fp32 on one machine gives 0.99999",
    )
    loss: float = Field(
        0.02,
        ge=0,
        description="relative recall that tonight's bundle may have lost against the live one on the same questions: stops where "
        "the paired 99 % upper bound lies below minus this",
    )
    questions: int = Field(2000, ge=10, description="new notes, and as many known ones, that are asked for at most")
    at: int = Field(10, ge=1, description="K of recall@K between two bundles or two models")
    stale_hours: float = Field(48, gt=0, description="age of the newest note that is served, at most")


class TablesConfig(Settings):
    """The neighbour tables of a night."""

    k: int = Field(100, ge=1, description="neighbours per note, in both tables: new -> all and warm -> new")
    per_author: int | None = Field(None, ge=1, description="notes of one author among a note's neighbours, at most")
    duplicates: float | None = Field(
        None, gt=0, le=1, description="leave out neighbours whose cosine with a better one is at least this (reposts)"
    )


class RetentionConfig(Settings):
    """What is kept of earlier nights. Bundles are kept by number (index.keep)."""

    runs: int = Field(30, ge=1, description="folders of finished runs; the newest so many stay whatever their age")
    days: float = Field(90, gt=0, description="a run folder beyond `runs` goes once it is so old")
    models: int = Field(
        3, ge=1, description="trained models, newest first; one that a kept bundle was made with stays in any case"
    )
    compact: float = Field(
        0.3,
        gt=0,
        le=1,
        description="share of an embeddings table's rows that no longer count, above which it is compacted",
    )


class NightlyConfig(Settings):
    """The nightly job (`noterec nightly`)."""

    dataset: str = Field(
        "data/mine",
        description="all notes and the log as they are tonight: notes/*.parquet, to which a platform adds files, and engagement/. "
        "This and every other relative path is of the folder in which the command runs",
    )
    home: str = Field("nightly", description="folder for all that the job makes and keeps")
    model: str | None = Field(
        None,
        description="the encoder's folder or hub id; another one than before has to win first. None = the job trains its own",
    )
    image_root: str | None = Field(None, description="the only folder below which pictures given by path are read")
    cache: str | None = Field(None, description="root of the caches, as --cache of the stages")
    new_days: float = Field(
        7,
        gt=0,
        description="so long a note is new: marked in the index, asked for in every evaluation, and never trained on",
    )
    pairs: PairsConfig = PairsConfig()
    training: TrainingConfig = TrainingConfig()
    embed: EmbedConfig = EmbedConfig()
    index: IndexConfig = IndexConfig()
    evaluate: NightEvaluateConfig = NightEvaluateConfig()
    gates: GatesConfig = GatesConfig()
    neighbours: TablesConfig = TablesConfig()
    retention: RetentionConfig = RetentionConfig()

    @pydantic.model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.embed.source != "snapshot" or self.embed.full:
            raise ValueError(
                "embed.source and embed.full are not for the nightly job, whose dataset is a snapshot: leave them out, and run "
                "`noterec embed --full` on HOME/embeddings by hand"
            )
        for name, instead in (("max_rejected", "gates.rejects"), ("max_deleted", "gates.deleted")):
            if getattr(self.embed, name) != EmbedConfig.model_fields[name].default:
                raise ValueError(f"embed.{name} does nothing in the nightly job; set {instead} instead")
        if self.embed.view != "both":
            raise ValueError("embed.view is for comparisons; the nightly job encodes whole notes: leave it out")
        if "popularity" in self.evaluate.builtin:
            raise ValueError(
                "evaluate.builtin: popularity knows the clicks that tonight's questions are made of; leave it out"
            )
        if unknown := set(self.evaluate.builtin) - {"bm25", "random"}:
            raise ValueError(f"evaluate.builtin: {', '.join(sorted(unknown))}; expected bm25, random, or none")
        if self.evaluate.fuse and "bm25" not in self.evaluate.builtin:
            raise ValueError("evaluate.fuse needs bm25 in evaluate.builtin; add it, or set evaluate.fuse: false")
        if self.evaluate.sums:
            raise ValueError("evaluate.sums needs two arms, and a night has one: leave it out")
        if "created_at" not in self.index.attributes:
            raise ValueError("index.attributes: the nightly job needs created_at among them")
        return self
