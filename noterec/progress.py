"""Progress bars and stage records for long work.

Library code calls `track(...)` and `stage(...)` and stays silent: bars appear only inside `shown()`, which the command
line opens and `NoteEncoder.encode(show_progress=True)` opens for a notebook. Every stage also logs one line with rows in, out and
rejected, seconds and peak memory.
"""

from __future__ import annotations

import contextlib
import logging
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

logger = logging.getLogger(__name__)

SHORT_SECONDS = 1.0  # work that took less leaves no line behind

_live: Any = None  # the rich.progress.Progress of the innermost `shown()`, or None


class Bar:
    """One task of the progress display; does nothing where no display is shown."""

    def __init__(self, display: Any = None, task: Any = None) -> None:
        self._display, self._task = display, task

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Count `count` more units done; `note` replaces the short text behind the rate."""
        if self._display is not None:
            self._display.update(self._task, advance=count, **({} if note is None else {"note": note}))

    def set_total(self, total: int) -> None:
        """State the total once it is known."""
        if self._display is not None:
            self._display.update(self._task, total=total)


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """Show progress bars on standard error for all work inside, with rates and the time left."""
    global _live
    if _live is not None:
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        """Units per second over the whole task."""

        def render(self, task: Any) -> Text:
            seconds = task.finished_time if task.finished else task.elapsed
            if not seconds or not task.completed:
                return Text("")
            return Text(
                f"{_short(task.completed / seconds)} {task.fields['unit']}/s", style="progress.data.speed", no_wrap=True
            )

    class Done(ProgressColumn):
        """Units done, of how many."""

        def render(self, task: Any) -> Text:
            total = "?" if task.total is None else f"{task.total:,.0f}"
            return Text(f"{task.completed:,.0f}/{total}", style="progress.download")

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        Done(),
        Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not (console.is_terminal or console.is_jupyter),
    ) as display:
        _live = display
        try:
            yield
        finally:
            _live = None


@contextlib.contextmanager
def track(description: str, total: int | None, unit: str) -> Iterator[Bar]:
    """A bar for one piece of work: `with track("pairs", len(users), "users") as bar: ... bar.advance(n)`."""
    if _live is None:
        yield Bar()
        return
    display = _live
    task = display.add_task(description, total=total, unit=unit, note="")
    started = time.perf_counter()
    try:
        yield Bar(display, task)
    finally:
        # A bar that is done gives its place to one plain line, so that what is printed next stands below it.
        seconds = time.perf_counter() - started
        done = next(entry.completed for entry in display.tasks if entry.id == task)
        display.remove_task(task)
        display.refresh()
        if seconds >= SHORT_SECONDS:
            rate = done / seconds
            display.console.print(
                f"    {description}: {done:,.0f} {unit} in {seconds:.1f} s, {_short(rate)} {unit}/s",
                style="dim",
                highlight=False,
            )


def say(text: str) -> None:
    """One line above the bars, for what a person wants to know before a long piece of work; silent where none are shown."""
    if _live is not None:
        _live.console.print(f"    {text}", style="dim", highlight=False, soft_wrap=True)


def _short(number: float) -> str:
    """A rate in three or four figures: 0.52, 87.1, 1,234, 19,560,000."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


class Stage:
    """Counts and times of one stage; `counts` is free-form, the usual keys are rows_in, rows_out and rejected."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts: dict[str, int | float | str] = {}
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the stage began."""
        return time.perf_counter() - self._started


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024**2 if sys.platform == "darwin" else peak / 1024


@contextlib.contextmanager
def stage(name: str) -> Iterator[Stage]:
    """Log one line for a stage when it ends: its counts, its seconds and the peak memory."""
    record = Stage(name)
    yield record
    counts = " ".join(f"{key}={value}" for key, value in record.counts.items())
    logger.info("%s: %s seconds=%.1f peak_memory_mb=%.0f", name, counts, record.seconds, peak_memory_mb())
