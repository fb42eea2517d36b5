"""Settings of the evaluation protocol."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from noterec.config.data import ImagesConfig
from noterec.config.settings import Settings


class EvaluateConfig(Settings):
    """The evaluation protocol (`noterec evaluate`)."""

    at: list[int] = Field([10, 50, 100], min_length=1, description="cut-offs K of recall and hit")
    rank_at: int = Field(10, ge=1, description="cut-off of MRR and nDCG")
    builtin: list[str] = Field(["random", "popularity", "bm25"], description="built-in arms beside the user's own")
    fuse: bool = Field(True, description="add NAME+bm25, reciprocal-rank fusion, for every arm that the user gives")
    sums: list[str] = Field(
        [],
        description="A+B: also measure the sum of the cosines of the user's arms A and B, as if both were one embedding",
    )
    fuse_depth: int = Field(1000, ge=10, description="ranks that enter a fusion")
    rrf_k: float = Field(10.0, gt=0, description="constant of reciprocal-rank fusion")
    fuse_weight: float = Field(2.0, gt=0, description="weight of the embedding's ranking beside 1 of BM25's")
    hashtags_at: list[Annotated[int, Field(ge=1)]] = Field(
        [1, 3, 5, 10], description="cut-offs n of precision, recall and F1 of generated hashtags"
    )
    html: bool = Field(False, description="also write report.html: plots, and queries to be read, in one file")
    compact_queries: int = Field(
        2000,
        ge=1,
        description="queries that tell, for report.html, what shorter or rounder vectors cost; drawn if there are more",
    )
    examples: int = Field(10, ge=0, le=50, description="worst queries, and as many drawn at random, on report.html")
    images: ImagesConfig = Field(ImagesConfig(), description="what a picture on report.html may be")
    resamples: int = Field(2000, ge=100, description="bootstrap resamples over queries, or over notes")
    seed: int = Field(0, ge=0)
