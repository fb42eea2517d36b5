"""An evaluation as a page shows it: a table with intervals and a plot per direction, and what was measured besides."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import threading
from typing import Any

from noterec import storage
from noterec.errors import ArtefactError, NoterecError
from noterec.evaluation.modalities import MISSING
from noterec.evaluation.protocol import MAIN, PAPER, WARM
from noterec.evaluation.report import METRICS_FILE, Report, load_report
from noterec.evaluation.tables import generated_table, meanings, number, view_slices_table
from noterec.serving.refusals import Refusal

logger = logging.getLogger(__name__)

MEANINGS = {
    MAIN: "A note that training never saw asks; every other note is a candidate.",
    WARM: "A note with a history asks; only new notes are candidates.",
    PAPER: "One relevant note for each pair, both unseen; the pool is the new notes.",
}
_PLOTTED = "recall@"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A metric of an arm: its mean, its 95 % interval ("" where it has none), and whether no arm has a better one."""

    mean: str
    interval: str
    best: bool


@dataclasses.dataclass(frozen=True)
class Dot:
    """A mean with its interval on a plot, in percent of its width; which cut-off it is of, and what it says in words."""

    x: float
    low: float
    high: float
    at: int
    says: str


@dataclasses.dataclass(frozen=True)
class Direction:
    """One direction of an evaluation.

    Attributes:
        name: of the protocol.
        meaning: in a sentence.
        counts: queries, relevant notes and candidates.
        columns: metrics.
        rows: by arm its cells, in the order of `columns`, None where it lacks one.
        cuts: what is plotted: recall@K by K.
        dots: by arm.
        ticks: of the plot's axis: place in percent, and label.
        verdicts: by arm, against the reference on the first metric: "better", "worse" or "can't tell".
        reference: what arms are compared with; "" where nothing is compared.
    """

    name: str
    meaning: str
    counts: dict[str, int]
    columns: list[str]
    rows: dict[str, list[Cell | None]]
    cuts: list[str]
    dots: dict[str, list[Dot]]
    ticks: list[tuple[float, str]]
    verdicts: dict[str, str]
    reference: str


@dataclasses.dataclass(frozen=True)
class Figures:
    """A report.

    Attributes:
        created: when it was made, ISO 8601.
        dataset: the name of its folder.
        notes: how many it had.
        user_arms: those that aren't baselines.
        directions: the main one first.
        tables: what was measured besides: a title and rows, each a mapping from column to text.
        words: what the words of the directions' tables mean.
    """

    created: str
    dataset: str
    notes: int
    user_arms: list[str]
    directions: list[Direction]
    tables: list[tuple[str, list[dict[str, str]]]]
    words: dict[str, str]


class Figured:
    """The figures of the report in a folder, laid out once for every time that it is written."""

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        """Args: the folder; None = there is no report."""
        self._path = path
        self._lock = threading.Lock()
        self._last: tuple[int, Figures] | None = None

    def now(self) -> Figures | None:
        """Of the report as it stands on disk now; None where there is none to be shown.

        Raises:
            Refusal: it has gone, or is damaged; the log says more.
        """
        if self._path is None:
            return None
        file = storage.local(self._path) / METRICS_FILE
        with self._lock:
            try:
                stamp = file.stat().st_mtime_ns
                if self._last is None or self._last[0] != stamp:
                    self._last = stamp, load_figures(self._path)
                return self._last[1]
            except (NoterecError, OSError) as error:
                logger.error("the evaluation can't be shown: %s", error)
                raise Refusal(503, "the evaluation can't be read now; the service's log says why") from error


def load_figures(path: str | os.PathLike[str]) -> Figures:
    """Lay out the report in a folder.

    Raises:
        InputError: no report there.
        ArtefactError: it is damaged or of another format.
    """
    report = load_report(path)
    try:
        return figures(report)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ArtefactError(f"{report.path / METRICS_FILE}: incomplete; it was damaged: evaluate again") from error


def figures(report: Report) -> Figures:
    """Lay out a report."""
    protocol = report.protocol
    tables = [(f"Written {task}", generated_table(report, task)) for task in report.generation]
    for name, record in report.modalities.items():
        rows = view_slices_table(record)
        tables.append((f"What {name} loses without text or pictures ({', '.join(MISSING)})", rows))
    directions = [_direction(report, name) for name in protocol["directions"]]
    return Figures(
        created=str(protocol.get("created", "")),
        dataset=str(protocol.get("dataset", "")).rstrip("/").rsplit("/", 1)[-1],
        notes=int(protocol.get("notes", 0)),
        user_arms=list(protocol["user_arms"]),
        directions=directions,
        tables=tables,
        words=_words(directions),
    )


def _words(directions: list[Direction]) -> dict[str, str]:
    """What the words of the directions' tables mean."""
    found = {"arm": "a way to find neighbours that was measured: a model, or a baseline that it has to beat"}
    for reference in dict.fromkeys(direction.reference for direction in directions if direction.reference):
        found[f"against {reference}"] = (
            "whether an arm's first metric is better or worse on the same queries, beyond what their choice explains"
        )
    return found | meanings(column for direction in directions for column in direction.columns)


def _direction(report: Report, name: str) -> Direction:
    arms = {arm: report.metrics(arm, name) for arm in report.arms if _measured(report, arm, name)}
    # Hits say little beside recall and leave no room; they are in metrics.json.
    columns = [
        name for name in dict.fromkeys(name for arm in arms.values() for name in arm) if not name.startswith("hit@")
    ]
    best = {
        name: _best(name, [metrics[name]["mean"] for metrics in arms.values() if name in metrics]) for name in columns
    }
    rows = {
        arm: [_cell(metrics[metric], best[metric]) if metric in metrics else None for metric in columns]
        for arm, metrics in arms.items()
    }
    cuts = [metric for metric in columns if metric.startswith(_PLOTTED)]
    top = _axis_end([metrics[cut] for metrics in arms.values() for cut in cuts if cut in metrics])
    dots = {
        arm: [_dot(metrics[cut], cut, at, top) for at, cut in enumerate(cuts) if cut in metrics]
        for arm, metrics in arms.items()
    }
    counts = report.protocol["directions"][name]
    verdicts, reference = _verdicts(report, name, columns[0] if columns else "")
    return Direction(
        name=name,
        meaning=MEANINGS.get(name, ""),
        counts={key: int(counts[key]) for key in ("queries", "relevant", "candidates") if key in counts},
        columns=columns,
        rows=rows,
        cuts=cuts,
        dots=dots,
        ticks=_ticks(top),
        verdicts=verdicts,
        reference=reference,
    )


def _measured(report: Report, arm: str, direction: str) -> bool:
    return direction == MAIN or direction in report.arms[arm].get("directions", {})


def _best(metric: str, means: list[float]) -> float:
    """The best mean; of coverage, which a random list has most of, none is."""
    return math.inf if metric.startswith("coverage") else max(means)


def _cell(value: dict[str, Any], best: float) -> Cell:
    low, high = value.get("low"), value.get("high")
    interval = "" if low is None or high is None else f"{number(low)} – {number(high)}"
    return Cell(number(value["mean"]), interval, value["mean"] >= best)


def _dot(value: dict[str, Any], cut: str, at: int, top: float) -> Dot:
    mean = value["mean"]
    low, high = (mean if value.get(end) is None else value[end] for end in ("low", "high"))
    says = f"{cut} {number(mean)}, 95 % interval {number(low)} to {number(high)}"
    x, left, right = (round(100 * part / top, 2) for part in (mean, low, high))
    return Dot(x, left, right, at, says)


def _axis_end(values: list[dict[str, Any]]) -> float:
    """Where the axis ends: at the first tick that no value passes."""
    highest = max((value.get("high") or value["mean"] for value in values), default=1.0)
    if highest <= 0:
        return 1.0
    step = _step(highest)
    return float(math.ceil(highest / step - 1e-9) * step)


def _step(highest: float) -> float:
    """Between two ticks: 2, 5 or 10 times a power of ten, so that there are at most six of them."""
    power = 10.0 ** math.floor(math.log10(highest))
    return power * next((part for part in (0.2, 0.5, 1.0) if highest <= 5 * part * power * 1.000001), 2.0)


def _ticks(top: float) -> list[tuple[float, str]]:
    step = _step(top)
    count = round(top / step)
    return [(round(100 * number / count, 2), f"{step * number:.3g}") for number in range(count + 1)]


def _verdicts(report: Report, direction: str, metric: str) -> tuple[dict[str, str], str]:
    """How arms fare against BM25, or else against the arm that most are compared with."""
    entries = [entry for entry in report.paired if entry["direction"] == direction and entry["metric"] == metric]
    against = [entry["against"] for entry in entries]
    if not against:
        return {}, ""
    reference = "bm25" if "bm25" in against else max(dict.fromkeys(against), key=against.count)
    return {entry["arm"]: str(entry["verdict"]) for entry in entries if entry["against"] == reference}, reference
