"""What `noterec pairs --describe` prints: figures in aligned lines, then notes to be read. Their text is a stranger's."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable

from rich.cells import set_cell_size

from noterec.cli.output import plain, summary, write
from noterec.engagement.apart.window import WindowSummary
from noterec.engagement.describing.description import Agreement, NoteLine, PairsDescription, Quantiles
from noterec.engagement.pairs import PairsSummary
from noterec.pages.text import clean, number

LABEL, COLUMN, WIDTH = 26, 10, 110
PARTS = (("note_id", 14), ("title", 48), ("category", 24), ("author_id", 12))  # of a note, in terminal cells
NAME = 24  # of a category or a setting between other words
SETTINGS = ("weighting", "min_support", "top", "lower", "upper", "window_days", "half_life_days", "per_category_pair")


def show(found: PairsDescription, mined: PairsSummary | WindowSummary | None, *, as_json: bool) -> None:
    """Print a description.

    Args:
        found: the description.
        mined: what mining the pairs left out, where they were mined for it.
        as_json: one object with both, `mined` null where they weren't.
    """
    if as_json:
        record = json.dumps({"mined": plain(mined), "description": plain(found)}, ensure_ascii=False, indent=2)
        # Unchanged for whoever reads it, and harmless on a terminal.
        write("".join(char if clean(char) == char else f"\\u{ord(char):04x}" for char in record))
        return
    if mined is not None:
        summary(mined, as_json=False)
        write()
    _coverage(found)
    _scores(found)
    _popularity(found)
    _agreement(found)
    _sample(found.sample)
    if found.suggestions:
        write()
        write("what these figures speak for")
        for suggestion in found.suggestions:
            write(textwrap.fill(suggestion, WIDTH, initial_indent="  - ", subsequent_indent="    "))


def _coverage(found: PairsDescription) -> None:
    coverage = found.coverage
    settings = [
        f"{name.replace('_', ' ')} {one_line(found.settings[name], NAME).strip()}"
        for name in SETTINGS
        if found.settings.get(name) is not None
    ]
    _line("pairs", f"{found.pairs:,}", "; ".join(settings) or "another maker's: no settings known")
    if found.unknown:
        _line("left out", f"{found.unknown:,}", "they name notes that the dataset doesn't have")
    if found.repeated:
        _line("left out", f"{found.repeated:,}", "they stand there before")
    _line("in both directions", f"{found.symmetric:.1%}", "of the pairs: the related note lists the anchor too")
    write()
    _line("notes", f"{coverage.notes:,}")
    _line("with related notes", f"{coverage.anchors:,}", _share(coverage.anchors, coverage.notes))
    for label, count in (
        ("without: no engagement", coverage.without_engagement),
        ("without: by one person", coverage.with_one_person),
        ("without: shared too weakly", coverage.with_more_people),
    ):
        _line(label, f"{count:,}", _share(count, coverage.notes))
    _line("related to some note", f"{coverage.related:,}", _share(coverage.related, coverage.notes))
    write()
    _row("related notes of a note", coverage.anchors_by_related)
    _row("notes that have so many", [f"{count:,}" for count in coverage.anchors_by_related.values()])


def _scores(found: PairsDescription) -> None:
    if not found.scores.by_rank:
        return
    write()
    _quantiles(
        "score", {f"at rank {rank}" if rank != "all" else "all pairs": of for rank, of in found.scores.by_rank.items()}
    )
    if found.scores.tied is not None:
        _line("ties at the end", f"{found.scores.tied:.1%}", "of the longest lists: their last two scores are equal")


def _popularity(found: PairsDescription) -> None:
    popularity = found.popularity
    names = {"notes": "all notes", "anchors": "with related notes", "related": "places in lists"}
    write()
    _quantiles("people who engaged", {names[name]: of for name, of in popularity.people.items()})
    for top in popularity.top:
        notes = f"{top.notes:,} {'note' if top.notes == 1 else 'notes'}, {top.least_people:,} people or more"
        said = f"of the places in lists; {top.of_engagement:.1%} of all engagement ({notes})"
        _line(f"the most popular {top.share:.0%}", f"{top.of_related:.1%}", said)
    write(f"  {popularity.verdict}")


def _agreement(found: PairsDescription) -> None:
    write()
    for name, agreement in (("category", found.category), ("author", found.author)):
        if agreement is None:
            _line(f"same {name}", "-", "no pair has both")
        else:
            _line(f"same {name}", f"{agreement.same:.1%}", _beside(agreement))
    if found.age is not None:
        _line(
            "days apart, median",
            f"{found.age.days:,.1f}",
            f"by chance {found.age.chance:,.1f}; the related note is the older one in {found.age.older:.0%}",
        )


def _beside(agreement: Agreement) -> str:
    said = f"by chance {agreement.chance:.1%}"
    if agreement.unknown:
        said += f"; unknown of {_share(agreement.unknown, agreement.known + agreement.unknown)}"
    if agreement.commonest is not None and agreement.of_known is not None:
        first, second = (one_line(name, NAME).strip() for name in agreement.commonest)
        said += f"; most often {first} -> {second}, {agreement.of_known:.1%}"
    return said


def one_line(text: object, width: int) -> str:
    """A text of a stranger as so many terminal cells: on one line, without control characters, cut or filled with spaces."""
    flat = clean(" ".join(str(text).split()))
    # Characters without a width of their own may be many: four to a cell are enough for every script and most emoji.
    short = flat[: 4 * width]
    cut = set_cell_size(short, width)
    return cut if cut.rstrip() == flat else set_cell_size(short, width - 1) + "…"


def _sample(anchors: tuple[NoteLine, ...]) -> None:
    if not anchors:
        return
    lines = [line for anchor in anchors for line in (anchor, *anchor.related)]
    widths = [(part, width) for part, width in PARTS if any(getattr(line, part) for line in lines)]
    write()
    write("some of them, with their first related notes")
    write(
        f"{'score':>9}{'people':>9}  {'  '.join(one_line(part.replace('_id', ''), width) for part, width in widths)}".rstrip()
    )
    for anchor in anchors:
        for line in (anchor, *anchor.related):
            score = "" if line is anchor else "-" if line.score is None else f"{line.score:.4g}"
            cells = [one_line(getattr(line, part) or "-", width) for part, width in widths]
            mark = "" if line is anchor else "  "
            write(f"{score:>9}{line.people:>9,}  {mark}{'  '.join(cells)}".rstrip())


def _line(label: str, figure: str, said: str = "") -> None:
    write(f"{label:<{LABEL}}{figure:>{COLUMN}}  {said}".rstrip())


def _row(label: str, cells: Iterable[str]) -> None:
    write(f"{label:<{LABEL}}" + "".join(f"{cell:>{COLUMN}}" for cell in cells))


def _quantiles(label: str, rows: dict[str, Quantiles]) -> None:
    _row(label, [f"{quantile:.0%}" for quantile in next(iter(rows.values()))])
    for name, of in rows.items():
        _row(f"  {name}", [number(float(f"{value:.4g}")) for value in of.values()])


def _share(count: int, of: int) -> str:
    return f"{count / of:.1%}"
