"""Which relation to train on: every weighting's pairs as training, every weighting's relevant notes as judge, and what people did.

    python benchmarks/relations.py DATASET --out runs/relations --seeds 5

Rows are what was trained on (beside the untrained encoder, BM25 and popularity), columns are what counts as relevant to a new
note: its ten strongest notes over the full log by each weighting. A model that is trained on a weighting also stops by it, so that
a row knows no weighting but its own. The last two columns need no weighting: of the people who engaged with the new note and with
something else, the share who engaged with one of its ten neighbours; and that share less the share of everybody else who did,
which is what the same ten neighbours reach by being popular.

DATASET is a folder that `noterec import` wrote. What exists under --out is reused, so a run that was stopped continues, and
weightings and seeds can be added later; models and embeddings are there to be looked at, top-*.parquet is all that the table needs.
"""

from __future__ import annotations

import argparse
import functools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from cold_start import ARMS, held_out, keep_settings, related_pairs, write_table
from numpy.typing import NDArray
from relations_table import matrix

import noterec
from noterec import storage
from noterec.config import load
from noterec.embedding.engine import embed
from noterec.embedding.intake import cache_root
from noterec.engagement.counting.keys import DatasetNotes
from noterec.engagement.counting.log import Log
from noterec.engagement.pairs import relevant
from noterec.engagement.reach import people_per_note
from noterec.engagement.table import write_pairs
from noterec.evaluation.lineup import lineup
from noterec.evaluation.protocol import Catalogue
from noterec.notes.dataset import Dataset
from noterec.ranking.metrics import Relevance, recall_at
from noterec.training.train import train

WEIGHTINGS = ("cosine", "notellm", "count", "lift", "npmi", "swing")
MORE = ("pmi",)
REACHED, BEYOND = "people reached", "beyond popularity"
DEPTH = 10
BUILTIN = ("bm25", "popularity")
UNTRAINED = "untrained"
_BLOCK = 512  # queries ranked at a time

Values = NDArray[np.float64]


def main() -> None:
    """Run what the command line asks for and write table.md and table.json under --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weighting", action="append", choices=(*WEIGHTINGS, *MORE), help=", ".join(WEIGHTINGS))
    parser.add_argument("--arm", choices=sorted(ARMS), default="minilm-words", help="what is trained")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0, help="to run seeds apart; a run of all then pools them")
    parser.add_argument("--min-support", type=int, default=2)
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--pairs-set", action="append", default=[], help="KEY=VALUE for the training pairs")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE for every training")
    parser.add_argument("--precision", default="bf16", help="of the states of a frozen backbone")
    options = parser.parse_args()
    weightings = list(dict.fromkeys(options.weighting or WEIGHTINGS))
    free = ("seeds", "first_seed", "weighting", "out")
    keep_settings(options.out, {key: str(value) for key, value in vars(options).items() if key not in free})
    numbers = range(options.first_seed, options.first_seed + options.seeds)
    per_query = pl.concat([Seed(options, weightings, number).run() for number in numbers])
    lines, record = matrix(per_query, weightings, f"recall@{DEPTH}, new -> all")
    write_table(options.out, lines, {"weightings": weightings, "seeds": list(numbers), **record})


@dataclass
class Seed:
    """One split seed: its folder, what was trained on it, and what each row of the table reached."""

    options: argparse.Namespace
    weightings: list[str]
    seed: int
    folder: Path = field(init=False)
    held: Path = field(init=False)
    new: pl.DataFrame = field(init=False)

    def __post_init__(self) -> None:
        self.folder = self.options.out / f"seed-{self.seed}"
        self.held = held_out(self.options.dataset, self.folder, self.seed, self.options.min_support)
        self.new = pl.DataFrame(storage.read_table(self.held / "new-notes.parquet"))

    def run(self) -> pl.DataFrame:
        """Every row's value for every query of every column: seed, query_id, row, column, value."""
        catalogue = Catalogue.read(self.options.dataset)
        names = [*self.weightings, UNTRAINED, *BUILTIN]
        for name in names:  # each is kept before the next is begun
            self.keep_top(name, catalogue)
        tops = {name: pl.DataFrame(storage.read_table(self.folder / f"top-{name}.parquet")) for name in names}
        parts = [
            self.recall(catalogue, column, self.relevant_notes(column), name, top)
            for column in self.weightings
            for name, top in tops.items()
        ]
        people = People.read(self.options.dataset, catalogue)
        parts += [self.people_reached(catalogue, people, name, top) for name, top in tops.items()]
        return pl.concat(parts).with_columns(seed=pl.lit(self.seed))

    def part(self, name: str) -> pl.Series:
        """The ids of the new notes of a part, test or valid, ascending."""
        return self.new.filter(pl.col("part") == name)["note_id"].sort()

    def relevant_notes(self, weighting: str) -> pl.DataFrame:
        """What a weighting calls relevant to the test notes, by the full log."""
        log = Log(Dataset(self.options.dataset))
        return self._pairs(f"relevant-{weighting}", log, anchors=self.part("test"), weighting=weighting)

    def valid_pairs(self, weighting: str) -> Path:
        """What it calls relevant to the valid notes, as if the test notes didn't exist."""
        log = Log(Dataset(self.options.dataset), hidden=self.part("test"))
        name = f"valid-{weighting}"
        self._pairs(name, log, anchors=self.part("valid"), weighting=weighting)
        return self.folder / f"{name}.parquet"

    def _pairs(self, name: str, log: Log, *, anchors: pl.Series, weighting: str) -> pl.DataFrame:
        file = self.folder / f"{name}.parquet"
        if not file.is_file():
            table = relevant(
                log,
                anchors=anchors,
                weighting=weighting,  # type: ignore[arg-type]
                top=DEPTH,
                min_support=self.options.min_support,
                description=name,
            )
            write_pairs(table, file, origin={"weighting": weighting, "seed": self.seed})
        return pl.DataFrame(storage.read_table(file))

    def keep_top(self, name: str, catalogue: Catalogue) -> None:
        """Rank all notes for every test note by a row of the table, unless that was done before."""
        file = self.folder / f"top-{name}.parquet"
        if file.is_file():
            return
        arms, clicks = {}, None
        if name == "popularity":
            clicks = people_per_note(Dataset(self.held / "train"), DatasetNotes(catalogue.ids))
        if name not in BUILTIN:
            arms = {f"row-{name}": self.embeddings(name)}
        config = noterec.EvaluateConfig(builtin=[name] if name in BUILTIN else [], fuse=False)
        (arm,) = lineup(arms, catalogue, clicks, config, {})
        rank = arm.over(np.arange(len(catalogue), dtype=np.int64))
        queries = catalogue.rows(self.part("test"))
        blocks = range(0, len(queries), _BLOCK)
        rows = np.concatenate([rank(queries[start : start + _BLOCK], DEPTH) for start in blocks])  # (Q, DEPTH)
        ids = catalogue.ids.to_list()
        found = [[ids[row] for row in line if row >= 0] for line in rows]
        table = pa.table({"query_id": self.part("test").to_arrow().cast(pa.string()), "top": found})
        storage.write_table(table, file)
        print(f"seed {self.seed} {name}: ranked", flush=True)

    def embeddings(self, name: str) -> Path:
        """All notes by a model that is trained on a weighting's pairs, or by the encoder as it is."""
        options, out = self.options, self.folder / f"embeddings-{name}"
        config = noterec.EmbedConfig(precision=options.precision)
        settings = {"dimension": options.dimension, "seed": self.seed, **ARMS[options.arm]}
        if name == UNTRAINED:
            encoder = noterec.NoteEncoder.from_backbone(str(settings["backbone"]), layers=settings.get("layers"))
            embed(options.dataset, model=encoder, out=out, config=config, cache=cache_root())
            return out
        if settings.get("way") != "full" and settings["backbone"] != "tiny":
            settings["precision"] = options.precision
        model = self.folder / f"model-{name}"
        summary = train(
            self.held / "train",
            pairs=related_pairs(self.held, self.folder, options.min_support, name, options.pairs_set),
            out=model,
            valid_pairs=self.valid_pairs(name),
            valid_notes=options.dataset,
            config=load(noterec.TrainConfig, None, options.set, **settings),
        )
        print(
            f"seed {self.seed} {name}: first {summary.first}, best {summary.best}, {summary.seconds:.0f} s", flush=True
        )
        cache = None if settings.get("way") == "full" else cache_root()
        embed(options.dataset, model=model, out=out, config=config, cache=cache)
        return out

    def recall(
        self, catalogue: Catalogue, column: str, pairs: pl.DataFrame, name: str, top: pl.DataFrame
    ) -> pl.DataFrame:
        """recall@10 of a row for the queries to which a weighting calls something relevant."""
        wanted = pairs.group_by("anchor_id").agg("related_id").rename({"anchor_id": "query_id"}).sort("query_id")
        asked = wanted.join(top, on="query_id", how="left", maintain_order="left")
        lists = [catalogue.rows(ids) for ids in asked["related_id"]]
        values = recall_at(_rows(catalogue, asked["top"]), Relevance.from_lists(lists), DEPTH)
        return _values(name, column, asked["query_id"], values)

    def people_reached(self, catalogue: Catalogue, people: People, name: str, top: pl.DataFrame) -> pl.DataFrame:
        """Both columns that need no weighting, for the queries with a person who engaged with something else."""
        queries = catalogue.rows(top["query_id"])
        reached = [
            people.reached(int(query), line) for query, line in zip(queries, _rows(catalogue, top["top"]), strict=True)
        ]
        values = np.array(reached)  # (Q, 2)
        kept = ~np.isnan(values[:, 0])
        ids = top["query_id"].filter(kept)
        columns = zip((REACHED, BEYOND), values[kept].T, strict=True)
        return pl.concat([_values(name, column, ids, found) for column, found in columns])


@dataclass(frozen=True, eq=False)
class People:
    """Who engaged with which note of a catalogue, by the full log.

    Attributes:
        of: for each catalogue row its people, ascending, of those who engaged with two notes at least.
        count: how many such people there are.
    """

    of: list[NDArray[np.int64]]
    count: int

    @classmethod
    def read(cls, dataset: Path, catalogue: Catalogue) -> People:
        """Read a dataset's log."""
        log = Dataset(dataset).engagement(engaged=True).select("user_id", "note_id").unique()
        log = log.filter(pl.col("note_id").is_in(catalogue.ids.implode()))
        log = log.filter(pl.len().over("user_id") > 1)
        users = (log["user_id"].rank("dense") - 1).cast(pl.Int64).to_numpy()
        notes = catalogue.rows(log["note_id"])
        order = np.lexsort((users, notes))
        starts = np.searchsorted(notes[order], np.arange(1, len(catalogue)))
        return cls(np.split(users[order], starts), len(np.unique(users)))

    def reached(self, query: int, top: NDArray[np.int64]) -> tuple[float, float]:
        """Of a note's people the share that its neighbours reach; and that less the share that they reach of everybody else."""
        mine = self.of[query]
        if not len(mine):
            return np.nan, np.nan
        reach = functools.reduce(np.union1d, [self.of[row] for row in top[top >= 0]], np.zeros(0, dtype=np.int64))
        hits = int(np.isin(mine, reach).sum())
        others = max(1, self.count - len(mine))
        share = hits / len(mine)
        return share, share - (len(reach) - hits) / others


def _rows(catalogue: Catalogue, top: pl.Series) -> NDArray[np.int64]:
    """(Q, DEPTH) catalogue rows of lists of ids, padded with -1."""
    rows = np.full((len(top), DEPTH), -1, dtype=np.int64)
    lengths = top.list.len().to_numpy()
    rows[np.arange(DEPTH) < lengths[:, None]] = catalogue.rows(top.explode().drop_nulls())
    return rows


def _values(row: str, column: str, queries: pl.Series, values: Values) -> pl.DataFrame:
    frame = pl.DataFrame({"query_id": queries, "value": values})
    return frame.with_columns(row=pl.lit(row), column=pl.lit(column))


if __name__ == "__main__":
    main()
