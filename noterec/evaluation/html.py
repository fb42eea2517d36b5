"""report.html: an evaluation as one file with plots, to be read, mailed and archived.

The file loads nothing and runs no script. Its size is bounded: texts are cut, pictures take 4 MB in all (5.3 MB as they are written
there), and the rest grows with arms and slices only.
"""

from __future__ import annotations

from collections.abc import Iterator

import yaml
from markupsafe import Markup

from noterec import pages, storage
from noterec.evaluation import sections
from noterec.evaluation.examples import Examples
from noterec.evaluation.marks import own_rows, partial_arms
from noterec.evaluation.protocol import MAIN
from noterec.evaluation.report import PAGE_FILE, Report
from noterec.evaluation.sections import Part
from noterec.evaluation.tables import generated_table, meanings, view_slices_table, views_table
from noterec.evaluation.verdict import outcome
from noterec.pages import Figure


def write_html(report: Report, examples: Examples | None) -> None:
    """Write report.html into a report's folder.

    Args:
        report: what was measured; what wasn't is left out.
        examples: queries to be read; None where nothing was ranked.
    """
    text = page(report, examples)
    with storage.atomic_write(report.path / PAGE_FILE) as file:
        file.write(text.encode())


def page(report: Report, examples: Examples | None) -> str:
    """The page as text."""
    protocol = report.protocol
    whole = [arm for arm in protocol["user_arms"] if arm not in partial_arms(report)]
    parts = [
        *sections.directions(report),
        *sections.slices(report),
        *sections.compact(report),
        *sections.shown(report),
        *_modalities(report),
        *_generated(report),
    ]
    return pages.render(
        "report.html",
        package="noterec.evaluation",
        title=f"Evaluation of {', '.join(whole or report.arms or report.generation)}",
        protocol=protocol,
        dataset=protocol["dataset"].rstrip("/").rsplit("/", 1)[-1],
        main=protocol["directions"].get(MAIN),
        outcome=outcome(report),
        parts=parts,
        examples=examples,
        arms=_arms(report),
        meanings=meanings(name for arm in report.arms for name in report.metrics(arm)),
        settings=yaml.safe_dump(protocol["config"], sort_keys=False, allow_unicode=True),
        split=protocol.get("split"),
        inputs={name: path for name, path in protocol.get("inputs", {}).items() if path is not None},
    )


def _modalities(report: Report) -> Iterator[Part]:
    for place, (name, record) in enumerate(report.modalities.items(), start=1):
        tables = [
            _plain(views_table(record, list(record["views"]["both"])), "recall in each view"),
            _plain(view_slices_table(record), "what is lost, by slice"),
        ]
        says = [*record["says"], f"Of {record['queries']:,} queries {record['queries_with_image']:,} have an image."]
        yield Part(f"images{place}", f"What the images give: {name}", says, [], tables)


def _generated(report: Report) -> Iterator[Part]:
    for task, record in report.generation.items():
        known = "is known" if task == "category" else "are known"
        says = [
            f"{record['notes']:,} {record['which']} whose {task} {known}; left out, as nothing is known of them: "
            f"{record['notes_without_truth']:,}."
        ]
        says += [f"Not measured: {name} ({reason})." for name, reason in record["not_measured"].items()]
        yield Part(f"generated-{task}", f"Generated: {task}", says, [], [_plain(generated_table(report, task), task)])


def _arms(report: Report) -> Markup | None:
    """Who competed."""
    if not report.arms:
        return None
    rows = [
        [
            arm,
            entry["kind"],
            " + ".join(entry.get("parts", ())) or None,
            entry.get("model_version"),
            entry.get("dimension"),
            entry.get("notes_without_vector"),
            entry.get("embeddings"),
        ]
        for arm, entry in report.arms.items()
    ]
    columns = ["arm", "kind", "of", "model version", "dimension", "notes without vector", "embeddings"]
    return pages.table(columns, rows, caption="arms", own=own_rows(report, report.arms))


def _plain(rows: list[dict[str, str]], caption: str) -> Markup:
    """A table of text, its figures to the right."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [
        [row.get(column, "") if not place else Figure(row.get(column, "")) for place, column in enumerate(columns)]
        for row in rows
    ]
    return pages.table(columns, cells, caption=caption)
