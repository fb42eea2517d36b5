"""What a table of pairs looks like (`noterec pairs --describe`), to set bounds, top and weighting with open eyes."""

from __future__ import annotations

import itertools
import os

import numpy as np
import polars as pl
from numpy.typing import NDArray

from noterec import storage
from noterec.engagement.balance import first_step
from noterec.engagement.counting.keys import DatasetNotes, keys
from noterec.engagement.describing.advice import suggestions, verdict
from noterec.engagement.describing.description import (
    Age,
    Agreement,
    Coverage,
    NoteLine,
    PairsDescription,
    Popularity,
    Quantiles,
    Scores,
    TopNotes,
)
from noterec.engagement.reach import people_per_note
from noterec.engagement.table import load_pairs
from noterec.errors import InputError
from noterec.notes.dataset import Dataset
from noterec.progress import stage

QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
RANKS = (1, 5, 10)
TOP_SHARES = (0.01, 0.1)
AT = 10  # length of the list of popular notes that is asked what is related
SHOWN = 3  # related notes of a note of the sample

People = NDArray[np.int64]  # (N,) by code


def describe_pairs(
    dataset: str | os.PathLike[str], pairs: str | os.PathLike[str], *, sample: int = 10, seed: int = 0
) -> PairsDescription:
    """Describe a table of pairs beside the dataset that it was mined from.

    The log is streamed; what is held grows with notes and pairs, not with events. A list is read in the order of `rank`, then of
    falling scores, then of the file, so tables of other makers may lack either column.

    Args:
        dataset: the dataset folder.
        pairs: a Parquet file of the pairs schema, or a folder of them.
        sample: anchors to be read; all where there are fewer.
        seed: of the sample, and of the shuffle beside the difference of age.

    Raises:
        InputError: no engagement on the notes, no pairs, or most of them name notes that the dataset doesn't have; `sample` or
            `seed` is negative.
    """
    for name, value, what in (("sample", sample, "how many anchors to show"), ("seed", seed, "a seed")):
        if value < 0:
            raise InputError(f"{name}={value}; expected {what}, 0 or more")
    with stage("describe") as record:
        data = Dataset(dataset)
        read, unknown = load_pairs(pairs, data.note_ids)
        config = storage.read_origin(pairs).get("config")
        settings = config if isinstance(config, dict) else {}  # a file of another maker may say anything
        codes = DatasetNotes(data.note_ids)
        table = _lists(read, codes)
        people = people_per_note(data, codes)
        if not people.any():
            raise InputError(
                f"{data.path}: nobody engaged with any of its notes; expected the log that the pairs were mined from: bring "
                "engagement/, or give that dataset"
            )
        facts = data.notes(["category", "author_id", "created_at"]).sort("note_id")  # row = code
        coverage, popularity = _coverage(table, people), _popularity(table, people)
        scores, symmetric = _scores(table), _symmetric(table)
        category = _agreement(table, facts.select(value=first_step(pl.col("category")))["value"], commonest=True)
        author = _agreement(table, facts["author_id"], commonest=False)
        record.counts.update(rows_in=table.height + unknown, rows_out=table.height, events=data.event_count)
        return PairsDescription(
            settings=settings,
            pairs=table.height,
            unknown=unknown,
            repeated=read.height - table.height,
            coverage=coverage,
            scores=scores,
            popularity=popularity,
            symmetric=symmetric,
            category=category,
            author=author,
            age=_age(table, facts["created_at"], seed),
            sample=_sample(table, data, codes, people, sample, seed),
            suggestions=tuple(suggestions(settings, coverage, scores, popularity, category, author)),
        )


def _lists(read: pl.DataFrame, codes: DatasetNotes) -> pl.DataFrame:
    """The pairs as anchor, related (uint32 codes), score and rank, each once, the ranks of an anchor counted from 1."""
    anchor, related = (
        codes.find(keys(read[name].to_arrow())).astype(np.uint32) for name in ("anchor_id", "related_id")
    )
    return (
        pl.DataFrame({"anchor": anchor, "related": related})
        .with_columns(read["score"].fill_nan(None), read["rank"])
        .sort("anchor", "rank", "score", descending=[False, False, True], nulls_last=True, maintain_order=True)
        .unique(["anchor", "related"], keep="first", maintain_order=True)
        .with_columns((pl.int_range(pl.len()).over("anchor") + 1).cast(pl.Int32).alias("rank"))
    )


def _coverage(table: pl.DataFrame, people: People) -> Coverage:
    sizes = table.group_by("anchor").len("size")
    longest = int(sizes["size"].max() or 0)  # type: ignore[arg-type]
    edges = [edge for edge in (1, 2, 5, 10) if edge < longest] + [longest, longest + 1]
    by_related = {
        f"{low}" if high == low + 1 else f"{low}-{high - 1}": sizes.filter(
            pl.col("size").is_between(low, high - 1)
        ).height
        for low, high in itertools.pairwise(edges)
    }
    alone = np.delete(people, sizes["anchor"].to_numpy())
    return Coverage(
        notes=len(people),
        anchors=sizes.height,
        without_engagement=int((alone == 0).sum()),
        with_one_person=int((alone == 1).sum()),
        with_more_people=int((alone > 1).sum()),
        related=table["related"].n_unique(),
        anchors_by_related=by_related,
    )


def _scores(table: pl.DataFrame) -> Scores:
    longest = int(table["rank"].max() or 0)  # type: ignore[arg-type]
    by_rank = {
        str(rank): _quantiles(table.filter(pl.col("rank") == rank)["score"])
        for rank in sorted({*RANKS, longest})
        if rank <= longest
    }
    by_rank["all"] = _quantiles(table["score"])
    ends = (
        table.filter(pl.col("rank") >= longest - 1)
        .group_by("anchor")
        .agg(pl.col("rank").max(), pl.col("score").n_unique(), known=pl.col("score").count())
        .filter((pl.col("rank") == longest) & (pl.col("known") == 2))
    )
    tied = float((ends["score"] == 1).sum() / ends.height) if ends.height else None
    return Scores({rank: found for rank, found in by_rank.items() if found}, tied)


def _popularity(table: pl.DataFrame, people: People) -> Popularity:
    order = np.lexsort((np.arange(len(people)), -people))  # the most popular first, ties by note_id
    place = np.empty(len(people), dtype=np.int64)
    place[order] = np.arange(len(people))
    anchor, related = table["anchor"].to_numpy(), table["related"].to_numpy()
    top = []
    for share in TOP_SHARES:
        chosen = order[: int(np.ceil(share * len(people)))]
        chosen = chosen[people[chosen] > 0]
        top.append(
            TopNotes(
                share=share,
                notes=len(chosen),
                least_people=int(people[chosen].min()),
                of_engagement=float(people[chosen].sum() / people.sum()),
                of_related=float((place[related] < len(chosen)).mean()),
            )
        )
    # The list has one place more for an anchor that stands in it itself.
    found = place[related] < AT + (place[anchor] < AT)
    recall = (
        table.select("anchor", found=pl.Series(found)).group_by("anchor").agg(pl.col("found").mean())["found"].mean()
    )
    chance = min(1.0, AT / (len(people) - 1))
    return Popularity(
        top=tuple(top),
        people={
            "notes": _quantiles(pl.Series(people)),
            "anchors": _quantiles(pl.Series(people[np.unique(anchor)])),
            "related": _quantiles(pl.Series(people[related])),
        },
        recall_at_10=float(recall),  # type: ignore[arg-type]
        chance=chance,
        verdict=verdict(float(recall), chance),  # type: ignore[arg-type]
    )


def _symmetric(table: pl.DataFrame) -> float:
    """The share of pairs that are there in both directions."""
    back = table.select(anchor="related", related="anchor")
    return table.join(back, on=["anchor", "related"], how="semi").height / table.height


def _agreement(table: pl.DataFrame, values: pl.Series, *, commonest: bool) -> Agreement | None:
    """Args: values (N,) by code, null = unknown."""
    number = values.rank("dense")  # null stays null
    pairs = pl.DataFrame({"a": number.gather(table["anchor"]), "b": number.gather(table["related"])}).drop_nulls()
    if not pairs.height:
        return None
    # Shuffling leaves how often a value stands on either side, and makes the sides independent.
    sides = pairs.group_by("a").len("left").join(pairs.group_by("b").len("right"), left_on="a", right_on="b")
    chance = float((sides["left"].cast(pl.Float64) * sides["right"]).sum()) / pairs.height**2
    combination, share = None, None
    if commonest:
        combined = pairs.group_by("a", "b").len().sort("len", "a", "b", descending=[True, False, False])
        a, b, most = combined.row(0)
        names = dict(
            pl.DataFrame({"number": number, "name": values}).filter(pl.col("number").is_in([a, b])).unique().rows()
        )
        combination, share = (names[a], names[b]), most / pairs.height
    return Agreement(
        known=pairs.height,
        unknown=table.height - pairs.height,
        same=float((pairs["a"] == pairs["b"]).sum() / pairs.height),
        chance=chance,
        commonest=combination,
        of_known=share,
    )


def _age(table: pl.DataFrame, created: pl.Series, seed: int) -> Age | None:
    """Args: created (N,) by code, null = unknown."""
    days = created.dt.epoch("us").cast(pl.Float64) / 86_400e6
    pairs = pl.DataFrame({"a": days.gather(table["anchor"]), "b": days.gather(table["related"])}).drop_nulls()
    if not pairs.height:
        return None
    a, b = pairs["a"].to_numpy(), pairs["b"].to_numpy()
    shuffled = np.random.default_rng(seed).permutation(b)
    return Age(
        known=pairs.height,
        days=float(np.median(np.abs(a - b))),
        chance=float(np.median(np.abs(a - shuffled))),
        older=float((b < a).mean()),
    )


def _sample(
    table: pl.DataFrame, data: Dataset, codes: DatasetNotes, people: People, count: int, seed: int
) -> tuple[NoteLine, ...]:
    """Some anchors with their first related notes, drawn with the seed, in the order of their ids."""
    anchors = table["anchor"].unique().sort()
    chosen = anchors.gather(
        np.random.default_rng(seed).choice(len(anchors), min(count, len(anchors)), replace=False)
    ).sort()
    rows = table.filter(pl.col("anchor").is_in(chosen.implode()) & (pl.col("rank") <= SHOWN))
    wanted = codes.ids.gather(pl.concat([chosen, rows["related"]]).unique()).implode()
    notes: dict[str, dict[str, str | None]] = {}
    for batch in data.note_batches(["title", "category", "author_id"]):
        read = pl.DataFrame(batch).filter(pl.col("note_id").is_in(wanted))
        notes |= {note["note_id"]: note for note in read.to_dicts()}

    def line(code: int, score: float | None = None, related: tuple[NoteLine, ...] = ()) -> NoteLine:
        note = notes[codes.ids[code]]
        return NoteLine(
            note_id=codes.ids[code],
            title=note.get("title"),
            category=note.get("category"),
            author_id=note.get("author_id"),
            people=int(people[code]),
            score=score,
            related=related,
        )

    lists = {anchor: rows.filter(pl.col("anchor") == anchor).select("related", "score").rows() for anchor in chosen}
    return tuple(line(anchor, related=tuple(line(*row) for row in lists[anchor])) for anchor in chosen)


def _quantiles(values: pl.Series) -> Quantiles:
    """The quantiles of numbers, nulls left out; empty where there are none."""
    known = values.drop_nulls().to_numpy()
    return dict(zip(QUANTILES, map(float, np.quantile(known, QUANTILES)), strict=True)) if len(known) else {}
