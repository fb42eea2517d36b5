"""How good is what a model wrote? Categories and hashtags against the notes' own, one or more generated tables on the same notes.

measure_generated({"mine": "generated"}, notes="dataset", new_notes="split/new-notes.parquet", training="split/train")

Counted are the notes that have a truth: a category, or at least one hashtag; of those only the new test notes, where they are
known. A note without an answer counts as wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from noterec.config import EvaluateConfig
from noterec.errors import InputError
from noterec.evaluation import answers, text_metrics
from noterec.evaluation.answers import TASKS, Truth, Written
from noterec.evaluation.protocol import PathLike, new_test_ids
from noterec.evaluation.resampling import Resampled, resample
from noterec.notes.dataset import Dataset

Values = NDArray[np.float64]

FIRST = {"category": "accuracy", "hashtags": "f1"}  # the metric that is told with its interval
ECE_BINS = 15


@dataclass(frozen=True, eq=False)
class Scores:
    """What one table reached: per-note metrics (Q,), sums for BLEU (Q, 10), and single figures with how many notes they are of."""

    per_note: dict[str, Values]
    bleu: Values | None
    single: dict[str, tuple[float, int]]


def measure_generated(
    tables: Mapping[str, PathLike],
    *,
    notes: PathLike,
    new_notes: PathLike | None = None,
    training: PathLike | None = None,
    categories: PathLike | None = None,
    config: EvaluateConfig = EvaluateConfig(),
) -> tuple[dict[str, Any], pl.DataFrame]:
    """Measure generated tables, each task that any of them holds.

    Args:
        tables: name -> table with the columns of `schema.GENERATED`.
        notes: the dataset with the true categories and hashtags.
        new_notes: which notes are new (note_id, part); only those of part "test" then count.
        training: the training dataset, whose categories are the closed set; `notes` where it isn't given.
        categories: the closed set instead, as `noterec generate` takes it: a text file of names, a JSON list, or a dataset.
        config: cut-offs, resamples, seed.

    Returns:
        By task: which notes, "tables" with metrics, mean and 95 % interval each, and "paired" with the differences to the first
        table; and one row per table and note with its metrics.

    Raises:
        InputError: no table, none of its answers is about a note that counts, or a file is not what it should be.
        ArtefactError: a table mixes model versions.
    """
    frames = {name: answers.read(name, path) for name, path in tables.items()}
    counted = _counted(notes, new_notes)
    record: dict[str, Any] = {}
    per_note: list[pl.DataFrame] = []
    for task in TASKS:
        parts = {name: part for name, frame in frames.items() if (part := frame.filter(pl.col("task") == task)).height}
        if not parts:
            continue
        truth = answers.truth_of(counted, task)
        if not truth.ids:
            raise InputError(
                f"{notes}: none of the {counted.height} notes that count has {'a category' if task == 'category' else 'hashtags'}, "
                "so nothing that was written can be judged; give the dataset with the true ones"
            )
        written = {name: answers.written_of(part, truth, name, tables[name]) for name, part in parts.items()}
        closed = answers.closed_set(categories, training or notes) if task == "category" else frozenset()
        record[task], frame = _measure(truth, written, closed, config)
        record[task]["which"] = "all notes" if new_notes is None else "test notes"
        per_note.append(frame)
    return record, pl.concat(per_note, how="diagonal")


def category_scores(truth: Sequence[str], written: Written, closed: frozenset[str]) -> Scores:
    """Accuracy, share of invented ("illusory") categories, macro-F1, and calibration.

    Macro-F1 is the mean F1 over the categories that are true of any counted note. The expected calibration error (Guo et al.,
    arXiv:1706.04599) has 15 bins of equal width and is of the answered notes whose probability is known.

    Args:
        truth: Q normal names.
        written: the answers; only the first one of a note counts.
        closed: normal names that aren't invented.
    """
    first = [names[0] if names else "" for names in written.names]
    right = np.array([name == true for name, true in zip(first, truth, strict=True)], dtype=np.float64)  # (Q,)
    illusory = np.array([bool(name) and name not in closed for name in first], dtype=np.float64)  # (Q,)
    single = {"macro_f1": (macro_f1(truth, first), len(truth))}
    answered = np.array([bool(name) for name in first])
    for name, stated in (("ece", written.probability), ("ece_confidence", written.confidence)):
        usable = answered & ~np.isnan(stated)
        if usable.any():
            single[name] = (calibration_error(stated[usable], right[usable]), int(usable.sum()))
    return Scores({"accuracy": right, "illusory": illusory}, None, single)


def hashtag_scores(truth: Sequence[Sequence[str]], written: Written, at: Sequence[int]) -> Scores:
    """Precision, recall and F1 of every note's hashtags, of all that were written and of the first n.

    Args:
        truth: the normal names of Q notes, each once, at least one a note.
        written: the answers; where fewer than n were written, precision@n is of those that were.
        at: cut-offs n.
    """
    values: dict[str, Values] = {}
    for n in (None, *at):
        rows = [overlap(names[:n], true) for names, true in zip(written.names, truth, strict=True)]
        for name, column in zip(("precision", "recall", "f1"), np.array(rows, dtype=np.float64).T, strict=True):
            values[name if n is None else f"{name}@{n}"] = column  # (Q,)
    return Scores(values, None, {})


def overlap(written: Sequence[str], truth: Sequence[str]) -> tuple[float, float, float]:
    """Precision, recall and F1 of names against true ones, each name once; all 0 where nothing was written."""
    hits = len(set(written) & set(truth))
    if not hits:
        return 0.0, 0.0, 0.0
    return hits / len(written), hits / len(truth), 2 * hits / (len(written) + len(truth))


def macro_f1(truth: Sequence[str], written: Sequence[str]) -> float:
    """Mean over the true categories of 2 tp / (written + true)."""
    total = 0.0
    present = sorted(set(truth))
    hits = dict.fromkeys(present, 0)
    counts = dict.fromkeys(present, 0)
    for true, name in zip(truth, written, strict=True):
        counts[true] += 1
        if name in counts:
            counts[name] += 1
        hits[true] += name == true
    for name in present:
        total += 2 * hits[name] / counts[name]
    return total / len(present)


def calibration_error(stated: Values, right: Values) -> float:
    """Expected calibration error: mean over answers of |accuracy - mean stated probability| of their bin.

    Args:
        stated: (A,) probabilities in [0, 1].
        right: (A,) 1 where the answer is right, else 0.
    """
    place = np.minimum((stated * ECE_BINS).astype(np.int64), ECE_BINS - 1)  # (A,)
    gaps = np.bincount(place, weights=right - stated, minlength=ECE_BINS)  # (ECE_BINS,)
    return float(np.abs(gaps).sum() / len(stated))


def _counted(notes: PathLike, new_notes: PathLike | None) -> pl.DataFrame:
    """Categories and hashtags of the notes in question: the new test notes, or all."""
    known = Dataset(notes).notes(["category", "hashtags"])
    if new_notes is None:
        return known
    ids = new_test_ids(new_notes)
    missing = ids.filter(~ids.is_in(known["note_id"].implode())).sort()
    if len(missing) or not len(ids):
        raise InputError(
            f"{new_notes}: names {len(ids)} new test notes, and {len(missing)} of them are not in {notes}"
            f"{': ' if len(missing) else ''}{', '.join(map(repr, missing.head(5)))}; give the new_notes of the same split"
        )
    return known.filter(pl.col("note_id").is_in(ids.implode()))


def _measure(
    truth: Truth, written: dict[str, Written], closed: frozenset[str], config: EvaluateConfig
) -> tuple[dict[str, Any], pl.DataFrame]:
    """One task's record and per-note values."""
    texts = [" ".join(names) for names in truth.names]
    tokenizer = text_metrics.bleu_tokenizer(texts)
    not_measured = {}
    if max(len(text_metrics.words(text)) for text in texts) < 2:
        not_measured["rouge2"] = "no true text has two words"
    scores = {}
    for name, table in written.items():
        if truth.task == "category":
            found = category_scores([names[0] for names in truth.names], table, closed)
            said = [names[0] if names else "" for names in table.names]
        else:
            found = hashtag_scores(truth.names, table, config.hashtags_at)
            said = [" ".join(names) for names in table.names]
        bleu: Values | None = text_metrics.bleu_statistics(said, texts, tokenizer=tokenizer)  # (Q, BLEU_STATISTICS)
        if bleu is not None and bleu[:, 1].max() < 4:
            not_measured["bleu4"], bleu = "no true text has four words", None
        rouge = {key: column for key, column in text_metrics.rouge(said, texts).items() if key not in not_measured}
        scores[name] = Scores({**found.per_note, **rouge}, bleu, found.single)
    record: dict[str, Any] = {
        "notes": len(truth.ids),
        "notes_without_truth": truth.without,
        "first": FIRST[truth.task],
        "bleu_tokenizer": tokenizer,
        "not_measured": not_measured,
    }
    if truth.task == "category":
        record["closed_set"] = len(closed)
        record["truth_outside"] = sum(names[0] not in closed for names in truth.names)
    tables, record["paired"] = _summarise(scores, config)
    record["tables"] = {
        name: {
            "table": table.path,
            "model_version": table.model_version,
            "unanswered": sum(not names for names in table.names),
            "metrics": tables[name],
        }
        for name, table in written.items()
    }
    frames = []
    for name, found in scores.items():
        keys = {"task": pl.lit(truth.task), "table": pl.lit(name)}
        frames.append(pl.DataFrame({"note_id": truth.ids, **found.per_note}).with_columns(**keys))
    return record, pl.concat(frames)


def _summarise(
    scores: dict[str, Scores], config: EvaluateConfig
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Every table's metrics with intervals, and its differences to the first table, all over the same resamples of the notes."""
    resampled = {}
    for name, found in scores.items():
        columns = np.column_stack(list(found.per_note.values()))  # (Q, M)
        drawn = resample(columns, resamples=config.resamples, seed=config.seed)
        if found.bleu is not None:
            drawn = _with_bleu(drawn, resample(found.bleu, resamples=config.resamples, seed=config.seed))
        resampled[name] = drawn
    first = next(iter(scores))
    metrics: dict[str, dict[str, Any]] = {}
    differences: list[dict[str, Any]] = []
    for name, found in scores.items():
        columns_of = [*found.per_note, *(["bleu4"] if found.bleu is not None else [])]
        metrics[name] = {metric: resampled[name].interval(place) for place, metric in enumerate(columns_of)}
        for metric, (value, count) in found.single.items():
            # No mean over notes, and biased on resamples: it has no bootstrap interval.
            metrics[name][metric] = {"mean": value, "low": None, "high": None, "n": count}
        if name != first:
            for place, metric in enumerate(columns_of):
                difference = _difference(resampled[name], resampled[first], place, metric == "illusory")
                differences.append({"metric": metric, "table": name, "against": first, **difference})
    return metrics, differences


def _with_bleu(drawn: Resampled, statistics: Resampled) -> Resampled:
    """Resampled metrics with one more column: BLEU-4 of the notes, and of every resample."""
    whole = text_metrics.bleu4(statistics.mean * statistics.n)
    each = [text_metrics.bleu4(row * statistics.n) for row in statistics.means]  # R
    return Resampled(np.append(drawn.mean, whole), np.column_stack([drawn.means, each]), drawn.n)


def _difference(table: Resampled, against: Resampled, column: int, fewer_is_better: bool) -> dict[str, Any]:
    """One column of two tables; both were drawn with the same seed over the same notes, so their resamples are the same."""
    mean = np.array([table.mean[column], against.mean[column]])
    means = np.column_stack([table.means[:, column], against.means[:, column]])  # (R, 2)
    found = Resampled(mean, means, table.n).difference(0, 1)
    if fewer_is_better:
        found["verdict"] = {"better": "worse", "worse": "better"}.get(found["verdict"], found["verdict"])
    return found
