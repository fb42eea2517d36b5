"""What commands print: a summary as aligned lines, a table, or either as JSON."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

TEXT_WIDTH = 72


def write(text: str = "") -> None:
    """One line to standard output."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """One line beside the result, to standard error."""
    sys.stderr.write(text + "\n")


def plain(value: Any) -> Any:
    """A value as JSON knows it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, Path | dt.datetime | dt.date):
        return str(value)
    if hasattr(value, "item"):
        return value.item()
    return value


def summary(value: Any, *, as_json: bool) -> None:
    """A summary dataclass, one line a field; what is None or empty is left out."""
    record = plain(value)
    if as_json:
        write(json.dumps(record, ensure_ascii=False, indent=2))
        return
    for key, part in record.items():
        if part is None or part in ({}, [], ""):
            continue
        if isinstance(part, dict):
            write(f"{key.replace('_', ' ')}:")
            for name, inner in part.items():
                write(f"    {name:<36} {_shown(inner)}")
        else:
            write(f"{key.replace('_', ' '):<24} {_shown(part)}")


def dataset(value: Any, *, as_json: bool) -> None:
    """What `validate` found: the dataset, then its pictures where they were looked at."""
    if as_json or value.images is None:
        summary(value, as_json=as_json)
        return
    summary(dataclasses.replace(value, images=None), as_json=False)
    write()
    summary(value.images, as_json=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, as_json: bool, title: str | None = None) -> None:
    """Rows under a header, numbers to the right."""
    rows = [list(row) for row in rows]
    if as_json:
        write(json.dumps([dict(zip(columns, plain(row), strict=True)) for row in rows], ensure_ascii=False, indent=2))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(soft_wrap=False)
    if not console.is_terminal:
        console = Console(width=200)
    grid = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for place, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[place], int | float) for row in rows)
        width = min(TEXT_WIDTH, max((len(_shown(row[place])) for row in rows), default=0))
        # A long title may shrink on a narrow terminal, a number may not.
        grid.add_column(
            column, justify="right" if numeric else "left", no_wrap=True, min_width=min(width, 24), max_width=TEXT_WIDTH
        )
    for row in rows:
        # Text: a note's own brackets are no markup.
        grid.add_row(*(Text("" if value is None else _shown(value)) for value in row))
    console.print(grid)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{key.replace('_', ' ')} {_shown(part)}" for key, part in value.items())
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_shown(part) for part in value)
    return str(value)


def report(value: Any, *, as_json: bool) -> None:
    """An evaluation: a table for each direction, what images give, a table for each generated task, and where the report is."""
    from noterec.evaluation.report import METRICS_FILE, PAGE_FILE, REPORT_FILE
    from noterec.evaluation.tables import generated_table, view_slices_table, views_table
    from noterec.evaluation.tables import table as rows_of

    if as_json:
        write((value.path / METRICS_FILE).read_text(encoding="utf-8").rstrip())
        return
    for direction in value.protocol["directions"]:
        _cells(rows_of(value, direction), direction)
    for name, record in value.modalities.items():
        # All cut-offs are in the report; with an interval each they are too wide for a terminal.
        _cells(views_table(record, list(record["views"]["both"])[:1]), f"what the images give: {name}")
        _cells(view_slices_table(record), None)
        for sentence in record["says"]:
            write(sentence)
        write()
    for task in value.generation:
        _cells(generated_table(value, task), f"generated: {task}")
    write(f"{value.path / REPORT_FILE}: slices, paired differences, protocol")
    if (value.path / PAGE_FILE).is_file():
        write(f"{value.path / PAGE_FILE}: plots, and queries to be read")


def _cells(rows: Sequence[dict[str, str]], title: str | None) -> None:
    """Rows of text with an empty line after them."""
    table(list(rows[0]), [list(row.values()) for row in rows], as_json=False, title=title)
    write()


def comparison(value: Any, *, as_json: bool) -> None:
    """Two runs: the verdict, then a line per metric."""
    if as_json:
        write(json.dumps(plain(value), ensure_ascii=False, indent=2))
        return
    write(f"{value.run_b} ({value.arm_b}) against {value.run_a} ({value.arm_a}): {value.verdict}")
    write(f"    {value.says}")
    write()
    columns = ["direction", "metric", "a", "b", "difference", "low", "high", "n", "verdict"]
    table(columns, [[getattr(row, column) for column in columns] for row in value.rows], as_json=False)


def night(value: Any, *, as_json: bool) -> None:
    """A night: its stages, its gates, and where its page is."""
    if as_json:
        write(json.dumps(plain(value), ensure_ascii=False, indent=2))
        return
    if value.outcome == "nothing to do":
        write(f"night {value.run}: nothing to do; it was done, and no file or setting is newer. {value.bundle} is live")
        return
    # Whole sentences, whatever the width: this is read in a log.
    for stage in value.stages:
        write(f"{stage.stage:<11} {stage.status:<8} {stage.seconds:>8.1f} s  {stage.says}")
    write()
    for gate in value.gates:
        write(f"{gate.name:<19} {gate.verdict:<13} {gate.says}; expected {gate.bound}")
    write()
    write(f"night {value.run}: {value.bundle} is live, after {value.seconds:,.1f} s; {value.report}")
