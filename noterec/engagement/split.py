"""Leak-proof splits: some notes become new, and training sees neither them nor what people did with them.

`split("data", out="splits/s0")` writes

    train/                    a dataset without the new notes and without any event on them
    valid-pairs.parquet       new notes for model choice -> their relevant train and valid notes, never a test note
    test-pairs.parquet        new notes for the report -> their relevant notes among all
    test-pairs-warm.parquet   train notes -> their relevant test notes: what to show to people who read a known note
    test-pairs-paper.parquet  test note -> test note by the directional score, as in arXiv:2403.01744 §5.1
    new-notes.parquet         note_id, part ("valid" or "test")
    split.json                settings and counts

By `random`, new notes are drawn from the sorted ids. By `time`, the last created notes are test and those before them valid,
and the past ends for everyone: training sees only events before the first new note was created, and valid-pairs only events
before the first test note was. By `user`, notes are drawn as by random, some people are held out with them, and each list is
counted on its own people alone, of whom training saw nothing. Each list is counted on what its reader may know: the test lists on
the full log, valid on the log without events on test notes. Note texts are those of the dataset: an edit made later isn't undone.

The log is read by batches, once for train and once or twice for each list, and never held; `memory` bounds what is.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from noterec import storage
from noterec.config import SplitConfig
from noterec.engagement.counting.log import Log
from noterec.engagement.newness import Parts, choose
from noterec.engagement.pairs import relevant
from noterec.engagement.table import write_pairs
from noterec.engagement.withheld import EventCounts, count_people, write_events, write_notes
from noterec.errors import InputError
from noterec.notes.dataset import Dataset, write_meta
from noterec.progress import stage

logger = logging.getLogger(__name__)

FORMAT = "noterec split"
SPLIT_FILE = "split.json"
FEW_QUERIES = 20  # below which a choice by their recall is mostly chance


@dataclass(frozen=True)
class SplitSummary:
    """What `split` wrote, and what each rule left out.

    Attributes:
        train_notes, valid_notes, test_notes: notes of each part.
        notes_undated: train notes without created_at; only by time.
        events: rows of the log; those of train and those that the next five rules hide from training add up to it.
        train_events: events that training sees.
        events_on_valid, events_on_test: events on new notes, whoever did them, hidden from training.
        events_of_held_people: events on other notes by people who are held out, hidden; only by user.
        events_too_late: events on other notes since the creation of the first new note, hidden; only by time.
        events_undated: events on other notes without a timestamp, hidden; only by time.
        valid_events, test_events: events that valid-pairs, and the three lists of test, are counted on.
        valid_queries, test_queries: new notes with at least one relevant note.
        valid_without_relevant, test_without_relevant: new notes that can't be queries, as nothing is relevant to them.
        warm_queries: train notes with at least one relevant test note.
        warm_without_relevant: train notes without one.
        warm_reached: test notes that are relevant to at least one train note.
        paper_queries: test notes with at least one related test note by the directional score.
        paper_without_relevant: test notes without one.
        valid_pairs, test_pairs, warm_pairs, paper_pairs: rows of each list.
        train_people, valid_people, test_people: people in the log whom training sees, and who are held out; None unless by user.
    """

    train_notes: int
    valid_notes: int
    test_notes: int
    notes_undated: int
    events: int
    train_events: int
    events_on_valid: int
    events_on_test: int
    events_of_held_people: int
    events_too_late: int
    events_undated: int
    valid_events: int
    valid_queries: int
    valid_without_relevant: int
    valid_pairs: int
    test_events: int
    test_queries: int
    test_without_relevant: int
    test_pairs: int
    warm_queries: int
    warm_without_relevant: int
    warm_reached: int
    warm_pairs: int
    paper_queries: int
    paper_without_relevant: int
    paper_pairs: int
    train_people: int | None = None
    valid_people: int | None = None
    test_people: int | None = None


def split(
    dataset: str | os.PathLike[str], *, out: str | os.PathLike[str], config: SplitConfig | None = None
) -> SplitSummary:
    """Hold out new notes and write what training may see, and what it is judged by.

    Args:
        dataset: a dataset folder.
        out: the folder to write; it appears whole or not at all, and replaces an earlier split.
        config: how many notes are new, how they are chosen, what counts as relevant, and how much memory counting may hold.

    Returns:
        The counts, which are also in split.json.

    Raises:
        InputError: `out` holds something else, too few notes, no test note with a relevant note, no engagement left to
            train on; by time, a log without real times or more than 5 % of the notes without created_at; by user, no engagement of
            the people of test.
    """
    config = config or SplitConfig()
    with stage("split") as record:
        data = Dataset(dataset)
        target = _checked_target(out, data.path)
        parts = choose(data, config)
        with _published(target) as folder:
            events = _write_train(data, parts, config, folder / "train")
            counts = _counts(data, parts, events, config) | _write_lists(data, parts, events, config, folder)
            summary = SplitSummary(**counts)
            moments = {"first_new_note": parts.first_new, "first_test_note": parts.first_test}
            about = {"format": FORMAT, "dataset": data.path.name, "config": config.model_dump(mode="json"), **moments}
            storage.write_json(folder / SPLIT_FILE, {**about, "counts": counts})
        record.counts.update(rows_in=summary.events, rows_out=summary.train_events, **counts)
    return summary


def _write_train(data: Dataset, parts: Parts, config: SplitConfig, folder: Path) -> EventCounts:
    """Write the dataset that training sees; count what is hidden from it."""
    events = write_events(data, parts, folder / "engagement")
    if not events.engaged["train"]:
        raise InputError(
            f"{data.path}: training would see no engagement: of {events.events} events, {events.on_valid + events.on_test} are on "
            f"new notes, {events.of_held_people} of people held out, {events.too_late + events.undated} not early enough, and the "
            f"other {events.train} no clicks; hold out fewer notes or people, split at random, or bring a longer log"
        )
    write_notes(data, set(parts.new["note_id"]), folder / "notes")
    write_meta(folder, clock=data.clock, source=data.path.name, split=config.model_dump(mode="json"))
    return events


def _counts(data: Dataset, parts: Parts, events: EventCounts, config: SplitConfig) -> dict[str, int]:
    """The fields of SplitSummary that don't describe the lists."""
    people: dict[str, int] = {}
    if parts.people is not None:
        people = count_people(data, parts.people, memory=config.memory)
    return {
        "train_notes": len(parts.train),
        "valid_notes": len(parts.valid),
        "test_notes": len(parts.test),
        "notes_undated": parts.undated,
        **{f"{part}_people": count for part, count in people.items()},
        "events": events.events,
        "train_events": events.train,
        "events_on_valid": events.on_valid,
        "events_on_test": events.on_test,
        "events_of_held_people": events.of_held_people,
        "events_too_late": events.too_late,
        "events_undated": events.undated,
        "valid_events": events.for_valid,
        "test_events": events.for_test,
    }


def _lists(data: Dataset, parts: Parts, events: EventCounts, config: SplitConfig) -> dict[str, pl.DataFrame]:
    """The relevant notes of each list, counted on what its reader may know."""
    strongest = functools.partial(
        relevant,
        top=config.top,
        min_support=config.min_support,
        max_notes_per_user=config.max_notes_per_user,
        memory=config.memory,
    )
    by_valid, by_test = (None, None) if parts.people is None else (parts.people.valid, parts.people.test)
    until_test = Log(data, hidden=parts.test, before=parts.first_test, people=by_valid)
    everything = Log(data, people=by_test)
    if not events.engaged["test"]:
        raise InputError(
            f"{data.path}: the people who are held out for test engaged with nothing; hold out more people, or bring a longer log"
        )
    valid = pl.DataFrame(
        schema={"anchor_id": pl.String, "related_id": pl.String, "score": pl.Float32, "rank": pl.Int32}
    )
    if len(parts.valid) and events.engaged["valid"]:
        valid = strongest(until_test, anchors=parts.valid, description="valid pairs")
    return {
        "valid-pairs": valid,
        "test-pairs": strongest(everything, anchors=parts.test, description="test pairs"),
        "test-pairs-warm": strongest(everything, anchors=parts.train, candidates=parts.test, description="warm pairs"),
        "test-pairs-paper": strongest(
            everything, anchors=parts.test, candidates=parts.test, weighting="notellm", description="paper pairs"
        ),
    }


def _write_lists(data: Dataset, parts: Parts, events: EventCounts, config: SplitConfig, folder: Path) -> dict[str, int]:
    """Write the lists of relevant notes and of new notes; count them."""
    lists = _lists(data, parts, events, config)
    valid, test, warm, paper = lists.values()
    queries = {name: table["anchor_id"].n_unique() for name, table in lists.items()}
    if not test.height:
        people = "people" if parts.people is None else "of the people held out for test"
        raise InputError(
            f"{data.path}: none of the {len(parts.test)} test notes has a relevant note (one shared by at least "
            f"{config.min_support} {people}); lower min_support, hold out more, or bring a longer log"
        )
    if len(parts.valid) and not valid.height:
        logger.warning("no valid note has a relevant note: valid-pairs is empty and can't choose a model")
    elif len(parts.valid) and queries["valid-pairs"] < FEW_QUERIES:
        logger.warning(
            "only %d valid notes have a relevant note: what valid-pairs chooses, such as a training's best step, is mostly chance; "
            "hold out more of them (valid=...), or bring a longer log",
            queries["valid-pairs"],
        )
    for name, table in lists.items():
        origin = {"list": name, "dataset": data.path.name, "config": config.model_dump(mode="json")}
        write_pairs(table, folder / f"{name}.parquet", origin=origin)
    storage.write_table(_plain(parts.new), folder / "new-notes.parquet")
    return {
        "valid_queries": queries["valid-pairs"],
        "valid_without_relevant": len(parts.valid) - queries["valid-pairs"],
        "valid_pairs": valid.height,
        "test_queries": queries["test-pairs"],
        "test_without_relevant": len(parts.test) - queries["test-pairs"],
        "test_pairs": test.height,
        "warm_queries": queries["test-pairs-warm"],
        "warm_without_relevant": len(parts.train) - queries["test-pairs-warm"],
        "warm_reached": warm["related_id"].n_unique(),
        "warm_pairs": warm.height,
        "paper_queries": queries["test-pairs-paper"],
        "paper_without_relevant": len(parts.test) - queries["test-pairs-paper"],
        "paper_pairs": paper.height,
    }


def _plain(new: pl.DataFrame) -> pa.Table:
    """The list of new notes with Arrow's plain string type."""
    return new.to_arrow().cast(pa.schema([("note_id", pa.string()), ("part", pa.string())]))


def _checked_target(out: str | os.PathLike[str], dataset: storage.Place) -> Path:
    """The output folder, if a split may be written there."""
    target = storage.local(out).absolute()
    if isinstance(dataset, Path) and (target == dataset.absolute() or target in dataset.absolute().parents):
        raise InputError(f"{target}: holds the dataset {dataset} itself; give another output folder")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return target
    file = target / SPLIT_FILE
    if target.is_dir() and file.is_file() and storage.read_json(file).get("format") == FORMAT:
        return target
    raise InputError(f"{target}: exists and is no earlier split; give another output folder, or remove it")


@contextlib.contextmanager
def _published(target: Path) -> Iterator[Path]:
    """A folder beside the target to write into; takes the target's place when the block ends well, else vanishes.

    What a killed run left beside the target is replaced by the next one.
    """
    partial, old = (target.with_name(f".{target.name}.{word}") for word in ("partial", "old"))
    try:
        for folder in (partial, old):
            shutil.rmtree(folder, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        if target.exists():
            target.rename(old)
        partial.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{target}: could not be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
