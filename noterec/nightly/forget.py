"""`noterec forget CONFIG`: a note's or a person's deletion, through every table of the job and the published index.

In the order of urgency: the note is out of the published index, and of every later one, before anything else is done; then the
published neighbour tables; then the bytes: embeddings, pairs, questions and evaluations of earlier nights, their pages and logs,
bundles, and last the dataset itself, which says whose notes a person's are. A step that was done is done again without harm, so the
same command goes on where a killed one was.

The live bundle is replaced by a copy without these notes: nothing else of what is published changes, also where a gate stopped the
last night, or somebody rolled back. Older bundles that hold one are deleted, so there may be none to go back to.

What is not reached: the weights of models that were trained before (the next training doesn't see what is gone); caches of readout
states and picture features, which know contents and no ids (delete the cache's folder to be rid of them at once); pictures that lie
as files of their own, and whatever else stands in the dataset's folder beside notes/, engagement/ and rejects.parquet; what a
server has open, until it looks for a newer bundle. The index keeps the ids, and nothing else, to keep the notes out.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa

from noterec import progress, storage
from noterec.config import NightlyConfig, load
from noterec.errors import InputError
from noterec.index.bundle import bundles, find, live_name, read_info
from noterec.index.changing import MAX_ID_BYTES, keep_out, remove_notes
from noterec.index.without import discard_with, publish_without
from noterec.nightly.bundles import show_tables
from noterec.nightly.erase import from_dataset, from_neighbours, from_tables, notes_of
from noterec.nightly.history import records
from noterec.nightly.home import MARK, Home
from noterec.nightly.mentions import Mentions
from noterec.notes.dataset import Dataset

LOG = "forgotten.jsonl"
UNTOLD = "it named what was forgotten since"


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
        bundle: the live bundle; None where nothing is published, or nothing was left to publish.
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
        InputError: nothing to forget was given, an id is no id, or a table can't be rewritten.
        LockedError: a night is running. The notes are out of the published index then already; run the command again for the rest.
    """
    settings = config if isinstance(config, NightlyConfig) else load(NightlyConfig, config)
    people, asked = _checked(users), _checked(notes)
    if not people and not asked:
        raise InputError("nothing to forget; give notes (--note ID) or people (--user ID)")
    home = Home.open(settings.home, create=False)
    there = (home.path / MARK).is_file()
    if keep_dataset and not there:
        raise InputError(
            f"{home.path}: no night has run there yet, and the dataset is to be kept: there is nothing to forget it from; delete "
            "it in the dataset, or check `home`"
        )
    data = Dataset(settings.dataset)
    ids = asked | (notes_of(data, home, people) if people else set())
    with progress.stage("forget") as record:
        found = _withheld(home, ids) if there else 0
        rows: dict[str, int] = {}
        dropped: list[str] = []
        pages = 0
        with home.claimed() if there else contextlib.nullcontext():
            if there:
                rows |= from_neighbours(home, ids)
                rows |= from_tables(home, ids)
                pages = _pages(home, Mentions(ids | people))
                dropped = _from_bundles(home, ids) if ids else []
            if not keep_dataset:
                rows |= from_dataset(data, ids, people)
            if there:
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
    """The notes and the people that a Parquet table names.

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


def _checked(ids: Iterable[str]) -> set[str]:
    found = set(ids)
    for text in found:
        if not text:
            raise InputError("an id to forget is empty; expected a text")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{text!r}: no id, as it is no UTF-8; give it as it stands in the dataset") from error
    return found


def _withheld(home: Home, ids: set[str]) -> int:
    """Take notes out of the published index, or out of the first one to come; how many it had."""
    short = sorted(text for text in ids if len(text.encode()) <= MAX_ID_BYTES)  # a longer one goes with its bundle
    if not short:
        return 0
    if live_name(home.index) is not None:
        return remove_notes(home.index, short)
    keep_out(home.index, short)
    return 0


def _from_bundles(home: Home, ids: set[str]) -> list[str]:
    """A copy of the live bundle without these notes goes live, then every bundle that holds one goes.

    A night that isn't finished sees that another bundle is live, or that its own is gone, and builds again.
    """
    before = live_name(home.index)
    publish_without(home.index, ids)
    live = live_name(home.index)
    if live is not None:
        copied = read_info(find(home.index)).origin.get("copy_of")
        if copied is not None:
            _copy_tables(home, str(copied), live)
    dropped = discard_with(home.index, ids)
    names = {bundle.name for bundle in bundles(home.index)}
    for folder in home.neighbours.glob("bundle-*") if home.neighbours.is_dir() else ():
        if folder.name not in names:
            shutil.rmtree(folder)
    if live_name(home.index) is None and before is not None:
        shutil.rmtree(home.neighbours, ignore_errors=True)
    return dropped


def _copy_tables(home: Home, before: str, live: str) -> None:
    """The neighbour tables of a bundle, as those of its copy."""
    source, target = home.neighbours / before, home.neighbours / live
    if not source.is_dir() or target.is_dir():
        return
    aside = target.with_name(f".{live}")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(source, aside)
    aside.rename(target)
    show_tables(home.neighbours, target)


def _pages(home: Home, mentions: Mentions) -> int:
    """Pages and logs are text that a person reads: one that names what goes is removed. In run.json the sentence is."""
    gone = 0
    files = [home.report, *(home.path / "embeddings").glob("*/runs/*.json")]
    files += [file for run in home.runs() for file in run.rglob("*") if file.suffix in (".html", ".md", ".txt")]
    for file in files:
        if file.is_file() and mentions.among(file.read_text(encoding="utf-8", errors="replace")):
            file.unlink()
            gone += 1
    for record in records(home):
        told = [*record.facts["stages"].values(), *record.facts["gates"].values()]
        named = [entry for entry in told if mentions.among(str(entry.get("says") or ""))]
        error = mentions.among(str(record.facts.get("error") or ""))
        for entry in named:
            entry["says"] = UNTOLD
        if error:
            record.facts["error"] = UNTOLD
        if named or error:
            record.save()
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
