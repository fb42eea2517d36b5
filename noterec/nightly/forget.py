"""`noterec forget CONFIG`: a note's or a person's deletion, through every table of the job and the published index.

In the order of urgency: the note is out of the published index, and of every later one, before anything else is done; then the
published neighbour tables; then the bytes: embeddings, pairs, questions and evaluations of earlier nights, bundles, and the dataset
itself. A step that was done is done again without harm, so the same command goes on where a killed one was.

What is not reached: the weights of models that were trained before (the next training doesn't see what is gone), and caches of
readout states and picture features, which know contents and no ids (delete the cache's folder to be rid of them at once).
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from noterec import progress, schema, storage
from noterec.config import NightlyConfig, load
from noterec.embedding.tombstones import withdraw_notes
from noterec.errors import InputError
from noterec.index.build import build_index
from noterec.index.bundle import NOTES_FILE, bundles, find, live_name, read_info
from noterec.index.changing import remove_notes
from noterec.index.publishing import discard
from noterec.index.search import Index
from noterec.nightly.bundles import show_tables
from noterec.nightly.home import Home
from noterec.nightly.models import live_model
from noterec.notes.dataset import Dataset

LOG = "forgotten.jsonl"
TABLES_OF_IDS = ("note_id", "query_id", "anchor_id", "related_id")


@dataclass(frozen=True)
class ForgetSummary:
    """What was forgotten.

    Attributes:
        notes: ids that were asked for, those of the people's own notes included.
        users: people.
        found: notes that the published index had.
        rows: rows erased, by table.
        bundles: bundles removed, because they held such a note.
        pages: pages and logs of earlier nights removed, because they name one.
        bundle: the live bundle.
        dataset: "rewritten", or "kept", which still has what was forgotten.
    """

    notes: int
    users: int
    found: int
    rows: dict[str, int] = field(default_factory=dict)
    bundles: list[str] = field(default_factory=list)
    pages: int = 0
    bundle: str | None = None
    dataset: str = "rewritten"


def forget(
    config: NightlyConfig | str | os.PathLike[str],
    *,
    notes: Iterable[str] = (),
    users: Iterable[str] = (),
    keep_dataset: bool = False,
) -> ForgetSummary:
    """Delete notes and people from everything that the nightly job keeps.

    Args:
        config: the nightly job's settings, or their YAML file.
        notes: ids of notes.
        users: ids of people: their engagement, and the notes whose author they are.
        keep_dataset: leave the dataset's files alone, where another system owns them: it has to delete there itself, or the next
            night encodes the note again (it stays out of the index all the same).

    Returns:
        What was erased where.

    Raises:
        InputError: nothing to forget was given, or a table can't be rewritten.
        LockedError: a night is running. The notes are out of the published index then already; run the command again for the rest.
    """
    settings = config if isinstance(config, NightlyConfig) else load(NightlyConfig, config)
    people, asked = set(users), set(notes)
    if not people and not asked:
        raise InputError("nothing to forget; give notes (--note ID) or people (--user ID)")
    home = Home.open(settings.home, create=False)
    data = Dataset(settings.dataset)
    ids = asked | (_notes_of(data, people) if people else set())
    with progress.stage("forget") as record:
        found = 0
        if ids and live_name(home.index) is not None:
            found = remove_notes(home.index, sorted(ids))
        with home.claimed():
            rows: dict[str, int] = {}
            dropped: list[str] = []
            pages = 0
            if ids:
                rows |= _from_neighbours(home, ids)
                rows |= _from_tables(home, ids)
            if not keep_dataset:
                rows |= _from_dataset(data, ids, people)
            if ids:
                dropped = _from_bundles(settings, home, ids)
                pages = _pages(home, ids | people)
            if home.path.is_dir():
                _note(home, ids, people)
        record.counts.update(notes=len(ids), users=len(people), rows=sum(rows.values()))
    return ForgetSummary(
        notes=len(ids),
        users=len(people),
        found=found,
        rows={name: count for name, count in rows.items() if count},
        bundles=dropped,
        pages=pages,
        bundle=live_name(home.index),
        dataset="kept" if keep_dataset else "rewritten",
    )


def listed(path: str | os.PathLike[str]) -> tuple[list[str], list[str]]:
    """The notes and the people that a table names.

    Raises:
        InputError: it has neither a column note_id nor user_id.
    """
    table = storage.read_table(path)
    if not {"note_id", "user_id"} & set(table.column_names):
        raise InputError(f"{path}: the columns are {', '.join(table.column_names)}; expected note_id, user_id, or both")
    found = [
        [value for value in table[column].cast(pa.string()).to_pylist() if value is not None]
        if column in table.column_names
        else []
        for column in ("note_id", "user_id")
    ]
    return found[0], found[1]


def _notes_of(data: Dataset, people: set[str]) -> set[str]:
    """The notes whose author is one of these, deleted versions included."""
    found: set[str] = set()
    for file in data.note_files:
        with storage.open_parquet(file) as parquet:
            if "author_id" in parquet.schema_arrow.names:
                table = schema.conform(parquet.read(columns=["note_id", "author_id"]), schema.NOTES, name=str(file))
                mask = pc.is_in(table["author_id"], value_set=pa.array(sorted(people), pa.string()))
                found.update(table["note_id"].filter(mask).to_pylist())
    return found


def _from_neighbours(home: Home, ids: set[str]) -> dict[str, int]:
    """The published tables first; ranks close up behind a note that is gone."""
    gone = 0
    folders = [home.neighbours, *home.neighbours.glob("bundle-*")] if home.neighbours.is_dir() else []
    for folder in folders:
        for file in sorted(folder.glob("*.parquet")):
            table = pl.read_parquet(file)
            named = pl.col("query_id").is_in(list(ids)) | pl.col("note_id").is_in(list(ids))
            kept = table.filter(~named)
            if kept.height == table.height:
                continue
            gone += table.height - kept.height
            kept = kept.with_columns(pl.col("rank").rank("ordinal").over("query_id").cast(pl.Int32))
            arrow = schema.conform(
                kept.to_arrow(compat_level=pl.CompatLevel.oldest()), schema.NEIGHBOURS, name=file.name
            )
            storage.write_table(arrow, file, origin=storage.read_origin(file))
    return {"neighbours": gone}


def _from_tables(home: Home, ids: set[str]) -> dict[str, int]:
    """Embeddings with their rejects, pairs, and what nights and trainings were asked by."""
    rows = {"embeddings": 0, "rejects": 0, "pairs": 0, "questions and evaluations": 0, "training": 0}
    folder = home.path / "embeddings"
    for table in sorted(folder.iterdir()) if folder.is_dir() else ():
        rows["embeddings"] += withdraw_notes(table, ids)
        if (table / schema.REJECTS_FILE).is_file():
            rows["rejects"] += storage.erase_rows(
                table / schema.REJECTS_FILE, storage.named("key", ids), columns=["key"]
            )
    if home.pairs.is_file():
        rows["pairs"] += _erase_ids(home.pairs, ids)
    for run in home.runs():
        rows["questions and evaluations"] += sum(_erase_ids(file, ids) for file in sorted(run.rglob("*.parquet")))
    if home.training.is_dir():
        rows["training"] += sum(_erase_ids(file, ids) for file in sorted(home.training.rglob("*.parquet")))
    return rows


def _erase_ids(file: Path, ids: set[str]) -> int:
    return sum(storage.erase_rows(file, storage.named(column, ids), columns=[column]) for column in TABLES_OF_IDS)


def _from_dataset(data: Dataset, ids: set[str], people: set[str]) -> dict[str, int]:
    rows = {"dataset notes": 0, "dataset engagement": 0}
    if ids:
        rows["dataset notes"] = storage.erase_rows(
            data.path / "notes", storage.named("note_id", ids), columns=["note_id"]
        )
    if data.engagement_files:
        folder = data.path / "engagement"
        if ids:
            rows["dataset engagement"] += storage.erase_rows(folder, storage.named("note_id", ids), columns=["note_id"])
        if people:
            rows["dataset engagement"] += storage.erase_rows(
                folder, storage.named("user_id", people), columns=["user_id"]
            )
    return rows


def _from_bundles(config: NightlyConfig, home: Home, ids: set[str]) -> list[str]:
    """Every bundle that holds such a note goes; where that is the live one, a new one without it takes its place first."""
    if live_name(home.index) is None:
        return []
    holding = [bundle for bundle in bundles(home.index) if _holds(bundle, ids)]
    live = find(home.index)
    if live in holding:
        model = live_model(home)
        assert model is not None
        index = Index.open(home.index, verify=False)
        new = index.ids.filter(pl.Series(index.live & index.new())).to_list()
        table = home.embeddings(model.version, config.embed.precision)
        kind = read_info(live).kind
        build_index(
            table,
            notes=config.dataset,
            new=new,
            out=home.index,
            config=config.index.model_copy(update={"kind": kind}),
        )
        fresh = home.neighbours / find(home.index).name
        if (home.neighbours / live.name).is_dir():
            shutil.copytree(home.neighbours / live.name, fresh, dirs_exist_ok=True)
            show_tables(home.neighbours, fresh)
    for bundle in holding:
        discard(home.index, bundle.name)
        shutil.rmtree(home.neighbours / bundle.name, ignore_errors=True)
    return [bundle.name for bundle in holding]


def _holds(bundle: Path, ids: set[str]) -> bool:
    table = storage.read_table(bundle / NOTES_FILE, columns=["note_id"])
    return bool(pc.any(pc.is_in(table["note_id"], value_set=pa.array(sorted(ids), pa.string()))).as_py())


def _pages(home: Home, ids: set[str]) -> int:
    """Pages and logs of nights are text that a person reads; one that names such a note goes."""
    gone = 0
    words = [word.encode() for word in ids]
    files: Sequence[Path] = [home.report, *(file for run in home.runs() for file in sorted(run.rglob("*")))]
    for file in files:
        if file.suffix in (".html", ".md", ".txt") and file.is_file():
            text = file.read_bytes()
            if any(word in text for word in words):
                file.unlink()
                gone += 1
    return gone


def _note(home: Home, ids: set[str], people: set[str]) -> None:
    """That something was forgotten, and when; not what: a hash tells whether an id was among it."""
    entry = {
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "notes": sorted(storage.value_hash(note_id) for note_id in ids),
        "users": sorted(storage.value_hash(user_id) for user_id in people),
    }
    with (home.path / LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
        file.flush()
        os.fsync(file.fileno())
