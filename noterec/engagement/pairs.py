"""Related pairs from a log: which notes do the same people engage with?

`pairs("data", out="pairs.parquet")` writes the pairs table that training and evaluation read. Four weightings, where c_a is
how many people engaged with a, c_ab with both, N_u how many notes person u engaged with, U how many people there are:

    notellm   sum over u of 1 / N_u, u viewed A and then engaged with B   directional, arXiv:2403.01744 §4.3
    count     c_ab
    cosine    c_ab / sqrt(c_a c_b)
    lift      c_ab U / (c_a c_b)
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from noterec import schema, storage
from noterec.config import PairsConfig, Weighting
from noterec.engagement import counts
from noterec.engagement.history import NEVER, REJECT_LIMIT, History, history
from noterec.errors import InputError, NoPairsError
from noterec.notes.dataset import Clock, Dataset
from noterec.progress import Bar, stage, track

NOTELLM_LOWER, NOTELLM_UPPER = 0.01, 30.0  # arXiv:2403.01744 §4.3


@dataclass(frozen=True)
class PairsSummary:
    """What `pairs` wrote, and what each rule left out on the way.

    Attributes:
        pairs: rows written.
        anchors: notes that have at least one related note.
        notes: notes in the dataset.
        users: people with an event on a note of the dataset.
        events: rows of the log.
        events_not_engaged: impressions, and views where the weighting has no use for them.
        events_undated: without the time that the log's clock promises.
        events_outside_window: before the window.
        events_unknown_note: on notes that the dataset doesn't have (deleted, or never imported).
        users_capped: people with more notes than the cap; their oldest are left out.
        rows_capped: notes left out of the histories of those people.
        pairs_below_support: pairs that too few people share.
        pairs_out_of_bounds: pairs below the lower or above the upper bound.
        pairs_beyond_top: pairs weaker than the strongest `top` of their anchor.
    """

    pairs: int
    anchors: int
    notes: int
    users: int
    events: int
    events_not_engaged: int
    events_undated: int
    events_outside_window: int
    events_unknown_note: int
    users_capped: int
    rows_capped: int
    pairs_below_support: int
    pairs_out_of_bounds: int
    pairs_beyond_top: int


def pairs(
    dataset: str | os.PathLike[str], *, out: str | os.PathLike[str], config: PairsConfig | None = None
) -> PairsSummary:
    """Mine the related notes of every note from a dataset's log and write them as one pairs table.

    Scores are rounded to float32 before they are compared, so that the order in which people are summed can't decide a
    tie; ties go to the lower related_id.

    Args:
        dataset: a dataset folder.
        out: the Parquet file to write: the pairs schema, ordered by anchor_id and rank, with its origin inside.
        config: weighting, support, bounds, window and caps.

    Returns:
        The counts, which are also in the file's origin.

    Raises:
        InputError: no engagement, a window on a log without real times, an event without a time in more than 5 % of the
            log.
        NoPairsError: no pair is left after the rules.
    """
    config = config or PairsConfig()
    with stage("pairs") as record:
        data = Dataset(dataset)
        rows = history(
            data.engagement(),
            data.note_ids,
            clock=data.clock,
            views=config.weighting == "notellm",
            max_notes_per_user=config.max_notes_per_user,
            window_days=config.window_days,
        )
        with track("pairs", None, "co-occurrences") as bar:
            table, dropped = strongest(
                rows,
                weighting=config.weighting,
                top=config.top,
                min_support=config.min_support,
                lower=config.lower,
                upper=config.upper,
                partition_events=config.partition_events,
                bar=bar,
            )
        summary = PairsSummary(
            pairs=table.height,
            anchors=table["anchor_id"].n_unique(),
            notes=len(rows.note_ids),
            **rows.counts,
            **dropped,
        )
        if not table.height:
            raise NoPairsError(
                f"{data.path}: no related pair is left: {dropped['pairs_below_support']} were shared by fewer than "
                f"{config.min_support} people, {dropped['pairs_out_of_bounds']} out of bounds; lower min_support or the "
                "bounds, or bring a longer log"
            )
        write_pairs(table, out, origin={"config": config.model_dump(), "dataset": data.path.name, **asdict(summary)})
        record.counts.update(rows_in=summary.events, rows_out=summary.pairs, **asdict(summary))
    return summary


def relevant(
    log: pl.DataFrame,
    note_ids: pl.Series,
    *,
    clock: Clock,
    anchors: pl.Series,
    candidates: pl.Series | None = None,
    weighting: Weighting = "cosine",
    top: int = 10,
    min_support: int = 2,
    max_notes_per_user: int = 1000,
    description: str = "relevant notes",
) -> pl.DataFrame:
    """The notes that the evaluation protocol calls relevant: each anchor's strongest candidates over a whole log.

    Args:
        log: an engagement table, as `Dataset.engagement()` returns it.
        note_ids: ids of all notes that count as known.
        clock: what the log's times mean.
        anchors: the ids whose relevant notes are wanted.
        candidates: the ids that may be relevant; None = all notes. The strongest are chosen among these.
        weighting: how strength is measured; notellm uses the paper's bounds.
        top: relevant notes per anchor.
        min_support: people who must share the pair.
        max_notes_per_user: the cap on a person's history.
        description: label of the progress bar.

    Returns:
        A pairs table, ordered by anchor_id and rank; empty where nothing is relevant.

    Raises:
        InputError: as `history`.
    """
    rows = history(log, note_ids, clock=clock, views=weighting == "notellm", max_notes_per_user=max_notes_per_user)
    with track(description, None, "co-occurrences") as bar:
        table, _ = strongest(
            rows,
            weighting=weighting,
            top=top,
            min_support=min_support,
            anchors=rows.note_ids.is_in(anchors.implode()).to_numpy(),
            related=None if candidates is None else rows.note_ids.is_in(candidates.implode()).to_numpy(),
            bar=bar,
        )
    return table


def strongest(
    rows: History,
    *,
    weighting: Weighting,
    top: int,
    min_support: int,
    lower: float | None = None,
    upper: float | None = None,
    anchors: counts.Mask | None = None,
    related: counts.Mask | None = None,
    partition_events: int = 250_000,
    bar: Bar | None = None,
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Score all co-occurrences and keep each anchor's strongest.

    Returns:
        The pairs table (anchor_id, related_id, score, rank), ordered by anchor_id and rank, and how many pairs each rule
        dropped: pairs_below_support, pairs_out_of_bounds, pairs_beyond_top.
    """
    if weighting == "notellm":
        lower = NOTELLM_LOWER if lower is None else lower
        upper = NOTELLM_UPPER if upper is None else upper
    people = counts.note_counts(rows)  # (N,)
    users = len(np.unique(rows.user[rows.engaged != NEVER]))
    dropped = {"pairs_below_support": 0, "pairs_out_of_bounds": 0, "pairs_beyond_top": 0}
    parts = [pl.DataFrame(schema={"anchor": pl.Int64, "related": pl.Int64, "score": pl.Float32, "rank": pl.Int32})]
    for sums in counts.cooccurrences(
        rows,
        directional=weighting == "notellm",
        anchors=anchors,
        related=related,
        partition_events=partition_events,
        bar=bar,
    ):
        supported = sums.filter(pl.col("support") >= min_support)
        scored = supported.select("anchor", "related", pl.Series("score", _score(supported, weighting, people, users)))
        bounded = scored.filter(
            pl.col("score").is_between(
                pl.lit(-np.inf if lower is None else lower, pl.Float32),
                pl.lit(np.inf if upper is None else upper, pl.Float32),
            )
        )
        kept = (
            bounded.sort("anchor", "score", "related", descending=[False, True, False])
            .with_columns((pl.int_range(pl.len()).over("anchor") + 1).cast(pl.Int32).alias("rank"))
            .filter(pl.col("rank") <= top)
        )
        dropped["pairs_below_support"] += sums.height - supported.height
        dropped["pairs_out_of_bounds"] += scored.height - bounded.height
        dropped["pairs_beyond_top"] += bounded.height - kept.height
        parts.append(kept)
    table = pl.concat(parts)
    names = rows.note_ids
    return (
        table.select(
            names.gather(table["anchor"]).alias("anchor_id"),
            names.gather(table["related"]).alias("related_id"),
            "score",
            "rank",
        ),
        dropped,
    )


def _score(sums: pl.DataFrame, weighting: Weighting, people: NDArray[np.int64], users: int) -> NDArray[np.float32]:
    """(rows,) float32 scores of summed co-occurrences."""
    if weighting == "notellm":
        return sums["weight"].to_numpy().astype(np.float32)
    shared = sums["support"].to_numpy().astype(np.float64)  # c_ab
    if weighting == "count":
        return shared.astype(np.float32)
    product = people[sums["anchor"].to_numpy()].astype(np.float64) * people[sums["related"].to_numpy()]  # c_a c_b
    score = shared / np.sqrt(product) if weighting == "cosine" else shared * users / product
    return np.asarray(score, dtype=np.float32)


def write_pairs(table: pl.DataFrame, out: str | os.PathLike[str], *, origin: dict[str, Any]) -> None:
    """Write a pairs table with its origin; equal content gives equal bytes."""
    storage.write_table(schema.conform(table.to_arrow(), schema.PAIRS, name="pairs"), out, origin=origin)


def load_pairs(path: str | os.PathLike[str], known_ids: pl.Series) -> tuple[pl.DataFrame, int]:
    """Read a pairs table and leave out the pairs that name a note which isn't known.

    Args:
        path: a Parquet file or a folder of them.
        known_ids: ids of the notes at hand.

    Returns:
        The pairs (anchor_id, related_id, score, rank) in file order, and how many were left out.

    Raises:
        InputError: the table is empty, relates a note to itself, or more than 5 % of its pairs (or all) are unknown.
    """
    arrow: pa.Table = storage.read_table(path, schema.PAIRS, columns=schema.PAIRS.names)
    table = pl.DataFrame(arrow.select(schema.PAIRS.names))
    if not table.height:
        raise InputError(f"{path}: holds no pairs; expected anchor_id and related_id: make them with `noterec pairs`")
    own = table.filter(pl.col("anchor_id") == pl.col("related_id"))
    if own.height:
        raise InputError(
            f"{path}: {own.height} pairs relate a note to itself (the first is {own['anchor_id'][0]!r}); leave them out"
        )
    known = known_ids.unique().implode()
    found = table.filter(pl.col("anchor_id").is_in(known) & pl.col("related_id").is_in(known))
    unknown = table.height - found.height
    if not found.height or unknown > REJECT_LIMIT * table.height:
        raise InputError(
            f"{path}: {unknown} of {table.height} pairs name notes that are not in the dataset; expected at most "
            f"{REJECT_LIMIT:.0%}: these pairs were made from another dataset, or its notes have gone since"
        )
    return found, unknown
