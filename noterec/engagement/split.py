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
before the first test note was. Each list is counted on what its reader may know: the test lists on the full log, valid on
the log without events on test notes. Note texts are those of the dataset: an edit made later isn't undone.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from noterec import schema, storage
from noterec.config import SplitConfig
from noterec.engagement.newness import Parts, choose
from noterec.engagement.pairs import relevant, write_pairs
from noterec.errors import InputError
from noterec.notes.dataset import Dataset, write_meta
from noterec.progress import stage, track

logger = logging.getLogger(__name__)

FORMAT = "noterec split"
SPLIT_FILE = "split.json"
FEW_QUERIES = 20  # below which a choice by their recall is mostly chance
_FILE_BYTES, _FILE_NOTES = 64 << 20, 1 << 16  # of one notes file; images make rows large
_FILE_EVENTS = 5_000_000  # of one engagement file


@dataclass(frozen=True)
class SplitSummary:
    """What `split` wrote, and what each rule left out.

    Attributes:
        train_notes, valid_notes, test_notes: notes of each part.
        notes_undated: train notes without created_at; only by time.
        train_events: events that training sees.
        events_on_valid, events_on_test: events on new notes, hidden from training.
        events_too_late: events on other notes since the creation of the first new note, hidden; only by time.
        events_undated: events without a timestamp, hidden; only by time.
        valid_queries, test_queries: new notes with at least one relevant note.
        valid_without_relevant, test_without_relevant: new notes that can't be queries, as nothing is relevant to them.
        warm_queries: train notes with at least one relevant test note.
        warm_reached: test notes that are relevant to at least one train note.
        paper_queries: test notes with at least one related test note by the directional score.
        valid_pairs, test_pairs, warm_pairs, paper_pairs: rows of each list.
    """

    train_notes: int
    valid_notes: int
    test_notes: int
    notes_undated: int
    train_events: int
    events_on_valid: int
    events_on_test: int
    events_too_late: int
    events_undated: int
    valid_queries: int
    valid_without_relevant: int
    valid_pairs: int
    test_queries: int
    test_without_relevant: int
    test_pairs: int
    warm_queries: int
    warm_reached: int
    warm_pairs: int
    paper_queries: int
    paper_pairs: int


def split(
    dataset: str | os.PathLike[str], *, out: str | os.PathLike[str], config: SplitConfig | None = None
) -> SplitSummary:
    """Hold out new notes and write what training may see, and what it is judged by.

    Args:
        dataset: a dataset folder.
        out: the folder to write; it appears whole or not at all, and replaces an earlier split.
        config: how many notes are new, how they are chosen, what counts as relevant.

    Returns:
        The counts, which are also in split.json.

    Raises:
        InputError: `out` holds something else, too few notes, no test note with a relevant note, no engagement left to
            train on; by time, a log without real times or more than 5 % of the notes without created_at.
    """
    config = config or SplitConfig()
    with stage("split") as record:
        data = Dataset(dataset)
        target = _checked_target(out, data.path)
        parts = choose(data, config)
        log = data.engagement()
        with _published(target) as folder:
            counts = _write_train(data, log, parts, config, folder / "train")
            counts |= _write_lists(data, log, parts, config, folder)
            summary = SplitSummary(**counts)
            moments = {"first_new_note": parts.first_new, "first_test_note": parts.first_test}
            about = {"format": FORMAT, "dataset": data.path.name, "config": config.model_dump(mode="json"), **moments}
            storage.write_json(folder / SPLIT_FILE, {**about, "counts": counts})
        record.counts.update(rows_in=log.height, rows_out=summary.train_events, **counts)
    return summary


def _write_train(data: Dataset, log: pl.DataFrame, parts: Parts, config: SplitConfig, folder: Path) -> dict[str, int]:
    """Write the dataset that training sees; count it and what is hidden from it."""
    valid_events, test_events = _on(log, parts.valid).height, _on(log, parts.test).height
    others = _not_on(_not_on(log, parts.valid), parts.test)
    seen, undated = _before(others, parts.first_new)
    if not seen["action"].is_in(list(schema.ENGAGED)).any():
        raise InputError(
            f"{data.path}: training would see no engagement: of {log.height} events, {others.height} are on train notes "
            f"and {seen.height} of those early enough; hold out fewer notes, split at random, or bring a longer log"
        )
    _write_notes(data, set(parts.new["note_id"]), folder / "notes")
    for number, start in enumerate(range(0, seen.height, _FILE_EVENTS)):
        table = schema.conform(seen.slice(start, _FILE_EVENTS).to_arrow(), schema.ENGAGEMENT, name="engagement")
        storage.write_table(table, folder / "engagement" / f"part-{number:05d}.parquet")
    write_meta(folder, clock=data.clock, source=data.path.name, split=config.model_dump(mode="json"))
    return {
        "train_notes": len(parts.train),
        "valid_notes": len(parts.valid),
        "test_notes": len(parts.test),
        "notes_undated": parts.undated,
        "train_events": seen.height,
        "events_on_valid": valid_events,
        "events_on_test": test_events,
        "events_too_late": others.height - seen.height - undated,
        "events_undated": undated,
    }


def _write_lists(data: Dataset, log: pl.DataFrame, parts: Parts, config: SplitConfig, folder: Path) -> dict[str, int]:
    """Write the lists of relevant notes and of new notes; count them."""
    strongest = functools.partial(
        relevant,
        clock=data.clock,
        top=config.top,
        min_support=config.min_support,
        max_notes_per_user=config.max_notes_per_user,
    )
    everything = (log, data.note_ids)
    valid_log, _ = _before(_not_on(log, parts.test), parts.first_test)
    known_to_valid = pl.concat([parts.train, parts.valid])
    lists = {
        "valid-pairs": strongest(valid_log, known_to_valid, anchors=parts.valid, description="valid pairs"),
        "test-pairs": strongest(*everything, anchors=parts.test, description="test pairs"),
        "test-pairs-warm": strongest(*everything, anchors=parts.train, candidates=parts.test, description="warm pairs"),
        "test-pairs-paper": strongest(
            *everything, anchors=parts.test, candidates=parts.test, weighting="notellm", description="paper pairs"
        ),
    }
    valid, test, warm, paper = lists.values()
    queries = {name: table["anchor_id"].n_unique() for name, table in lists.items()}
    if not test.height:
        raise InputError(
            f"{data.path}: none of the {len(parts.test)} test notes has a relevant note (one shared by at least "
            f"{config.min_support} people); lower min_support, hold out more notes, or bring a longer log"
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
        "warm_reached": warm["related_id"].n_unique(),
        "warm_pairs": warm.height,
        "paper_queries": queries["test-pairs-paper"],
        "paper_pairs": paper.height,
    }


def _plain(new: pl.DataFrame) -> pa.Table:
    """The list of new notes with Arrow's plain string type."""
    return new.to_arrow().cast(pa.schema([("note_id", pa.string()), ("part", pa.string())]))


def _on(log: pl.DataFrame, ids: pl.Series) -> pl.DataFrame:
    return log.filter(pl.col("note_id").is_in(ids.implode()))


def _not_on(log: pl.DataFrame, ids: pl.Series) -> pl.DataFrame:
    return log.filter(~pl.col("note_id").is_in(ids.implode()))


def _before(log: pl.DataFrame, moment: dt.datetime | None) -> tuple[pl.DataFrame, int]:
    """The events before a moment (all of them where it is None), and how many were left out for having no time."""
    if moment is None:
        return log, 0
    return log.filter(pl.col("timestamp") < moment), log["timestamp"].null_count()


def _write_notes(data: Dataset, new: set[str], folder: Path) -> None:
    """Copy the notes that aren't new, columns unchanged, without ever holding more than one output file of them."""
    held: list[pa.Table] = []
    files = 0

    def flush() -> None:
        nonlocal files
        if held:
            storage.write_table(pa.concat_tables(held), folder / f"part-{files:05d}.parquet")
            files += 1
            held.clear()

    with track("train notes", len(data.note_ids), "notes") as bar:
        for table in data.note_batches(batch_rows=512):
            bar.advance(table.num_rows)
            kept = table.filter(pa.array([note_id not in new for note_id in table["note_id"].to_pylist()]))
            if held and held[0].schema != kept.schema:  # the next source file has other columns
                flush()
            if kept.num_rows:
                held.append(kept)
            if sum(t.nbytes for t in held) > _FILE_BYTES or sum(t.num_rows for t in held) > _FILE_NOTES:
                flush()
        flush()


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
