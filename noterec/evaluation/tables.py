"""A report's figures as rows of text, for the terminal and for report.md: one mapping per row from column name to cell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from noterec.embedding.modalities import VIEWS, View
from noterec.errors import InputError
from noterec.evaluation.modalities import MISSING, percent
from noterec.evaluation.protocol import MAIN, PAPER, WARM
from noterec.evaluation.report import Report

SHOWN: dict[View, str] = {"both": "both", "text": "text only", "image": "image only", "shuffled": "images shuffled"}

SENTENCES = {
    MAIN: "a note that training never saw asks; every other note is a candidate",
    WARM: "a note with a history asks; the candidates are the new test notes only",
    PAPER: "one relevant note per directional pair, both unseen; the pool is all new test notes but the query",
}
# Of the metrics, by the part of their names before the number of places that count.
WORDS = {
    "recall": "of the relevant notes, the share that stands in the first {at} places",
    "mrr": "mean reciprocal rank: 1 where a relevant note comes first, 1/2 where second, and so on; 0 beyond place {at}",
    "ndcg": "how much of the best possible order is reached in the first {at} places; an early relevant note counts more",
    "coverage": "the share of all candidates that stand in the first {at} places for some query; a random list has most of it",
}


def meanings(metrics: Iterable[str]) -> dict[str, str]:
    """What some metrics mean, such as "recall@10"; those that no sentence explains are left out."""
    found = {}
    for metric in dict.fromkeys(metrics):
        name, _, at = metric.partition("@")
        if name in WORDS:
            found[metric] = WORDS[name].format(at=at)
    return found


def table(report: Report, direction: str = MAIN) -> list[dict[str, str]]:
    """The main figures of every arm, to be printed: one mapping per arm from column name to text, columns in order.

    The first metric has its 95 % interval, `recall@10 [low, high]`.

    Raises:
        InputError: the report has no such direction.
    """
    if direction not in report.protocol["directions"]:
        raise InputError(
            f"no direction {direction!r} in {report.path}; it has {', '.join(report.protocol['directions'])}"
        )
    rows = []
    for arm in report.arms:
        metrics = report.metrics(arm, direction)
        names = [name for name in metrics if not name.startswith("hit@")]
        row = {"arm": arm}
        for name in names:
            row[name] = interval(metrics[name]) if name == names[0] else number(metrics[name]["mean"])
        rows.append(row)
    return rows


def generated_table(report: Report, task: str) -> list[dict[str, str]]:
    """The main figures of every generated table of a task, one mapping each; the first metric has its interval."""
    record = report.generation[task]
    rows = []
    for name, entry in record["tables"].items():
        metrics, first = entry["metrics"], record["first"]
        # Of the cut-offs only F1 is shown; precision and recall at each are in metrics.json.
        shown = [key for key in metrics if key != first and ("@" not in key or key.startswith("f1@"))]
        row = {"table": name, first: interval(metrics[first])}
        rows.append({**row, **{key: number(metrics[key]["mean"]) for key in shown}})
    return rows


def views_table(record: Mapping[str, Any], metrics: Sequence[str]) -> list[dict[str, str]]:
    """What a model reaches in each view on some queries: the metrics with their intervals, and the share of each that is lost."""
    rows = []
    for view in VIEWS:
        reached = {name: interval(record["views"][view][name]) for name in metrics}
        shares = {f"lost of {name}": "" if view == "both" else share(record["lost"][view][name]) for name in metrics}
        rows.append({"view": SHOWN[view], **reached, **shares})
    return rows


def view_slices_table(record: Mapping[str, Any]) -> list[dict[str, str]]:
    """What a model loses in each view on all queries and on those of each slice, of the first metric."""
    metric = next(iter(record["views"]["both"]))
    rows = []
    for name, part in {"all": record, **record["slices"]}.items():
        lost = {f"lost by {SHOWN[view]}": share(part["lost"][view][metric]) for view in MISSING}
        row = {"queries": name.removeprefix("query_").replace("_", " "), "n": f"{part['queries']:,}"}
        rows.append({**row, metric: interval(part["views"]["both"][metric]), **lost, "images": part["images"]})
    return rows


def interval(value: Mapping[str, Any]) -> str:
    """A mean with its interval."""
    return f"{number(value['mean'])} [{number(value['low'])}, {number(value['high'])}]"


def difference(entry: Mapping[str, Any]) -> str:
    """A difference with its interval, all signed."""
    return f"{entry['difference']:+.4f} [{entry['low']:+.4f}, {entry['high']:+.4f}]"


def share(lost: Mapping[str, Any]) -> str:
    """The share of a metric that a view loses, with its interval."""
    found = lost["share"]
    return "not defined" if found is None else percent(found["mean"], found["low"], found["high"])


def number(value: float) -> str:
    """A metric in four digits."""
    return f"{value:.4f}"
