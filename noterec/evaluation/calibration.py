"""What a precision costs: the same notes encoded in float32 and in it, compared as vectors, as neighbours, and by recall.

`noterec calibrate data --model model --precision int8 --pairs split/test-pairs.parquet`
"""

from __future__ import annotations

import dataclasses
import os
import time
from typing import Literal

import numpy as np
import polars as pl

from noterec import progress, storage
from noterec.config import EmbedConfig
from noterec.errors import ConfigError, InputError
from noterec.evaluation.resampling import Resampled, resample
from noterec.model.encoder import NoteEncoder
from noterec.notes import note
from noterec.notes.dataset import Dataset
from noterec.ranking.metrics import recall_at
from noterec.ranking.topk import top_k

PathLike = str | os.PathLike[str]

NEIGHBOURS = 10
RESAMPLES = 2000
WARM_NOTES = 64  # encoded before the clock starts: the first batches of a process are slower


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What one precision costs and gives, against float32 on the same notes and machine.

    Attributes:
        model_version: of the model.
        precision: that was measured.
        notes: how many were encoded.
        cosine_mean, cosine_p1, cosine_min: of a note's two vectors: mean, 1st percentile, least.
        overlap: mean share of a note's ten nearest in float32 that are among its ten nearest in `precision`.
        queries: notes of the pairs' anchors whose related notes are in the sample; None = no pairs.
        recall_fp32, recall: at 10, of those related notes among all of the sample.
        recall_change: relative difference of the two; `recall_low` and `recall_high` its 95 % interval by paired bootstrap. None
            also where float32 finds nothing.
        notes_per_second_fp32, notes_per_second: measured one after the other, without reading and tokenising.
    """

    model_version: str
    precision: str
    notes: int
    cosine_mean: float
    cosine_p1: float
    cosine_min: float
    overlap: float
    queries: int | None
    recall_fp32: float | None
    recall: float | None
    recall_change: float | None
    recall_low: float | None
    recall_high: float | None
    notes_per_second_fp32: float
    notes_per_second: float


def calibrate(
    dataset: PathLike,
    *,
    model: PathLike | NoteEncoder,
    precision: Literal["fp32", "bf16", "fp16", "int8"] = "int8",
    notes: int = 2000,
    pairs: PathLike | None = None,
    config: EmbedConfig = EmbedConfig(),
    seed: int = 0,
) -> Calibration:
    """Encode a sample of notes in float32 and in another precision, and compare.

    Args:
        dataset: where the notes are taken from; their text alone is read.
        model: a trained model's folder, any Hugging Face model for its zero-shot states, or a loaded encoder.
        precision: what float32 is compared with.
        notes: how many are encoded; notes of pairs come first, an anchor together with those that it is related to.
        pairs: anchor_id and related_id; without, recall isn't measured.
        config: device, dimension and batch_tokens; its own precision doesn't matter.
        seed: of the sample and of the bootstrap.

    Raises:
        ConfigError: too few notes are asked for, or the device or model doesn't have this precision.
        InputError: the dataset has too few notes with text, or none of the pairs is in it.
    """
    if notes <= NEIGHBOURS:
        raise ConfigError(f"notes={notes}: expected more than {NEIGHBOURS}, the neighbours that are compared")
    with progress.stage("calibrate") as record:
        encoder = model if isinstance(model, NoteEncoder) else _loaded(model, config)
        related = None if pairs is None else _pairs(pairs)
        table = _sample(Dataset(dataset), related, notes, seed)
        rough, speed = _encoded(encoder.accelerated(precision), table, config, precision)
        exact, exact_speed = _encoded(encoder.accelerated("fp32"), table, config, "fp32")
        record.counts.update(rows_in=table.height, rows_out=table.height)
        cosines = np.einsum("nd,nd->n", exact, rough)  # both unit-norm
        own = np.arange(len(exact))
        near = [top_k(vectors, vectors, NEIGHBOURS, exclude=own)[1] for vectors in (exact, rough)]  # (N, 10) each
        recall = None if related is None else _recall(near[0], near[1], table["note_id"], related, seed)
        change = (None if recall is None else recall.relative(1, 0)) or {}
        return Calibration(
            model_version=encoder.model_version,
            precision=precision,
            notes=table.height,
            cosine_mean=float(cosines.mean()),
            cosine_p1=float(np.percentile(cosines, 1)),
            cosine_min=float(cosines.min()),
            overlap=overlap(near[0], near[1]),
            notes_per_second_fp32=exact_speed,
            notes_per_second=speed,
            queries=None if recall is None else recall.n,
            recall_fp32=None if recall is None else float(recall.mean[0]),
            recall=None if recall is None else float(recall.mean[1]),
            recall_change=change.get("mean"),
            recall_low=change.get("low"),
            recall_high=change.get("high"),
        )


def overlap(exact: np.ndarray, rough: np.ndarray) -> float:
    """Mean share of each row of (Q, K) int64 that stands in the same row of the other, wherever."""
    return float((exact[:, :, None] == rough[:, None, :]).any(axis=2).mean())


def _loaded(model: PathLike, config: EmbedConfig) -> NoteEncoder:
    return NoteEncoder.from_pretrained(model, device=config.device, dimension=config.dimension)


def _pairs(path: PathLike) -> pl.DataFrame:
    """Anchors and their related notes, each pair once."""
    table = pl.DataFrame(storage.read_table(path))
    missing = [name for name in ("anchor_id", "related_id") if name not in table.columns]
    if missing:
        raise InputError(f"{path}: no column {missing[0]!r}; expected a pairs table with anchor_id and related_id")
    found = table.select("anchor_id", "related_id").cast(pl.String).unique(maintain_order=True)
    return found.filter(pl.col("anchor_id") != pl.col("related_id"))


def _sample(dataset: Dataset, related: pl.DataFrame | None, count: int, seed: int) -> pl.DataFrame:
    """Notes with text by ascending id, those of pairs first among the chosen."""
    parts = []
    for table in dataset.note_batches(list(note.ENCODED_COLUMNS)):
        parts.append(pl.DataFrame({"note_id": table["note_id"].to_pylist()}).filter(pl.Series(note.has_text(table))))
    ids = pl.concat(parts)["note_id"].sort() if parts else pl.Series("note_id", [], dtype=pl.String)
    if len(ids) <= NEIGHBOURS:
        raise InputError(f"{dataset.path}: {len(ids)} notes with text; expected more than {NEIGHBOURS}")
    rng = np.random.default_rng(seed)
    order = ids.gather(rng.permutation(len(ids)).tolist()).to_list()
    if related is not None:
        known = related.filter(pl.col("anchor_id").is_in(ids.implode()) & pl.col("related_id").is_in(ids.implode()))
        if not known.height:
            raise InputError(f"{dataset.path}: none of the {related.height:,} pairs has both of its notes there")
        groups = {anchor: part["related_id"].to_list() for (anchor,), part in known.group_by("anchor_id")}
        first = [one for anchor in order if anchor in groups for one in (anchor, *sorted(groups[anchor]))]
        order = [*first, *order]
    chosen = pl.DataFrame({"note_id": list(dict.fromkeys(order))[:count]})
    kept = [
        pl.DataFrame(table).join(chosen, on="note_id", how="semi")
        for table in dataset.note_batches(list(note.ENCODED_COLUMNS))
    ]
    return pl.concat([part for part in kept if part.height], how="diagonal_relaxed").sort("note_id")


def _encoded(
    encoder: NoteEncoder, table: pl.DataFrame, config: EmbedConfig, precision: str
) -> tuple[np.ndarray, float]:
    """Embeddings (N, D) float32, and notes per second."""
    inputs = encoder.prepare(note.as_table(table))
    for _ in encoder.run(inputs.take(np.arange(min(WARM_NOTES, len(inputs)))), batch_tokens=config.batch_tokens):
        pass
    vectors = np.empty((len(inputs), encoder.dimension), dtype=np.float32)
    with progress.track(f"encode in {precision}", len(inputs), "notes") as bar:
        start = time.perf_counter()
        for batch, part in encoder.run(inputs, batch_tokens=config.batch_tokens):
            vectors[batch] = part
            bar.advance(len(batch))
        seconds = time.perf_counter() - start
    return vectors, len(inputs) / seconds


def _recall(exact: np.ndarray, rough: np.ndarray, ids: pl.Series, related: pl.DataFrame, seed: int) -> Resampled:
    """Recall at 10 of the pairs whose notes are both among `ids` (N,), from the neighbours (N, 10) of each: two columns."""
    rows = {one: row for row, one in enumerate(ids)}
    relevant: dict[int, list[int]] = {}
    for anchor, other in related.iter_rows():
        if anchor in rows and other in rows:
            relevant.setdefault(rows[anchor], []).append(rows[other])
    if not relevant:
        raise InputError(f"no pair has both of its notes among the {len(ids):,} that are compared; give more notes")
    queries = sorted(relevant)
    lists = [np.array(relevant[query]) for query in queries]
    values = np.column_stack([recall_at(near[queries], lists, NEIGHBOURS) for near in (exact, rough)])  # (Q, 2)
    return resample(values, resamples=RESAMPLES, seed=seed)
