"""Other makers' files -> a dataset: generic CSV, JSON lines and Parquet by a column map, and a few named formats.

Everything is read in blocks; of the notes only ids and times stay in memory. A bad row goes to OUT/rejects.parquet with its
reason; above a share of them the import stops. OUT appears whole or not at all.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from noterec import schema, storage
from noterec.errors import InputError
from noterec.notes.dataset import Clock, write_meta
from noterec.notes.importing import named
from noterec.notes.importing.folder import dataset_folder
from noterec.notes.importing.formats import Block, SourceFile, find_files, require, source_files
from noterec.notes.importing.sinks import EngagementSink, NoteSink, Rejects
from noterec.progress import Bar, stage, track

FORMATS = ("csv", "jsonl", "parquet", "movielens", "notellm")
NOTE_FIELDS = tuple(schema.NOTES.names)
ENGAGEMENT_FIELDS = ("user_id", "note_id", "action", "timestamp", "position")
NOTE_STEMS = ("notes", "items", "articles")
ENGAGEMENT_STEMS = ("engagement", "interactions", "saves", "ratings")


@dataclasses.dataclass(frozen=True)
class ImportSummary:
    """What an import read and wrote.

    Attributes:
        out: the dataset's folder.
        clock: how far the log's times can be trusted: "time", "position" or "none".
        note_rows, engagement_rows: rows read.
        notes: distinct notes written; engagement: events written.
        notes_rejected, engagement_rejected: rows in rejects.parquet.
        superseded: rows that are older versions of a note.
        unknown_notes: events, kept, that name a note which was not imported.
        missing_images: image files that were not found; the notes are kept without them, and rejects.parquet lists them.
        pairs: related pairs written to pairs.parquet (notellm only).
        reasons: how often each reason of rejection was met, the commonest first: "notes: no note_id" -> 3.
    """

    out: str
    clock: Clock
    note_rows: int
    notes: int
    notes_rejected: int
    superseded: int
    engagement_rows: int
    engagement: int
    engagement_rejected: int
    unknown_notes: int
    missing_images: int
    pairs: int
    reasons: dict[str, int]


def column_maps(entries: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Read `FIELD=COLUMN` entries into a map for notes and one for engagement.

    A field of engagement is written `engagement.FIELD`; the prefix may be left out where only engagement has the field.

    Returns:
        (notes_map, engagement_map), field -> column.

    Raises:
        InputError: an entry is no `FIELD=COLUMN`, names an unknown field (with the nearest one), or a field twice.
    """
    maps: dict[str, dict[str, str]] = {"notes": {}, "engagement": {}}
    for entry in entries:
        field, sign, column = entry.partition("=")
        table, dot, name = field.strip().partition(".")
        if not dot:
            name = table
            table = "engagement" if name in ENGAGEMENT_FIELDS and name not in NOTE_FIELDS else "notes"
        if not sign or not column or table not in maps:
            raise InputError(f"--map {entry}: expected FIELD=COLUMN, notes.FIELD=COLUMN or engagement.FIELD=COLUMN")
        if name in maps[table]:
            raise InputError(f"--map {entry}: {table} field {name!r} is mapped twice")
        maps[table][name] = column
    _check_fields(maps["notes"], NOTE_FIELDS, "notes")
    _check_fields(maps["engagement"], ENGAGEMENT_FIELDS, "engagement")
    return maps["notes"], maps["engagement"]


def _check_fields(mapping: Mapping[str, str], fields: tuple[str, ...], table: str) -> None:
    for field in mapping:
        if field not in fields:
            near = difflib.get_close_matches(field, fields, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(f"{table} have no field {field!r}; {hint}the fields are {', '.join(fields)}")


def import_dataset(
    format: str,
    src: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    notes_file: str | os.PathLike[str] | None = None,
    engagement_file: str | os.PathLike[str] | None = None,
    notes_map: Mapping[str, str] | None = None,
    engagement_map: Mapping[str, str] | None = None,
    action: str = "click",
    hashtag_separator: str | None = None,
    images: str | os.PathLike[str] | None = None,
    max_reject_share: float = 0.05,
    overwrite: bool = False,
) -> ImportSummary:
    """Turn files of another maker into a dataset.

    Args:
        format: csv, jsonl or parquet, read by the column maps; or movielens or notellm (see `noterec.notes.importing.named`).
        src: the folder that holds the files, or the notes' own file. Found by name in it: notes.*, items.* or articles.*, and
            engagement.*, interactions.*, saves.* or ratings.*.
        out: the dataset's folder; new or empty.
        notes_file: the notes, in `src` or elsewhere: a file or a folder of files.
        engagement_file: the log, likewise. Without one the dataset has no engagement.
        notes_map: field of the notes schema -> column. Columns named like a field need no entry.
        engagement_map: likewise for user_id, note_id, action, timestamp, position. note_id follows notes_map where the log has
            that column. `position`, an event's number in a person's history, stands in for a clock.
        action: what an event means where the log has no action.
        hashtag_separator: splits a text of hashtags; None = commas and vertical bars, or else # signs; "" = never split.
        images: folder of the image files that the images column names; the notes' folder unless given.
        max_reject_share: share of rejected rows, in either table, above which nothing is written.
        overwrite: replace a dataset that `out` holds.

    Returns:
        What was read, written and rejected.

    Raises:
        InputError: files or columns are missing, too many rows are bad, or `out` can't be used.
    """
    if format not in FORMATS:
        near = difflib.get_close_matches(format, FORMATS, n=1)
        raise InputError(
            f"unknown format {format!r}; expected {', '.join(FORMATS)}" + (f" ({near[0]}?)" if near else "")
        )
    if action not in schema.ACTIONS:
        raise InputError(f"unknown action {action!r}; expected one of {', '.join(schema.ACTIONS)}")
    if not 0 <= max_reject_share <= 1:
        raise InputError(f"max_reject_share is {max_reject_share}; expected a share from 0 to 1")
    folder = storage.local(src)
    if format in named.SOURCES:
        if notes_map or engagement_map:
            raise InputError(f"format {format} knows its columns; a column map is for csv, jsonl and parquet")
        source = named.SOURCES[format](folder, notes_file, engagement_file, images)
    else:
        source = _mapped(format, folder, notes_file, engagement_file, notes_map or {}, engagement_map or {}, images)
    origin = {"source_format": format, "source": str(folder), "action": action, **source.origin}
    with (
        stage("import") as record,
        dataset_folder(out, overwrite=overwrite, sources=tuple(f.path for f in source.files)) as aside,
    ):
        summary = _run(source, aside, str(out), origin, action, hashtag_separator, max_reject_share)
        record.counts.update(
            rows_in=summary.note_rows + summary.engagement_rows,
            rows_out=summary.notes + summary.engagement,
            rejected=summary.notes_rejected + summary.engagement_rejected,
        )
    return summary


def _run(
    source: named.Source,
    aside: Path,
    out: str,
    origin: dict[str, Any],
    action: str,
    hashtag_separator: str | None,
    max_reject_share: float,
) -> ImportSummary:
    rejects = Rejects(aside)
    notes = NoteSink(aside / "notes", origin, rejects, hashtag_separator=hashtag_separator)
    with track("notes", None, "rows") as bar:
        for block in _counted(source.notes(), "notes", rejects, bar):
            fields = {f: c.to_pylist() if hasattr(c, "to_pylist") else c for f, c in block.columns.items()}
            for at, row in enumerate(block.rows.tolist()):
                raw = {field: column[at] for field, column in fields.items()}
                for path in source.resolve(raw):
                    rejects.add("images", block.source, row, None, f"image not found: {path}")
                notes.add(block.source, row, raw)
    rejects.check("notes", max_reject_share)
    notes.close()
    log = EngagementSink(aside / "engagement", origin, rejects, clock=source.clock, action=action, known=notes.times)
    with track("engagement", None, "rows") as bar:
        for block in _counted(source.engagement(), "engagement", rejects, bar):
            log.add(block)
    rejects.check("engagement", max_reject_share)
    log.close()
    pairs = source.write_pairs(aside, notes.times, rejects)
    rejects.check("pairs", max_reject_share)
    rejects.close()
    write_meta(aside, clock=source.clock, **origin)
    return ImportSummary(
        out=out,
        clock=source.clock,
        note_rows=rejects.rows_in["notes"],
        notes=len(notes.times),
        notes_rejected=rejects.rejected["notes"],
        superseded=notes.superseded,
        engagement_rows=rejects.rows_in["engagement"],
        engagement=log.rows,
        engagement_rejected=rejects.rejected["engagement"],
        unknown_notes=log.unknown,
        missing_images=rejects.rejected["images"],
        pairs=pairs,
        reasons={f"{table}: {reason}": count for (table, reason), count in rejects.reasons.most_common()},
    )


def _counted(blocks: Iterator[Block], table: str, rejects: Rejects, bar: Bar) -> Iterator[Block]:
    """Pass blocks on; book their unreadable rows and show how far it is."""
    for block in blocks:
        for row, key, reason in block.bad:
            rejects.rows_in[table] += 1
            rejects.add(table, block.source, row, key, reason)
        yield block
        bar.advance(len(block.rows) + len(block.bad), f"{rejects.rejected[table]} rejected")


def _mapped(
    format: Any,
    folder: Path,
    notes_file: str | os.PathLike[str] | None,
    engagement_file: str | os.PathLike[str] | None,
    notes_map: Mapping[str, str],
    engagement_map: Mapping[str, str],
    images: str | os.PathLike[str] | None,
) -> named.Source:
    """The files and columns of a generic format, checked before anything is read."""
    _check_fields(notes_map, NOTE_FIELDS, "notes")
    _check_fields(engagement_map, ENGAGEMENT_FIELDS, "engagement")
    notes = _files(folder, notes_file, NOTE_STEMS, format)
    if not notes and folder.is_file():
        notes = [SourceFile(folder, format)]
    if not notes:
        raise InputError(
            f"{folder}: no notes there; expected {' or '.join(NOTE_STEMS)} with the suffix of a {format} file, or name "
            "the file: --notes FILE"
        )
    log = _files(folder, engagement_file, ENGAGEMENT_STEMS, format)
    if engagement_map and not log:
        raise InputError(f"{folder}: engagement columns are mapped, but there is no engagement file: --engagement FILE")
    note_columns = _columns(notes, NOTE_FIELDS, notes_map, ("note_id",))
    if not {"title", "content", "images"} & set(note_columns):
        raise InputError(
            f"{notes[0].path}: none of title, content, images is there; the columns are "
            f"{', '.join(notes[0].columns())}. Map one: --map content=COLUMN"
        )
    log_columns: dict[str, str] = {}
    if log:
        known = log[0].columns()
        follow = {} if "note_id" in engagement_map or "note_id" in known else {"note_id": note_columns["note_id"]}
        if follow and follow["note_id"] not in known:
            follow = {}
        log_columns = _columns(log, ENGAGEMENT_FIELDS, {**follow, **engagement_map}, ("user_id", "note_id"))
    clock: Clock = "time" if "timestamp" in log_columns else "position" if "position" in log_columns else "none"
    return named.Source(
        note_files=notes,
        note_columns=note_columns,
        log_files=log,
        log_columns=log_columns,
        clock=clock,
        images=storage.local(images) if images is not None else notes[0].path.parent,
        origin={"notes_map": note_columns, "engagement_map": log_columns},
    )


def _files(folder: Path, given: str | os.PathLike[str] | None, stems: tuple[str, ...], format: Any) -> list[SourceFile]:
    if given is not None:
        inside = folder / storage.local(given)
        return source_files(inside if inside.exists() else given, format)
    if not folder.exists():
        raise InputError(f"{folder}: no such file or folder")
    return find_files(folder, stems, format) if folder.is_dir() else []


def _columns(
    files: list[SourceFile], fields: tuple[str, ...], mapping: Mapping[str, str], required: tuple[str, ...]
) -> dict[str, str]:
    """Field -> column: what the map says, and columns that are named like a field."""
    known = files[0].columns()
    for field, column in mapping.items():
        require(column, known, f"{files[0].path} ({field})")
    found = {field: mapping.get(field, field) for field in fields if field in mapping or field in known}
    for field in required:
        if field not in found:
            raise InputError(
                f"{files[0].path}: which column is the {field}? The columns are {', '.join(known)}: --map {field}=COLUMN"
            )
    return found
