"""Related pairs from a log: which notes do the same people engage with?

`pairs("data", out="pairs.parquet")` writes the pairs table that training and evaluation read. How a pair is scored stands in
`weightings`, how logs of any length are counted in `mining`.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass

import polars as pl
import pydantic

from noterec.config import PairsConfig, Weighting
from noterec.engagement.balance import balanced, check_categories
from noterec.engagement.counting.log import Log
from noterec.engagement.counting.mining import mine
from noterec.engagement.table import write_pairs
from noterec.errors import NoPairsError
from noterec.notes.dataset import Dataset
from noterec.progress import stage


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
        cooccurrences_capped: ordered pairs of notes that those people would have added without the cap.
        pairs_below_support: pairs that too few people share.
        pairs_out_of_bounds: pairs below the lower or above the upper bound.
        pairs_beyond_top: pairs weaker than the strongest `top` of their anchor.
        pairs_beyond_balance: pairs beyond `per_category_pair` of their two categories.
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
    cooccurrences_capped: int
    pairs_below_support: int
    pairs_out_of_bounds: int
    pairs_beyond_top: int
    pairs_beyond_balance: int = 0


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
            log; no note has a category to balance by.
        NoPairsError: no pair is left after the rules.
    """
    config = config or PairsConfig()
    with stage("pairs") as record:
        data = Dataset(dataset)
        category = None
        if config.per_category_pair is not None:
            category = data.notes(["category"])
            check_categories(category, per_pair=config.per_category_pair)
        mined = mine(Log(data), data.note_ids, config)
        table, counts = mined.table, mined.counts
        if category is not None and config.per_category_pair is not None:
            table, cut = balanced(table, category, per_pair=config.per_category_pair)
            counts["pairs_beyond_balance"] = cut["pairs_beyond_balance"]
        summary = PairsSummary(
            pairs=table.height,
            anchors=table["anchor_id"].n_unique(),
            notes=data.note_ids.n_unique(),
            **counts,
        )
        if not table.height:
            raise NoPairsError(
                f"{data.path}: no related pair is left: {counts['pairs_below_support']} were shared by fewer than "
                f"{config.min_support} people, {counts['pairs_out_of_bounds']} out of bounds; lower min_support or the "
                "bounds, or bring a longer log"
            )
        write_pairs(table, out, origin={"config": config.model_dump(), "dataset": data.path.name, **asdict(summary)})
        record.counts.update(rows_in=summary.events, rows_out=summary.pairs, **asdict(summary))
    return summary


def relevant(
    log: Log,
    *,
    anchors: pl.Series,
    candidates: pl.Series | None = None,
    known: pl.Series | None = None,
    weighting: Weighting = "cosine",
    top: int = 10,
    min_support: int = 2,
    max_notes_per_user: int = 1000,
    memory: int = 1_000_000_000,
    description: str = "relevant notes",
) -> pl.DataFrame:
    """The notes that the evaluation protocol calls relevant: each anchor's strongest candidates over a whole log.

    Args:
        log: what counts of a dataset's log.
        anchors: the ids whose relevant notes are wanted.
        candidates: the ids that may be relevant; None = all notes. The strongest are chosen among these.
        known: the ids of all notes that count as known; None = those of the dataset.
        weighting: how strength is measured; notellm uses the paper's bounds.
        top: relevant notes per anchor.
        min_support: people who must share the pair.
        max_notes_per_user: the cap on a person's history.
        memory: bytes that counting may hold.
        description: label of the progress bar.

    Returns:
        A pairs table, ordered by anchor_id and rank; empty where nothing is relevant.

    Raises:
        InputError: no engagement in the log, or none on the known notes.
    """
    config = PairsConfig(
        weighting=weighting,
        top=top,
        min_support=min_support,
        max_notes_per_user=max_notes_per_user,
        memory=pydantic.ByteSize(memory),
    )
    note_ids = log.data.note_ids if known is None else known
    return mine(log, note_ids, config, anchors=anchors, related=candidates, description=description).table
