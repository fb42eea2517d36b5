"""The first stages of a night: what the platform brought, and what will be asked of tonight's index."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from noterec import schema, storage
from noterec.engagement.counting.log import Log
from noterec.engagement.pairs import pairs, relevant
from noterec.engagement.table import write_pairs
from noterec.errors import InputError, NoPairsError
from noterec.index import changes
from noterec.index.bundle import NOTES_FILE, find, live_name
from noterec.nightly.history import changed_counts, nights_since
from noterec.nightly.models import given_model, live_model
from noterec.nightly.run import Done, Run
from noterec.notes.dataset import UNDATED_SHARE, Dataset
from noterec.notes.validate import validate as validate_dataset

NEW_NOTES, NEW_PAIRS, WARM_PAIRS = "new-notes.parquet", "questions.parquet", "questions-warm.parquet"
TOP, MIN_SUPPORT = 10, 2  # of the evaluation protocol: the ten strongest by cosine, shared by two people at least
HISTORY, JUDGED_FROM = 14, 4  # earlier nights that make the usual range, and how many it takes
FEW = 20  # notes: so many may come or go at once, whatever share of a small platform they are
AHEAD = dt.timedelta(days=1)  # so far a clock may be ahead, or a zone be mistaken


def validate(night: Run) -> Done:
    """Read the dataset, compare it with what is live, and stop where it is not what it was."""
    config, gates = night.config, night.config.gates
    given_model(night)  # one that can't be loaded is named before hours of work
    found = validate_dataset(config.dataset)
    notes = Dataset(config.dataset).notes(["created_at"])
    if "created_at" not in notes.columns or notes["created_at"].null_count() > UNDATED_SHARE * notes.height:
        raise InputError(
            f"{config.dataset}: more than {UNDATED_SHARE:.0%} of the notes have no created_at, and the nightly job needs it to "
            "know which are new; import it with --map created_at=COLUMN"
        )
    created = notes["created_at"]
    ahead = (created > dt.datetime.now(dt.UTC) + AHEAD).fill_null(False)  # else they would be new for years
    new = notes.filter((created >= night.moment - dt.timedelta(days=config.new_days)) & ~ahead)["note_id"].sort()
    live = live_ids(night)
    # What was left out of the live index on purpose doesn't come again every night.
    known = pl.Series("note_id", [], pl.String) if live is None else pl.concat([live, _left_out(night)]).unique()
    before = int(notes["note_id"].is_in(known.implode()).sum())
    added = notes.height - before
    gone = 0 if live is None else len(live) - int(live.is_in(notes["note_id"].implode()).sum())
    table = pl.DataFrame(
        {"note_id": new, "part": ["test"] * len(new)}, schema={"note_id": pl.String, "part": pl.String}
    )
    storage.write_table(table.to_arrow(compat_level=pl.CompatLevel.oldest()), night.folder / NEW_NOTES)
    says = (
        f"{notes.height:,} notes, {len(new):,} of them new, and {found.events:,} events; since the live index {added:,} came and "
        f"{gone:,} went"
    )
    if ahead.any():
        says += f"; {int(ahead.sum()):,} are of a time to come (created_at), and don't count as new"
    done = Done(
        says,
        {
            "notes": notes.height,
            "new": len(new),
            "ahead": int(ahead.sum()),
            "added": added,
            "deleted": gone,
            "events": found.events,
            "users": found.users,
            "unreadable": found.notes_without_anything,
            "unknown_events": found.unknown_events,
        },
        {"first": live is None, "live": live_name(night.home.index)},
    )
    share = found.notes_without_anything / notes.height
    night.judge(
        "rejects",
        share,
        bound=f"at most {gates.rejects:.1%}",
        ok=share <= gates.rejects,
        says=f"{found.notes_without_anything:,} of {notes.height:,} notes have neither text nor picture ({share:.1%})",
    )
    if live is None:
        return done
    had = before + gone
    change = notes.height / had - 1
    night.judge(
        "notes",
        change,
        bound=f"within ±{gates.notes:.0%} of the live index, or {FEW} notes more",
        ok=abs(change) <= gates.notes or 0 < notes.height - had <= FEW,
        says=f"{notes.height:,} notes, {change:+.1%} against {had:,}",
    )
    usual, tonight = changed_counts(night)
    usual, nights = usual[-HISTORY:], nights_since(night)
    floor = max(FEW, 0.01 * len(live))
    lost = gone / len(live)
    _, high = _usual_range([counts["deleted"] for counts in usual], gates.counts, floor=floor)
    most = min(gates.deleted, nights * high / len(live))
    night.judge(
        "deleted notes",
        lost,
        bound=f"at most {most:.1%} of the live index",
        ok=lost <= most or gone == 1,
        says=f"{gone:,} notes of the live index are gone ({lost:.1%})",
    )
    came = added + tonight["added"]
    low, high = _usual_range([counts["added"] for counts in usual], gates.counts, floor=floor)
    high *= nights  # one that was missed left its notes for the next
    judged = len(usual) >= JUDGED_FROM
    night.judge(
        "new notes",
        came if judged else None,
        bound=f"{low:,.0f} to {high:,.0f}" if judged else "a usual range",
        ok=low <= came <= high,
        says=f"{came:,} notes came"
        + (" tonight" if nights == 1 else f" in {nights} nights")
        + (f", {added:,} of them since the last run" if came > added else "")
        + ("" if judged else f"; judged once {JUDGED_FROM} earlier nights say what is usual"),
    )
    return done


def _usual_range(earlier: Sequence[int], factor: float, *, floor: float) -> tuple[float, float]:
    """From the median of earlier nights divided by a factor to it times the factor; open where they are too few.

    Below `floor` nothing is unusual: of few notes, twice as many are still few.
    """
    if len(earlier) < JUDGED_FROM:
        return 0.0, np.inf
    middle = float(np.median(earlier))
    low = np.floor(middle / factor)
    return (0.0 if middle <= floor else low), max(np.ceil(middle * factor), floor)


def mine(night: Run) -> Done:
    """Related pairs of the whole log, and the questions that tonight's evaluation asks; again only where something is newer."""
    config, home = night.config, night.home
    data = Dataset(config.dataset)
    if not _any_engagement(data):
        return Done(
            "no engagement yet: no pairs, and nothing to evaluate by", status="skipped", result={"questions": 0}
        )
    asked, warm = _questions(night, data)
    figures = {"questions": asked, "warm_questions": warm}
    mark = storage.value_hash(
        [
            [storage.stamp_of(file) for file in (*data.note_files, *data.engagement_files)],
            config.pairs.model_dump(mode="json"),
        ]
    )
    if home.pairs.is_file() and (storage.read_origin(home.pairs) or {}).get("input") == mark:
        says = f"pairs are of this log already; {asked:,} new and {warm:,} known notes to ask for"
        return Done(says, {**figures}, {"questions": asked})
    fresh = night.folder / "pairs.parquet"
    try:
        found = pairs(config.dataset, out=fresh, config=config.pairs)
    except NoPairsError as error:
        if home.pairs.is_file():  # a log that had pairs and has none isn't a young one
            raise
        return Done(f"no related pair yet: {error}", {**figures}, {"questions": asked})
    origin = {**(storage.read_origin(fresh) or {}), "input": mark}
    storage.write_table(storage.read_table(fresh), home.pairs, origin=origin)
    fresh.unlink()
    return Done(
        f"{found.pairs:,} related pairs around {found.anchors:,} notes; {asked:,} new and {warm:,} known notes to ask for",
        {"pairs": found.pairs, "anchors": found.anchors, **figures},
        {"questions": asked},
    )


def _any_engagement(data: Dataset) -> bool:
    """Whether the log has a click or a stronger action."""
    engaged = pa.array(list(schema.ENGAGED))
    return any(
        pc.any(pc.is_in(table["action"], value_set=engaged)).as_py() for table in data.engagement_batches(["action"])
    )


def _questions(night: Run, data: Dataset) -> tuple[int, int]:
    """Write which notes are relevant to new notes, and which new notes to known ones; how many of each are asked for."""
    gates = night.config.gates
    new = pl.Series(storage.read_table(night.folder / NEW_NOTES)["note_id"], dtype=pl.String)
    strongest = functools.partial(
        relevant, Log(data), top=TOP, min_support=MIN_SUPPORT, memory=night.config.pairs.memory
    )
    known = data.note_ids.filter(~data.note_ids.is_in(new.implode()))
    lists = {
        NEW_PAIRS: strongest(anchors=new, description="questions"),
        WARM_PAIRS: strongest(anchors=known, candidates=new, description="warm questions"),
    }
    counts = []
    for file, table in lists.items():
        anchors = table["anchor_id"].unique().sort()
        if len(anchors) > gates.questions:
            anchors = anchors.sample(gates.questions, seed=0, shuffle=True)
            table = table.filter(pl.col("anchor_id").is_in(anchors.implode()))
        write_pairs(table, night.folder / file, origin={"night": night.name, "new_days": night.config.new_days})
        counts.append(len(anchors))
    return counts[0], counts[1]


def _left_out(night: Run) -> pl.Series:
    """Notes that the live index doesn't have though the dataset does: removed by hand, or with nothing to read."""
    model = live_model(night.home)
    assert model is not None  # nothing is live without one
    removed = changes.read(night.home.index).removed
    file = model.embeddings(night) / schema.REJECTS_FILE
    if not file.is_file():
        return removed.alias("note_id")
    rejects = pl.DataFrame(storage.read_table(file, columns=["table", "key"]))
    empty = rejects.filter(pl.col("table") == "notes")["key"].cast(pl.String)
    return pl.concat([removed.alias("note_id"), empty.alias("note_id")])


def live_ids(night: Run) -> pl.Series | None:
    """The notes of the live bundle; None where nothing is published."""
    if live_name(night.home.index) is None:
        return None
    table = storage.read_table(find(night.home.index) / NOTES_FILE, columns=["note_id"])
    return pl.Series(table["note_id"], dtype=pl.String)
