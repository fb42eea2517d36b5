"""The report: metrics.json for machines, report.md for people, queries.parquet for `compare`; and rows for the terminal."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noterec import storage
from noterec.errors import ArtefactError, InputError
from noterec.evaluation.protocol import MAIN, PAPER, WARM

FORMAT = "noterec evaluation"
FORMAT_VERSION = 1
METRICS_FILE, REPORT_FILE, QUERIES_FILE = "metrics.json", "report.md", "queries.parquet"
GENERATED_FILE = "generated.parquet"

SENTENCES = {
    MAIN: "a note that training never saw asks; every other note is a candidate",
    WARM: "a note with a history asks; the candidates are the new test notes only",
    PAPER: "one relevant note per directional pair, both unseen; the pool is all new test notes but the query",
}


@dataclass(frozen=True)
class Report:
    """An evaluation, as it stands in metrics.json.

    Attributes:
        path: the folder that holds it.
        protocol: what was asked: counts, cut-offs, candidates, seeds, settings.
        arms: by name: metrics of the main direction, "directions" with those of the others, "slices", and counts.
        paired: differences between arms on the same queries, with intervals and verdicts.
        generation: by task, "category" or "hashtags", what `generation.measure_generated` found; empty where nothing was generated.
    """

    path: Path
    protocol: dict[str, Any]
    arms: dict[str, dict[str, Any]]
    paired: list[dict[str, Any]]
    generation: dict[str, dict[str, Any]] = field(default_factory=dict)

    def metrics(self, arm: str, direction: str = MAIN) -> dict[str, dict[str, Any]]:
        """The metrics of an arm in a direction: name -> mean, low, high, n."""
        entry = self.arms[arm] if direction == MAIN else self.arms[arm]["directions"][direction]
        return {name: value for name, value in entry.items() if "@" in name}

    def save(self) -> None:
        """Write metrics.json and report.md."""
        record: dict[str, Any] = {"protocol": self.protocol, "arms": self.arms, "paired": self.paired}
        if self.generation:
            record["generation"] = self.generation
        with storage.atomic_write(self.path / REPORT_FILE) as file:
            file.write(("\n".join(_markdown(self)) + "\n").encode())
        storage.write_json(self.path / METRICS_FILE, record)  # last: its presence says that the report is whole


def load_report(path: str | os.PathLike[str]) -> Report:
    """Read a report's folder.

    Raises:
        InputError: no report there.
        ArtefactError: metrics.json is damaged or of another format.
    """
    folder = storage.local(path)
    if not (folder / METRICS_FILE).is_file():
        raise InputError(f"{folder}: no {METRICS_FILE} there; expected a folder that `noterec evaluate` wrote")
    record = storage.read_json(folder / METRICS_FILE)
    protocol = record.get("protocol", {}) if isinstance(record, dict) else {}
    if protocol.get("format") != FORMAT or protocol.get("format_version") != FORMAT_VERSION:
        raise ArtefactError(
            f"{folder / METRICS_FILE}: not an evaluation of format version {FORMAT_VERSION}; evaluate again with this "
            "version of noterec"
        )
    if not {"directions", "user_arms"} <= protocol.keys() or not {"arms", "paired"} <= record.keys():
        raise ArtefactError(f"{folder / METRICS_FILE}: incomplete; it was damaged: evaluate again")
    return Report(folder, protocol, record["arms"], record["paired"], record.get("generation", {}))


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
            row[name] = _interval(metrics[name]) if name == names[0] else _number(metrics[name]["mean"])
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
        row = {"table": name, first: _interval(metrics[first])}
        rows.append({**row, **{key: _number(metrics[key]["mean"]) for key in shown}})
    return rows


def _interval(value: Mapping[str, Any]) -> str:
    return f"{_number(value['mean'])} [{_number(value['low'])}, {_number(value['high'])}]"


def _difference(entry: Mapping[str, Any]) -> str:
    return f"{entry['difference']:+.4f} [{entry['low']:+.4f}, {entry['high']:+.4f}]"


def _number(value: float) -> str:
    return f"{value:.4f}"


def _grid(rows: Sequence[Mapping[str, str]], text_columns: int = 1) -> Iterator[str]:
    """Rows as a Markdown table, numbers to the right; a bar inside a cell would end it."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "|".join("---" if place < text_columns else "---:" for place in range(len(columns))) + "|"
    for row in rows:
        yield "| " + " | ".join(row.get(column, "").replace("|", "\\|") for column in columns) + " |"


def _markdown(report: Report) -> Iterator[str]:
    protocol = report.protocol
    yield "# Evaluation"
    yield ""
    yield (
        f"{protocol['notes']:,} notes of `{protocol['dataset']}`, {protocol['created']}. Means over queries, or over notes, with "
        f"95 % bootstrap intervals ({protocol['resamples']:,} resamples, seed {protocol['seed']}). A query that an arm can't "
        "represent counts as a miss, a note without an answer as wrong."
    )
    for name, record in protocol["directions"].items():
        yield ""
        yield f"## {name}"
        yield ""
        yield (
            f"{SENTENCES[name][0].upper()}{SENTENCES[name][1:]}. {record['queries']:,} queries, "
            f"{record['relevant']:,} relevant notes, {record['candidates']:,} candidates."
        )
        if record["left_out_at"]:
            cut = ", ".join(f"{k:,}" for k in record["left_out_at"])
            yield f"Cut-offs {cut} are left out: in so small a pool every arm would reach 1."
        yield ""
        yield from _grid(table(report, name))
        if name != MAIN and "popularity" in report.arms:
            yield ""
            yield "Popularity knows no new note: nobody has clicked one yet."
        missing = {arm: entry["unasked"].get(name, 0) for arm, entry in report.arms.items()}
        if any(missing.values()):
            yield ""
            told = ", ".join(f"{arm} {count:,}" for arm, count in missing.items() if count)
            yield f"Queries without a vector or a word, counted as misses: {told}."
    for name, reason in protocol["not_measured"].items():
        yield ""
        yield f"Not measured: {name} ({reason})."
    if protocol["queries_in_training"]:
        yield ""
        yield (
            f"**{protocol['queries_in_training']:,} queries of the main direction have engagement in the training log.** "
            "They are not cold: figures of arms that were trained on that log are too high."
        )
    yield from _slices(report)
    yield from _paired(report)
    yield from _generation(report)


def _slices(report: Report) -> Iterator[str]:
    says = report.protocol["slices"]
    if not says:
        return
    metric = f"recall@{report.protocol['at'][-1]}"
    yield ""
    yield f"## Slices of {MAIN}, {metric}"
    yield ""
    rows = []
    for arm, entry in report.arms.items():
        cells = {name.replace("_", " "): _interval(entry["slices"][name][metric]) for name in says}
        rows.append({"arm": arm, **cells})
    yield from _grid(rows)
    yield ""
    yield (
        "; ".join(
            f"{name.replace('_', ' ')}: {text['says']}, {text['queries']:,} queries" for name, text in says.items()
        )
        + "."
    )


def _paired(report: Report) -> Iterator[str]:
    shown = [
        entry
        for entry in report.paired
        if entry["metric"] == report.protocol["directions"][entry["direction"]]["first"]
    ]
    if not shown:
        return
    yield ""
    yield "## Paired differences"
    yield ""
    yield "Each arm minus another on the same queries. Other metrics are in metrics.json."
    yield ""
    yield from _grid(
        [
            {
                "arm": entry["arm"],
                "against": entry["against"],
                "direction": entry["direction"],
                "metric": entry["metric"],
                "difference": _difference(entry),
                "verdict": entry["verdict"],
            }
            for entry in shown
        ],
        text_columns=4,
    )


def _generation(report: Report) -> Iterator[str]:
    for task, record in report.generation.items():
        yield ""
        yield f"## Generated: {task}"
        yield ""
        yield (
            f"{record['notes']:,} {record['which']} whose {task} {'is' if task == 'category' else 'are'} known; "
            f"left out, as nothing is known of them: {record['notes_without_truth']:,}."
        )
        if task == "category":
            yield (
                f"A category counts as illusory where it is none of the {record['closed_set']:,} known ones. Notes whose true "
                f"category is not among them either: {record['truth_outside']:,}."
            )
        if "bleu4" not in record["not_measured"]:
            yield f"BLEU counts the words of sacrebleu's `{record['bleu_tokenizer']}` tokenizer, between 0 and 1."
        yield ""
        yield from _grid(generated_table(report, task))
        for name, reason in record["not_measured"].items():
            yield ""
            yield f"Not measured: {name} ({reason})."
        missing = {name: entry["unanswered"] for name, entry in record["tables"].items() if entry["unanswered"]}
        if missing:
            yield ""
            yield "Notes without an answer: " + ", ".join(f"{name} {count:,}" for name, count in missing.items()) + "."
        if record["paired"]:
            yield ""
            yield from _grid(
                [
                    {
                        "table": entry["table"],
                        "against": entry["against"],
                        "metric": entry["metric"],
                        "difference": _difference(entry),
                        "verdict": entry["verdict"],
                    }
                    for entry in record["paired"]
                    if "@" not in entry["metric"]
                ],
                text_columns=3,
            )
