"""What is true of the notes, and what a generated table says about them, in names that can be compared.

A name is compared as `noterec.model.tasks.normal` writes it, without #, case, or doubled blanks.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from noterec import schema, storage
from noterec.errors import ArtefactError, InputError
from noterec.evaluation.protocol import PathLike
from noterec.model.generation.categories import closed_set as categories_of
from noterec.model.prompts import clean_hashtag
from noterec.model.tasks import normal
from noterec.notes.dataset import Dataset

logger = logging.getLogger(__name__)

Values = NDArray[np.float64]

TASKS = ("category", "hashtags")


@dataclass(frozen=True)
class Truth:
    """The notes that count for a task: Q ids, ascending, and the normal names that are true of each, at least one."""

    task: str
    ids: list[str]
    names: list[list[str]]
    without: int  # notes that don't count, as nothing is known to be true of them


@dataclass(frozen=True, eq=False)
class Written:
    """What one table says about Q notes.

    Attributes:
        names: the normal names of each note, best first, each once; empty where nothing was written.
        probability: (Q,) of the first answer, NaN = unknown.
        confidence: (Q,) share of sampled answers that agree with it, NaN = not sampled.
    """

    path: str
    model_version: str
    names: list[list[str]]
    probability: Values
    confidence: Values


def closed_set(categories: PathLike | None, training: PathLike) -> frozenset[str]:
    """The normal names that a category may be: those of a file or dataset, or else those of the training notes.

    Raises:
        InputError: the file holds no names.
    """
    if categories is None:
        given = Dataset(training).notes(["category"])["category"].drop_nulls().to_list()
    else:
        given = categories_of(categories, ())
    return frozenset(filter(None, map(normal, given)))


def truth_of(notes: pl.DataFrame, task: str) -> Truth:
    """The true names of the notes that have any, from the columns note_id, category and hashtags."""
    ids, names = [], []
    for note_id, value in notes.select("note_id", task).sort("note_id").iter_rows():
        true = names_of(task, [value] if task == "category" else value)
        if true:
            ids.append(note_id)
            names.append(true)
    return Truth(task, ids, names, notes.height - len(ids))


def names_of(task: str, given: Sequence[str | None] | None) -> list[str]:
    """Normal names, each once, without those that say nothing; a hashtag as it stands in an answer, where commas separate."""
    clean = clean_hashtag if task == "hashtags" else str
    return list(dict.fromkeys(name for text in given or () if text and (name := normal(clean(text)))))


def read(name: str, path: PathLike) -> pl.DataFrame:
    """A generated table; of a note that stands there twice, the last row, and none of one that was withdrawn.

    Raises:
        InputError: no rows, or only withdrawn notes, columns that don't fit, or an unknown task.
        ArtefactError: answers of several model versions.
    """
    table = storage.read_table(path, schema.GENERATED)
    frame = pl.DataFrame(table.select(schema.GENERATED.names))
    if not frame.height:
        raise InputError(f"{name}: {path} holds no rows; expected a table that `noterec generate` wrote")
    frame = _without_withdrawn(frame)
    if not frame.height:
        raise InputError(
            f"{name}: every note was withdrawn from {path}; run `noterec generate` on a dataset that has some"
        )
    unknown = frame.filter(~pl.col("task").is_in(TASKS) | pl.col("task").is_null())
    if unknown.height:
        raise InputError(
            f"{name}: {path} has {unknown.height} rows of task {unknown['task'][0]!r}; expected {' or '.join(TASKS)}"
        )
    versions = frame["model_version"].unique().sort().to_list()
    if len(versions) > 1:
        raise ArtefactError(
            f"{name}: {path} mixes answers of {len(versions)} model versions ({', '.join(map(str, versions[:4]))}); "
            "generate with one model into a new folder"
        )
    return frame.unique(["note_id", "task"], keep="last", maintain_order=True)


def _without_withdrawn(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows of notes after their last tombstone, which is a row with nothing but a note_id."""
    rest = [name for name in schema.GENERATED.names if name != "note_id"]
    rows = frame.with_row_index("row").with_columns(dead=pl.all_horizontal(pl.col(rest).is_null()))
    if not rows["dead"].any():
        return frame
    last = pl.col("row").filter("dead").max().over("note_id")
    return rows.filter(last.is_null() | (pl.col("row") > last)).drop("row", "dead")


def written_of(frame: pl.DataFrame, truth: Truth, name: str, path: PathLike) -> Written:
    """A table's answers about the notes that count.

    Raises:
        InputError: there is no answer about any of them, or a probability is none.
    """
    asked = pl.DataFrame({"note_id": pl.Series(truth.ids, dtype=pl.String)})
    found = asked.join(frame, on="note_id", how="left", maintain_order="left")
    names = [names_of(truth.task, answers) for answers in found["answers"].to_list()]
    missing = sum(not answer for answer in names)
    if missing == len(names):
        raise InputError(
            f"{name}: {path} has no {truth.task} for any of the {len(names)} notes that count (its first note is "
            f"{frame['note_id'][0]!r}); give the table that was generated for this dataset"
        )
    if missing:
        logger.warning("%s: %d of %d notes have no %s; they count as wrong", name, missing, len(names), truth.task)
    first = found["probabilities"].list.get(0, null_on_oob=True)
    stated = _floats(first), _floats(found["confidence"])
    for values in stated:
        if not ((values >= 0) & (values <= 1 + 1e-6) | np.isnan(values)).all():
            raise InputError(f"{name}: {path} has probabilities or confidences outside 0 to 1; generate it again")
    return Written(str(path), str(frame["model_version"][0]), names, *stated)


def _floats(column: pl.Series) -> Values:
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
