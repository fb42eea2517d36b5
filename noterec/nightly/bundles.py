"""The last stages of a night: a bundle, what it is worth, and, where nothing stops it, its way out."""

from __future__ import annotations

import datetime as dt
import os
import shutil
from pathlib import Path

import numpy as np
import polars as pl

from noterec import schema, storage
from noterec.errors import ArtefactError, GateError
from noterec.evaluation.evaluate import evaluate
from noterec.evaluation.protocol import MAIN, WARM
from noterec.evaluation.report import Report
from noterec.index.build import build_index
from noterec.index.bundle import NOTES_FILE, find, live_name, read_info
from noterec.index.manage import publish_candidate
from noterec.index.neighbours import neighbours
from noterec.index.publishing import candidate
from noterec.index.search import Index
from noterec.nightly.home import TABLES
from noterec.nightly.intake import NEW_NOTES, NEW_PAIRS, WARM_PAIRS
from noterec.nightly.models import note_comparison, show_model
from noterec.nightly.rivals import rivals
from noterec.nightly.run import Done, Run
from noterec.nightly.standing import BOUND, is_out, lost, mark
from noterec.nightly.vectors import chosen_model

ARM = "noterec"
FEWEST = 10  # questions, below which a bootstrap says nothing: of four that all happen to be worse, its bound is sure
EVALUATION = "evaluation"


def build(night: Run) -> Done:
    """Build tonight's bundle beside the live one; nothing is published."""
    _holds(night)
    config = night.config.index
    target = f"at least {config.recall_target:g} of the {config.recall_at} nearest"
    try:
        built = build_index(
            chosen_model(night).embeddings(night),
            notes=night.config.dataset,
            new=night.folder / NEW_NOTES if _any_new(night) else [],
            out=night.home.index,
            config=config,
            publish=False,
        )
    except GateError as error:
        if error.value is None:
            raise
        night.judge("index recall", error.value, bound=target, ok=False, says=f"{error.value:.4f} are found")
        raise  # an index below its target isn't there to be accepted
    record = read_info(candidate(night.home.index)).recall
    night.judge(
        "index recall", record.value, bound=target, ok=True, says=f"{record.value:.4f} are found by {built.kind}"
    )
    return Done(
        f"{built.notes:,} notes, {built.new or 0:,} of them new; {built.kind.partition(' ')[0]}, recall {record.value:.4f}",
        {
            "notes": built.notes,
            "new": built.new or 0,
            "removed": built.removed,
            "without_vector": built.without_vector,
            "index_recall": record.value,
            "query_ms": round(built.query_ms, 3),
            "bytes_per_note": built.disk_per_note,
        },
        {"bundle": mark(candidate(night.home.index))},
    )


def measure(night: Run) -> Done:
    """Tonight's vectors by the evaluation protocol, beside BM25, on new notes that people have begun to engage with."""
    if not night.record.result("pairs")["questions"]:
        return Done("no new note has engagement yet: nothing to evaluate by", status="skipped")
    report = evaluate(
        {ARM: chosen_model(night).embeddings(night)},
        notes=night.config.dataset,
        pairs=night.folder / NEW_PAIRS,
        warm_pairs=night.folder / WARM_PAIRS,
        new_notes=night.folder / NEW_NOTES,
        out=night.folder / EVALUATION,
        image_root=night.config.image_root if night.config.evaluate.html else None,
        config=night.config.evaluate,
    )
    figures: dict[str, int | float | str] = {}
    told = []
    first = f"recall@{night.config.evaluate.at[0]}"
    for direction in (MAIN, WARM):
        if direction not in report.protocol["directions"]:
            continue
        mine = report.metrics(ARM, direction)[first]
        figures[f"{first} {direction}"] = round(mine["mean"], 4)
        figures[f"questions {direction}"] = mine["n"]
        says = f"{direction} {mine['mean']:.4f} [{mine['low']:.4f}, {mine['high']:.4f}]"
        words = _bm25(report, direction, first)
        if words is not None:
            figures[f"bm25 {first} {direction}"] = round(words, 4)
            says += f" (BM25 {words:.4f})"
        told.append(says)
    return Done(f"{first}: {', '.join(told)}", figures)


def gate(night: Run) -> Done:
    """The last look before tonight's bundle goes out: against the live one on the same questions, and how fresh it is."""
    _holds(night)
    gates = night.config.gates
    folder = candidate(night.home.index)
    for direction, file in ((MAIN, NEW_PAIRS), (WARM, WARM_PAIRS)):
        bound = f"paired 99 % upper bound not below {-gates.loss:.0%}"
        name = f"recall {direction}"
        if live_name(night.home.index) is None or not night.record.result("pairs")["questions"]:
            says = "nothing is live yet" if live_name(night.home.index) is None else "no question to ask"
            night.judge(name, None, bound=bound, ok=True, says=says)
            continue
        found = rivals(find(night.home.index), folder, night.folder / file, direction, k=gates.at)
        if found is None:
            night.judge(name, None, bound=bound, ok=True, says="no question about notes that both bundles have")
            continue
        if found.questions < FEWEST:
            few = f"{found.questions} questions are too few to judge by, expected at least {FEWEST}"
            night.judge(name, None, bound=bound, ok=True, says=few)
            continue
        night.judge(
            name, found.upper, bound=bound, ok=found.upper is None or found.upper >= -gates.loss, says=found.says
        )
    created = pl.read_parquet(folder / NOTES_FILE, columns=["created_at"])["created_at"]
    newest = created.filter(created <= night.moment).max()  # a stranger's clock that is ahead makes no index fresh
    bound = f"at most {gates.stale_hours:g} hours"
    if isinstance(newest, dt.datetime):
        hours = (night.moment - newest).total_seconds() / 3600
        says = f"the newest note was created {hours:.1f} hours before ({newest:%Y-%m-%d %H:%M} UTC)"
        night.judge("staleness", round(hours, 2), bound=bound, ok=hours <= gates.stale_hours, says=says)
    else:
        night.judge("staleness", None, bound=bound, ok=True, says="no note of the bundle has created_at")
    passed = night.gates()
    counts = {
        verdict: sum(gate.verdict == verdict for gate in passed) for verdict in ("passed", "accepted", "not measured")
    }
    return Done(", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count), dict(counts))


def publish(night: Run) -> Done:
    """Make tonight's bundle the live one, in one step."""
    home = night.home
    if is_out(home, night.record):  # killed when it was live already, before it was written down
        says, live = "is live already, since before it was interrupted", find(home.index).name
    else:
        _holds(night)
        change = publish_candidate(home.index)
        says, live = "is live" + (f", after {change.was}" if change.was else ""), change.live
    show_model(home)
    if (compared := night.record.result("choose")["compared"]) is not None:
        note_comparison(home, compared)
    return Done(f"{live} {says}", {"bundle": live})


def tables(night: Run) -> Done:
    """Both neighbour tables of the live bundle: what a new note is like, and where to show it."""
    config, home = night.config.neighbours, night.home
    index = Index.open(home.index)
    folder = home.neighbours / index.folder.name
    new = int((index.live & index.new()).sum())
    asked = {"new": new, "warm": int(index.live.sum()) - new}
    figures: dict[str, int | float | str] = {}
    for file, queries, candidates in ((TABLES[0], "new", "all"), (TABLES[1], "warm", "new")):
        name = file.removesuffix(".parquet").replace("-", " ")
        if not new or not asked[queries]:  # all notes are new, or none is: an empty table, not that of an earlier night
            storage.write_table(schema.NEIGHBOURS.empty_table(), folder / file)
            figures |= {name: 0, f"{queries} notes": asked[queries]}
            continue
        found = neighbours(
            index,
            queries=queries,
            candidates="new" if candidates == "new" else "all",
            out=folder / file,
            k=config.k,
            per_author=config.per_author,
            duplicates=config.duplicates,
        )
        figures |= {name: found.rows, f"{queries} notes": found.queries}
    show_tables(home.neighbours, folder)
    return Done(
        f"{figures['new to all']:,} neighbours of {figures['new notes']:,} new notes, {figures['warm to new']:,} new neighbours of "
        f"{figures['warm notes']:,} known ones",
        figures,
    )


def show_tables(neighbours_folder: Path, bundle_folder: Path) -> None:
    """Put a bundle's tables where readers look, each in one step."""
    for file in TABLES:
        if (bundle_folder / file).is_file():
            aside = neighbours_folder / f".{file}.next"
            shutil.copyfile(bundle_folder / file, aside)
            with aside.open("rb") as written:
                os.fsync(written.fileno())
            aside.replace(neighbours_folder / file)


def _holds(night: Run) -> None:
    """See to it that what was done before still holds.

    Raises:
        ArtefactError: somebody rolled back or published meanwhile: what was measured is about another bundle than the live one.
    """
    if (why := lost(night.home, night.record)) is not None:
        night.record.undo(BOUND)
        raise ArtefactError(f"night {night.name}: {why}; run it again: it begins with its first stage")


def _any_new(night: Run) -> bool:
    return bool(storage.read_table(night.folder / NEW_NOTES).num_rows)


def _bm25(report: Report, direction: str, metric: str) -> float | None:
    if "bm25" not in report.arms:
        return None
    return float(np.float64(report.metrics("bm25", direction)[metric]["mean"]))
