"""Settings of the index (`noterec index`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from noterec.config.settings import Settings

Kind = Literal["flat", "ivf", "ivf-sq8", "ivf-pq", "hnsw"]


class IndexConfig(Settings):
    """Vectors to a FAISS bundle (`noterec index`)."""

    kind: Literal["auto", "flat", "ivf", "ivf-sq8", "ivf-pq", "hnsw"] = Field(
        "auto",
        description="flat is exact; ivf keeps 16-bit, ivf-sq8 8-bit and ivf-pq product-quantised vectors in lists; hnsw is a "
        "graph; auto chooses by count, dimension, memory and recall_target, and says why",
    )
    recall_target: float = Field(
        0.95,
        gt=0,
        le=1,
        description="share of the exact recall_at nearest notes that must be found; search effort is tuned to it, and an index "
        "below it is not published",
    )
    recall_at: int = Field(100, ge=1, description="neighbours k at which recall is measured")
    gate_queries: int = Field(1000, ge=10, description="notes whose neighbours are compared with exact search")
    memory_gib: float | None = Field(
        None, gt=0, description="memory that a served index may take; none = half of what is free now"
    )
    dtype: Literal["float32", "float16"] = Field(
        "float32", description="of the vectors on disk, from which scores are computed; float16 halves the file"
    )
    attributes: list[str] = Field(
        ["title", "category", "author_id", "language", "created_at", "exposure"],
        description="columns of the notes that are kept beside the vectors, for reading and filtering",
    )
    lexical: bool = Field(True, description="keep a BM25 index of the notes' words beside the vectors, for fusion")
    keep: int = Field(3, ge=1, description="bundles kept, the live one included")
    added_days: float = Field(
        7,
        gt=0,
        description="how long a note that `noterec index add` brought stays without being in the embeddings, in days",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where lists are trained and filled; auto = a GPU where faiss and the kind can use one"
    )
    seed: int = Field(0, ge=0, description="of training samples and sampled queries")
