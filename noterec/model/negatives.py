"""What counts against an anchor beside its batch, and how much: popularity's correction and mined hard negatives, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from noterec.errors import InputError
from noterec.ranking.topk import top_k

_ANCHORS = 4096  # mined at a time: their neighbours' scores and rows are a few megabytes, whatever the catalogue


def log_q(appearances: np.ndarray) -> np.ndarray:
    """The probability that an end of a random pair is this note, as a logarithm (Yi et al., RecSys'19).

    A note that is in no pair counts as if it were in one, at one end: it never comes as part of a pair, but it may come as a
    mined negative, and there the logarithm of 0 would be an infinite logit.

    Args:
        appearances: (N,) int, how often each note is an end of a pair.

    Returns:
        (N,) float32, below 0.

    Raises:
        InputError: no pairs at all, or a negative count.
    """
    counts = np.asarray(appearances, dtype=np.float64)
    if not counts.sum() > 0 or counts.min() < 0:
        raise InputError(
            f"{len(counts)} notes appear {counts.sum():g} times in pairs; expected counts of at least 0, and a pair"
        )
    floored = np.maximum(counts, 1.0)
    return np.asarray(np.log(floored / floored.sum()), dtype=np.float32)


def hard_negatives(
    vectors: np.ndarray,
    graph: Any,
    *,
    count: int,
    low: int,
    high: int,
    margin: float,
    contents: np.ndarray | None = None,
    anchors: np.ndarray | None = None,
    seed: int,
) -> np.ndarray:
    """Notes that lie close to an anchor, in a band of ranks, without being related to it.

    The `low` nearest notes are skipped, as the likeliest relations that nobody has seen yet. So is what lies closer than `margin`
    of the anchor's mean similarity to its known relations (TopK-PercPos, NV-Retriever, arXiv:2407.15831). Of what is left a
    random sample is taken, not the nearest: the band says how hard they are, the nearest would be the same few at every mining,
    and among them are most of the relations that slipped through.

    Args:
        vectors: (N, D) float, unit-norm rows.
        graph: scipy sparse (N, N), symmetric; an entry above 0 is a known relation.
        count: negatives per anchor.
        low, high: the band [low, high) of ranks among all other notes, 0 = nearest.
        margin: share of the anchor's mean similarity to its relations that a negative's similarity stays below.
        contents: (N,) int64, equal for notes of equal content, which are related to whatever one of them is related to, and no
            negatives of each other. None: all differ.
        anchors: (A,) int64, the notes to mine for, ascending; None = all. Searching is exact and costs A x N x D products.
        seed: of the sample.

    Returns:
        (N, count) int64 rows, nearest first, -1 where there are fewer; anchors without a relation have none.

    Raises:
        InputError: shapes that don't fit each other.

    Differs from the paper: the mean over an anchor's relations instead of one positive, as a note is mined once for all its
    pairs. Where that mean is negative, (1 - margin) of it is taken off, so that the bound still lies below it.
    """
    from scipy.sparse import csr_matrix

    notes = len(vectors)
    groups = np.arange(notes) if contents is None else np.unique(contents, return_inverse=True)[1]
    if graph.shape != (notes, notes) or groups.shape != (notes,):
        raise InputError(
            f"{notes} vectors, a graph of shape {graph.shape} and {len(groups)} contents; expected one of each per note"
        )
    edges = graph.tocoo()
    real = (edges.data > 0) & (edges.row != edges.col)
    first, second = edges.row[real].astype(np.int64), edges.col[real].astype(np.int64)
    relations = csr_matrix((np.ones(len(first), dtype=np.float32), (first, second)), shape=(notes, notes))
    degrees = np.diff(relations.indptr)  # (N,)
    related = np.unique(groups[first] * notes + groups[second])  # pairs of contents, as one number each
    found = np.full((notes, count), -1, dtype=np.int64)
    random = np.random.default_rng(seed)
    chosen = np.arange(notes) if anchors is None else np.asarray(anchors, dtype=np.int64)
    chosen = chosen[degrees[chosen] > 0]
    for start in range(0, len(chosen), _ANCHORS):
        rows = chosen[start : start + _ANCHORS]  # (a,)
        scores, columns = top_k(vectors[rows], vectors, high, exclude=rows)  # (a, high)
        scores, columns = scores[:, low:], columns[:, low:]  # (a, high - low)
        mean = relations[rows] @ vectors / degrees[rows, None]  # (a, D)
        similarity = np.einsum("ad,ad->a", vectors[rows], mean)  # (a,), the mean of the cosines
        bound = similarity - (1 - margin) * np.abs(similarity)
        allowed = (columns >= 0) & (scores < bound[:, None])
        own, theirs = groups[rows][:, None], groups[columns]  # (a, 1), (a, high - low)
        allowed &= (theirs != own) & ~_contains(related, own * notes + theirs)
        found[rows] = _sample(columns, allowed, count, random)
    return found


def _contains(ascending: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Which of the values are in an ascending array."""
    if not len(ascending):
        return np.zeros(values.shape, dtype=bool)
    places = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    return np.asarray(ascending[places] == values)


def _sample(columns: np.ndarray, allowed: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """`count` of the allowed columns of each row of (a, w), drawn without repeats, in their order, then -1: (a, count)."""
    lots = random.random(columns.shape)  # row by row, so that anchors draw the same however they are split into blocks
    lots[~allowed] = np.inf
    taken = np.argsort(lots, axis=1)[:, :count]  # (a, <= count)
    drawn = np.isfinite(np.take_along_axis(lots, taken, axis=1))
    taken = np.sort(np.where(drawn, taken, columns.shape[1]), axis=1)  # nearest first, what is missing last
    padded = np.concatenate([columns, np.full((len(columns), 1), -1, dtype=np.int64)], axis=1)
    result = np.full((len(columns), count), -1, dtype=np.int64)
    result[:, : taken.shape[1]] = np.take_along_axis(padded, taken, axis=1)
    return result
