"""Files of other makers, read block by block in bounded memory: CSV, JSON lines and Parquet.

A block carries the columns that were asked for, the number of each row in its file, and the rows that couldn't even be read
(with the reason). Nothing is interpreted here: CSV cells come as bytes, JSON values as Python values, Parquet as Arrow.
"""

from __future__ import annotations

import dataclasses
import difflib
import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv

from noterec import storage
from noterec.errors import InputError

FileFormat = Literal["csv", "jsonl", "parquet"]
SUFFIXES: dict[str, tuple[str, ...]] = {
    "csv": (".csv", ".tsv", ".csv.gz", ".tsv.gz"),
    "jsonl": (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz"),
    "parquet": (".parquet", ".pq"),
}
CSV_BLOCK_BYTES = 16 * 1024**2  # also the longest CSV record that can be read
JSON_BLOCK_BYTES = 8 * 1024**2
JSON_PEEK_ROWS = 10_000  # a JSON file has no header: its columns are the keys of its first rows
PARQUET_BLOCK_ROWS = 64 * 1024
PARQUET_IMAGE_ROWS = 256  # where a column may hold pictures, rows are large


@dataclasses.dataclass(frozen=True)
class Block:
    """Some rows of one file.

    Attributes:
        source: the file's name.
        rows: (n,) int64, each row's number in the file, the first being 1 (a header is not counted; a JSON row's number is its
            line).
        columns: by name: an Arrow array or a list, n values long.
        bad: rows that are not among the n: number, id or None, reason.
    """

    source: str
    rows: np.ndarray
    columns: dict[str, Any]
    bad: list[tuple[int, str | None, str]]


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """One file and how to read it; `names` states the columns of a CSV file without a header."""

    path: Path
    format: FileFormat
    names: tuple[str, ...] | None = None

    def columns(self) -> list[str]:
        """The columns that the file has.

        Raises:
            InputError: the file is missing, empty or damaged.
        """
        if self.names is not None:
            return list(self.names)
        if self.format == "csv":
            return [str(name) for name in _open_csv(self, None, []).schema.names]
        if self.format == "parquet":
            with storage.open_parquet(self.path) as parquet:
                return [str(name) for name in parquet.schema_arrow.names]
        keys: dict[str, None] = {}
        rows = 0
        for _, value, _ in _json_lines(self.path):
            rows += 1
            keys.update(dict.fromkeys(value or ()))
            if rows == JSON_PEEK_ROWS:
                break
        if not rows:
            raise InputError(f"{self.path}: is empty; expected one JSON object per line")
        return list(keys)

    def blocks(self, columns: list[str]) -> Iterator[Block]:
        """The rows, with the given columns.

        Raises:
            InputError: a column is unknown (with the nearest name), or the file is damaged as a whole.
        """
        known = self.columns()
        for column in columns:
            if known.count(column) > 1:
                raise InputError(f"{self.path}: has {known.count(column)} columns named {column!r}; rename one of them")
            require(column, known, str(self.path))
        readers = {"csv": _csv_blocks, "jsonl": _json_blocks, "parquet": _parquet_blocks}
        return readers[self.format](self, columns)


def require(column: str, known: list[str], where: str) -> None:
    """Check that a column is there.

    Raises:
        InputError: it isn't; the message names the nearest one.
    """
    if column not in known:
        near = difflib.get_close_matches(column, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"{where}: no column {column!r}; {hint}the columns are {', '.join(known) or 'none'}")


def source_files(path: str | os.PathLike[str], format: FileFormat) -> list[SourceFile]:
    """The files behind a path: the file itself, or all of a folder with the format's suffixes, by name.

    Raises:
        InputError: nothing there.
    """
    place = storage.local(path)
    if place.is_dir():
        files = sorted(f for f in place.iterdir() if f.name.endswith(SUFFIXES[format]) and not f.name.startswith("."))
        if not files:
            raise InputError(
                f"{place}: holds no {format} file; expected {', '.join('*' + s for s in SUFFIXES[format])}"
            )
    elif place.exists():
        files = [place]
    else:
        raise InputError(f"{place}: no such file or folder")
    return [SourceFile(file, format) for file in files]


def find_files(folder: Path, stems: tuple[str, ...], format: FileFormat) -> list[SourceFile]:
    """The files of a folder whose name without suffix is one of `stems` (or the folder of that name); empty if none."""
    for stem in stems:
        for suffix in SUFFIXES[format]:
            if (folder / f"{stem}{suffix}").is_file():
                return [SourceFile(folder / f"{stem}{suffix}", format)]
        if (folder / stem).is_dir():
            return source_files(folder / stem, format)
    return []


def _open_csv(file: SourceFile, columns: list[str] | None, bad: list[tuple[int, str | None, str]]) -> Any:
    first = 0 if file.names is not None else 1  # Arrow counts the header as a row

    def skip(row: Any) -> str:
        bad.append((row.number - first, None, f"{row.actual_columns} cells, expected {row.expected_columns}"))
        return "skip"

    delimiter = "\t" if ".tsv" in file.path.suffixes else ","
    try:
        return pyarrow.csv.open_csv(
            file.path,
            # One thread: only then Arrow knows the numbers of bad rows.
            read_options=pyarrow.csv.ReadOptions(
                use_threads=False, block_size=CSV_BLOCK_BYTES, column_names=list(file.names) if file.names else None
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip
            ),
            # Bytes, not text: one cell that is no UTF-8 must cost its row, not the file.
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=columns,
                column_types={name: pa.binary() for name in columns or ()},
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
    except FileNotFoundError as error:
        raise InputError(f"{file.path}: no such file") from error
    except (pa.ArrowInvalid, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{file.path}: not a readable CSV file: {error}") from error


def _csv_blocks(file: SourceFile, columns: list[str]) -> Iterator[Block]:
    bad: list[tuple[int, str | None, str]] = []
    reader = _open_csv(file, list(dict.fromkeys(columns)), bad)
    last = 0  # number of the last row handed out or rejected
    pending: list[tuple[int, str | None, str]] = []  # Arrow reads ahead: these belong to later blocks
    while True:
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            break
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(
                f"{file.path}: unreadable after row {last}: {error}; a quote may be unclosed, or a record be longer than "
                f"{CSV_BLOCK_BYTES // 1024**2} MiB"
            ) from error
        pending += bad
        bad.clear()
        rows, mine = _number(last, batch.num_rows, pending)
        pending = pending[len(mine) :]
        last = int(rows[-1]) if len(rows) else last
        yield Block(file.path.name, rows, {name: batch.column(name) for name in columns}, mine)
    if pending or bad:
        yield Block(file.path.name, np.empty(0, np.int64), {name: [] for name in columns}, pending + bad)


def _number(
    last: int, count: int, bad: list[tuple[int, str | None, str]]
) -> tuple[np.ndarray, list[tuple[int, str | None, str]]]:
    """Number `count` good rows that follow row `last`, leaving out the bad rows' numbers."""
    numbers = np.array([number for number, _, _ in bad], np.int64)
    before = numbers - np.arange(len(bad)) - (last + 1)  # good rows of this block that stand before each bad one
    good = np.arange(count, dtype=np.int64)
    rows = last + 1 + good + np.searchsorted(before, good, side="right")
    return rows, bad[: int(np.searchsorted(before, count, side="left"))]


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | None, str]]:
    """Line number, object or None, reason."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
                except (ValueError, RecursionError) as error:
                    yield number, None, f"not a line of JSON: {str(error)[:80]}"
                    continue
                if isinstance(value, dict):
                    yield number, value, ""
                else:
                    yield number, None, f"a JSON {type(value).__name__}, expected an object"
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: not readable: {error}") from error


def _json_blocks(file: SourceFile, columns: list[str]) -> Iterator[Block]:
    rows: list[int] = []
    values: dict[str, list[Any]] = {name: [] for name in columns}
    bad: list[tuple[int, str | None, str]] = []
    size = 0
    for number, value, reason in _json_lines(file.path):
        if value is None:
            bad.append((number, None, reason))
        else:
            rows.append(number)
            for name in columns:
                item = value.get(name)
                values[name].append(item)
                size += 64 + (len(item) if isinstance(item, (str, list)) else 0)
        if size > JSON_BLOCK_BYTES or len(bad) > JSON_PEEK_ROWS:
            yield Block(file.path.name, np.array(rows, np.int64), values, bad)
            rows, values, bad, size = [], {name: [] for name in columns}, [], 0
    yield Block(file.path.name, np.array(rows, np.int64), values, bad)


def _parquet_blocks(file: SourceFile, columns: list[str]) -> Iterator[Block]:
    last = 0
    with storage.open_parquet(file.path) as parquet:
        large = any("binary" in str(parquet.schema_arrow.field(name).type) for name in columns)
        size = PARQUET_IMAGE_ROWS if large else PARQUET_BLOCK_ROWS
        try:
            for batch in parquet.iter_batches(size, columns=list(dict.fromkeys(columns))):
                rows = np.arange(last + 1, last + 1 + batch.num_rows, dtype=np.int64)
                last += batch.num_rows
                yield Block(file.path.name, rows, {name: batch.column(name) for name in columns}, [])
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{file.path}: damaged after row {last}: {error}; write it again") from error
