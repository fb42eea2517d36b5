"""The protocol: which notes are asked for, which are relevant, and among which they are ranked.

Three directions. "new -> all", the main one: a note that training never saw, its relevant notes by co-engagement, every
other note a candidate. "warm -> new": a note with a history, its relevant notes among the new ones, candidates the new notes
only. "paper" (arXiv:2403.01744 §5.1): one relevant note per row of a directional pairs table, both notes unseen, the pool all
unseen notes but the query.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from noterec import schema, storage
from noterec.config import EvaluateConfig
from noterec.errors import InputError
from noterec.notes.dataset import Dataset
from noterec.ranking.metrics import Relevance

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
PathLike = str | os.PathLike[str]

MAIN, WARM, PAPER = "new -> all", "warm -> new", "paper"
PAPER_AT = (100, 1_000, 10_000)
SPLIT_FILES = {
    "pairs": "test-pairs.parquet",
    "warm_pairs": "test-pairs-warm.parquet",
    "paper_pairs": "test-pairs-paper.parquet",
    "new_notes": "new-notes.parquet",
    "engagement": "train",
}


@dataclass(frozen=True)
class Inputs:
    """Where the protocol's tables are; None = not given, and what needs it is not measured."""

    pairs: PathLike
    engagement: PathLike | None = None
    warm_pairs: PathLike | None = None
    paper_pairs: PathLike | None = None
    new_notes: PathLike | None = None

    @classmethod
    def collect(cls, split: PathLike | None, **given: PathLike | None) -> Inputs:
        """The inputs that were given, completed from the folder that `noterec split` wrote.

        Raises:
            InputError: no test pairs, or one of warm and paper pairs without the table of new notes.
        """
        given = completed(split, given)
        pairs = given.pop("pairs", None)
        if pairs is None:
            raise InputError("no test pairs given; expected pairs=FILE (see `noterec split`), or split=FOLDER")
        inputs = cls(pairs, **given)
        if inputs.new_notes is None and (inputs.warm_pairs is not None or inputs.paper_pairs is not None):
            raise InputError(
                "warm or paper pairs are given without new_notes; their candidates are the new test notes: give "
                "new_notes=FILE, a table with note_id and part (new-notes.parquet of `noterec split`)"
            )
        return inputs


def completed(split: PathLike | None, given: Mapping[str, PathLike | None]) -> dict[str, PathLike | None]:
    """The tables that were given, completed from the folder that `noterec split` wrote.

    Raises:
        InputError: the folder is no split.
    """
    found = dict(given)
    if split is not None:
        folder = storage.local(split)
        if not (folder / SPLIT_FILES["pairs"]).is_file():
            raise InputError(f"{folder}: no {SPLIT_FILES['pairs']} there; expected a folder that `noterec split` wrote")
        for name, file in SPLIT_FILES.items():
            if found.get(name) is None and (folder / file).exists():
                found[name] = folder / file
    return found


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The notes of a dataset by ascending id; a note's row in it is its name everywhere in an evaluation.

    Attributes:
        path: the dataset.
        notes: (N, ...) note_id, title, content, hashtags.
    """

    path: storage.Place
    notes: pl.DataFrame

    @classmethod
    def read(cls, dataset: PathLike) -> Catalogue:
        """Read the live notes of a dataset, without images."""
        opened = Dataset(dataset)
        return cls(opened.path, opened.notes(list(schema.TEXT_COLUMNS)).sort("note_id"))

    def __len__(self) -> int:
        return self.notes.height

    @property
    def ids(self) -> pl.Series:
        """(N,) note ids, ascending."""
        return self.notes["note_id"]

    def rows(self, ids: pl.Series) -> Rows:
        """The row of each id, -1 where the dataset doesn't have it: (len(ids),) int64."""
        places = self.notes.select("note_id").with_row_index("row")
        found = pl.DataFrame({"note_id": ids}).join(places, on="note_id", how="left", maintain_order="left")
        return found["row"].cast(pl.Int64).fill_null(-1).to_numpy()

    def text_lengths(self) -> Rows:
        """Characters of title, hashtags and content of each note: (N,) int64."""
        parts = [
            pl.col("title").str.len_chars(),
            pl.col("content").str.len_chars(),
            pl.col("hashtags").list.eval(pl.element().str.len_chars()).list.sum(),
        ]
        return self.notes.select(pl.sum_horizontal(parts).cast(pl.Int64)).to_series().to_numpy()

    def with_image(self) -> Mask:
        """Which notes have an entry in the images column: (N,) bool. No image is read."""
        counts = Dataset(self.path).image_counts()
        return self.ids.is_in(counts["note_id"].implode()).to_numpy()

    def ages(self) -> NDArray[np.float64]:
        """Days from each note's creation to that of the newest: (N,) float64, NaN where it is not known."""
        created = pl.col("created_at")
        days = (created.max() - created).dt.total_microseconds() / 86_400e6
        return self._known.select(days.fill_null(float("nan"))).to_series().to_numpy()

    def categories(self) -> pl.Series:
        """The first step of each note's category, Travel of Travel/Asia: (N,) string, null where it has none."""
        steps = pl.col("category").str.split("/").list.first().str.strip_chars()
        return self._known.select(pl.when(steps != "").then(steps).alias("category")).to_series()

    def cards(self, rows: Rows) -> pl.DataFrame:
        """What a person reads of some notes: note_id, title, content, hashtags, category and created_at, in the order given."""
        return pl.concat([self.notes[rows], self._known[rows]], how="horizontal")

    @functools.cached_property
    def _known(self) -> pl.DataFrame:
        """(N, 2) category and created_at, in the order of the notes."""
        frame = Dataset(self.path).notes(["category", "created_at"])
        joined = self.notes.select("note_id").join(frame, on="note_id", how="left", maintain_order="left")
        return joined.select("category", "created_at")


@dataclass(frozen=True, eq=False)
class Direction:
    """One set of queries with its candidates.

    Attributes:
        name: "new -> all", "warm -> new" or "paper".
        queries: (Q,) catalogue rows; in "paper" a note is asked once for every relevant note that it has.
        relevance: the relevant catalogue rows of each query.
        candidates: (C,) ascending catalogue rows.
        at: cut-offs of recall and hit.
        left_out_at: cut-offs that are not smaller than the pool, so that every arm would reach 1.
        pairs: rows of the table, repeated rows counted once.
        repeated: rows that stood in the table before.
    """

    name: str
    queries: Rows
    relevance: Relevance
    candidates: Rows
    at: tuple[int, ...]
    left_out_at: tuple[int, ...]
    pairs: int
    repeated: int

    def record(self, catalogue: Catalogue) -> dict[str, Any]:
        """What a report says about this direction; two reports compare only where the candidates are the same."""
        digest = hashlib.sha256()
        for note_id in catalogue.ids.gather(self.candidates):
            digest.update(note_id.encode() + b"\0")
        return {
            "queries": len(self.queries),
            "relevant": len(self.relevance.rows),
            "candidates": len(self.candidates),
            "candidates_hash": digest.hexdigest()[:16],
            "at": list(self.at),
            "left_out_at": list(self.left_out_at),
            "repeated_pairs": self.repeated,
        }

    def relevant_hashes(self, catalogue: Catalogue) -> list[str]:
        """A hash of each query's relevant ids, so that `compare` knows when two runs asked for other notes."""
        ids = catalogue.ids.gather(self.relevance.rows).to_list()
        bounds = self.relevance.indptr
        return [storage.value_hash(sorted(ids[bounds[q] : bounds[q + 1]])) for q in range(len(self.queries))]


def directions(catalogue: Catalogue, inputs: Inputs, config: EvaluateConfig) -> list[Direction]:
    """All directions that the inputs allow, the main one first.

    Raises:
        InputError: a table is empty, names notes that the dataset or the pool doesn't have, or relates a note to itself.
    """
    everything = np.arange(len(catalogue), dtype=np.int64)
    found = [_grouped(MAIN, inputs.pairs, catalogue, everything, tuple(config.at))]
    if inputs.new_notes is None:
        return found
    pool = _test_notes(catalogue, inputs.new_notes)
    if inputs.warm_pairs is not None and _height(inputs.warm_pairs):
        found.append(_grouped(WARM, inputs.warm_pairs, catalogue, pool, tuple(config.at)))
    if inputs.paper_pairs is not None and _height(inputs.paper_pairs):
        paper = _single(inputs.paper_pairs, catalogue, pool)
        found += [paper] if paper.at else []
    return found


def not_measured(found: Sequence[Direction], inputs: Inputs) -> dict[str, str]:
    """Why a direction is absent, so that no report leaves one out without a word."""
    given = {WARM: inputs.warm_pairs, PAPER: inputs.paper_pairs}
    present = {direction.name for direction in found}
    return {
        name: "no pairs given" if path is None else f"{path} holds no pairs, or the pool is too small for a cut-off"
        for name, path in given.items()
        if name not in present
    }


def _height(pairs: PathLike) -> int:
    """Rows of a table; a small log may have no warm or directional pair at all, and that direction is then left out."""
    return int(storage.read_table(pairs, schema.PAIRS).num_rows)


def _read(name: str, path: PathLike, catalogue: Catalogue, candidates: Rows) -> tuple[Rows, Rows, int]:
    """Anchor and related rows of a pairs table, ascending and without repetition; and how many rows were repeated."""
    table = pl.DataFrame(storage.read_table(path, schema.PAIRS)).select("anchor_id", "related_id")
    if table["related_id"].null_count() or not table.height:
        raise InputError(f"{path}: no test pairs in it; expected at least one, as `noterec split` writes them")
    kept = table.unique().sort("anchor_id", "related_id")
    anchors, related = catalogue.rows(kept["anchor_id"]), catalogue.rows(kept["related_id"])
    for column, rows in (("anchor_id", anchors), ("related_id", related)):
        missing = kept[column].filter(rows < 0).unique(maintain_order=True)
        if len(missing):
            raise InputError(
                f"{path}: {len(missing)} notes of its {column} are not in {catalogue.path}: "
                f"{', '.join(map(repr, missing.head(5)))}; give the dataset that was split"
            )
    outside = kept["related_id"].filter(~np.isin(related, candidates)).unique(maintain_order=True)
    if len(outside):
        raise InputError(
            f"{path}: {len(outside)} relevant notes are not among the candidates of {name!r}: "
            f"{', '.join(map(repr, outside.head(5)))}; expected new test notes: give the new_notes of the same split"
        )
    if (anchors == related).any():
        raise InputError(f"{path}: {int((anchors == related).sum())} rows relate a note to itself; remove them")
    return anchors, related, table.height - kept.height


def _grouped(name: str, path: PathLike, catalogue: Catalogue, candidates: Rows, at: Sequence[int]) -> Direction:
    """A direction in which a query has all its relevant notes at once."""
    anchors, related, repeated = _read(name, path, catalogue, candidates)
    queries, counts = np.unique(anchors, return_counts=True)  # anchors ascend, as ids and rows do
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Direction(
        name, queries, Relevance(indptr, related), candidates, tuple(sorted(set(at))), (), len(anchors), repeated
    )


def _single(path: PathLike, catalogue: Catalogue, pool: Rows) -> Direction:
    """The paper's direction: every row is a query with one relevant note."""
    anchors, related, repeated = _read(PAPER, path, catalogue, pool)
    at = tuple(k for k in PAPER_AT if k < len(pool) - 1)
    left_out = tuple(k for k in PAPER_AT if k not in at)
    if not at:  # a pool of a hundred notes or fewer: the largest round cut-off that still says something
        at = tuple(k for k in (10, 1) if k < len(pool) - 1)[:1]
    relevance = Relevance(np.arange(len(related) + 1, dtype=np.int64), related)
    return Direction(PAPER, anchors, relevance, pool, at, left_out, len(anchors), repeated)


def new_test_ids(path: PathLike) -> pl.Series:
    """The ids of the new test notes, each once, from a table of new notes.

    Raises:
        InputError: no column note_id.
    """
    table = pl.DataFrame(storage.read_table(path))
    if "note_id" not in table.columns:
        raise InputError(f"{path}: no column 'note_id'; expected the new notes, with note_id and part (valid or test)")
    if "part" in table.columns:
        table = table.filter(pl.col("part") == "test")
    return table["note_id"].cast(pl.String).unique()


def _test_notes(catalogue: Catalogue, path: PathLike) -> Rows:
    """The catalogue rows of the new test notes, ascending."""
    ids = new_test_ids(path)
    rows = catalogue.rows(ids)
    if not len(ids) or (rows < 0).any():
        missing = ids.filter(rows < 0).sort().head(5).to_list()
        raise InputError(
            f"{path}: names {len(ids)} new test notes, and {int((rows < 0).sum())} of them are not in {catalogue.path}"
            f"{': ' if missing else ''}{', '.join(map(repr, missing))}; give the new_notes of the same split"
        )
    return np.sort(rows)
