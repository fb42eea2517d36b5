"""report.md: an evaluation for people to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from noterec.evaluation.popularity import WORDS as POPULARITY
from noterec.evaluation.protocol import MAIN
from noterec.evaluation.report import Report
from noterec.evaluation.tables import (
    SENTENCES,
    difference,
    generated_table,
    interval,
    table,
    view_slices_table,
    views_table,
)
from noterec.evaluation.verdict import outcome
from noterec.pages import clean


def markdown(report: Report) -> Iterator[str]:
    """The lines of report.md."""
    protocol = report.protocol
    yield "# Evaluation"
    yield ""
    verdict = outcome(report)
    if verdict is not None:
        yield f"**{_line(verdict.headline)}.** {verdict.figures}"
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
    yield from _modalities(report)
    yield from _slices(report)
    yield from _popularity(report)
    yield from _paired(report)
    yield from _generation(report)


def _modalities(report: Report) -> Iterator[str]:
    if not report.modalities:
        return
    yield ""
    yield "## What the images give"
    yield ""
    yield (
        f"The queries of {MAIN} asked of one model that sees the notes' text and images, either alone, or the text with another "
        "note's images. Lost is the share of the recall with both, 1 - view / both, by paired bootstrap. A query that a view can't "
        "represent counts as a miss."
    )
    for name, record in report.modalities.items():
        yield ""
        yield f"### {name}"
        yield ""
        yield " ".join(record["says"])
        yield f"Of {record['queries']:,} queries {record['queries_with_image']:,} have an image."
        yield ""
        yield from _grid(views_table(record, list(record["views"]["both"])))
        yield ""
        yield from _grid(view_slices_table(record))


def _slices(report: Report) -> Iterator[str]:
    says = report.protocol["slices"]
    if not says:
        return
    metric = f"recall@{report.protocol['at'][-1]}"
    yield ""
    yield f"## Slices of {MAIN}, {metric}"
    yield ""
    rows = [
        {"slice": f"{record['by']}: {record['label']}", "queries": f"{record['queries']:,}"}
        | {arm: interval(entry["slices"][name][metric]) for arm, entry in report.arms.items()}
        for name, record in says.items()
    ]
    yield from _grid(rows)
    yield ""
    yield "; ".join(_line(f"{record['label']}: {record['says']}") for record in says.values()) + "."


def _popularity(report: Report) -> Iterator[str]:
    record = report.protocol.get("popularity")
    if record is None:
        return
    yield ""
    yield f"## Where the first {record['at']} places go"
    yield ""
    found = {"(the relevant notes)": record["relevant"]}
    found |= {arm: entry["popularity"] for arm, entry in report.arms.items() if entry["popularity"]}
    yield from _grid(
        [
            {"arm": arm, **{words: interval(values[name]) for name, words in POPULARITY.items()}}
            for arm, values in found.items()
        ]
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
                "difference": difference(entry),
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
                        "difference": difference(entry),
                        "verdict": entry["verdict"],
                    }
                    for entry in record["paired"]
                    if "@" not in entry["metric"]
                ],
                text_columns=3,
            )


def _grid(rows: Sequence[Mapping[str, str]], text_columns: int = 1) -> Iterator[str]:
    """Rows as a Markdown table, numbers to the right."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    yield "| " + " | ".join(map(_line, columns)) + " |"
    yield "|" + "|".join("---" if place < text_columns else "---:" for place in range(len(columns))) + "|"
    for row in rows:
        yield "| " + " | ".join(_line(row.get(column, "")) for column in columns) + " |"


def _line(text: str) -> str:
    """A text as part of a line: a bar inside a cell would end it, a line break the table, and a category is a stranger's text."""
    for mark, told in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("`", "\\`"), ("](", "]\\(")):
        text = text.replace(mark, told)
    return " ".join(clean(text).split())
