"""Vectors to neighbours.

on disk     bundle (immutable folders), publishing (which of them is live), changes and changing (what was added and
            removed since), manage (what an operator does)
building    build (the stage), vectors and table (reading embeddings), attributes, plan (which kind), kinds (how each is
            made), gate (is it good enough?), gpu
searching   opening (a bundle), search (an open index), searchers (exact and approximate), ids, merged (several as one), searchable
choosing    selection (what a query may find), choice (authors, reposts, variety), filters and conditions, lexical and words
            (BM25)
tables      neighbours (the nightly tables), export and milvus
"""

from noterec.index.build import IndexSummary, build_index
from noterec.index.neighbours import NeighboursSummary, neighbours
from noterec.index.search import Index
from noterec.index.vectors import Embeddings, load_embeddings

__all__ = ["Embeddings", "Index", "IndexSummary", "NeighboursSummary", "build_index", "load_embeddings", "neighbours"]
