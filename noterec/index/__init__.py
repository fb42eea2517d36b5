"""Vectors to neighbours: FAISS indexes in immutable bundles, changes on top of them, filtered search, the nightly table."""

from noterec.index.build import IndexSummary, build_index
from noterec.index.neighbours import NeighboursSummary, neighbours
from noterec.index.search import Index
from noterec.index.vectors import Embeddings, load_embeddings

__all__ = ["Embeddings", "Index", "IndexSummary", "NeighboursSummary", "build_index", "load_embeddings", "neighbours"]
