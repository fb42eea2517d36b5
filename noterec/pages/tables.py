"""Tables of a page: numbers to the right, text escaped."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from noterec.errors import InputError
from noterec.pages.text import marked_up, number


@dataclass(frozen=True)
class Figure:
    """A number that is written already, such as a mean.

    Attributes:
        text: how it is written.
        small: what stands below it in small print, such as its interval.
        best: whether it is the best of its column, and set off.
    """

    text: str
    small: str = ""
    best: bool = False


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    caption: str = "",
    own: Collection[int] = (),
) -> Markup:
    """A table; the first cell of a row names it.

    Args:
        columns: headings.
        rows: cells. Numbers and `Figure`s stand to the right; None is a dash; `Markup` stays as it is, all else is escaped.
        caption: what the table is, for people who can't see it.
        own: numbers of rows, the first being 0, that are set off.

    Raises:
        InputError: a row has more or fewer cells than there are columns.
    """
    for row in rows:
        if len(row) != len(columns):
            raise InputError(
                f"a row of {len(row)} cells in a table of {len(columns)} columns ({', '.join(columns)}); expected one cell each"
            )
    right = [_numbers([row[place] for row in rows]) for place in range(len(columns))]
    heads = [
        Markup('<th scope="col"{}>{}</th>').format(_side(side), marked_up(name))
        for name, side in zip(columns, right, strict=True)
    ]
    lines = []
    for place, row in enumerate(rows):
        cells = [
            Markup('<th scope="row"{}>{}</th>' if not column else "<td{}>{}</td>").format(_side(side), _cell(cell))
            for column, (cell, side) in enumerate(zip(row, right, strict=True))
        ]
        lines.append(
            Markup("<tr{}>{}</tr>").format(Markup(' class="own"' if place in own else ""), Markup("").join(cells))
        )
    label = Markup(' role="region" tabindex="0" aria-label="{}"').format(marked_up(caption)) if caption else Markup("")
    return Markup('<div class="scroll"{}><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>').format(
        label, Markup("").join(heads), Markup("\n").join(lines)
    )


def _numbers(cells: Sequence[object]) -> bool:
    """Whether a column is one of numbers."""
    told = [cell for cell in cells if cell is not None]
    return bool(told) and all(isinstance(cell, int | float | Figure) and not isinstance(cell, bool) for cell in told)


def _side(right: bool) -> Markup:
    return Markup(' class="n"') if right else Markup("")


def _cell(value: object) -> Markup:
    if value is None:
        return Markup("–")
    if isinstance(value, Figure):
        told = Markup("<b>{}</b>" if value.best else "{}").format(marked_up(value.text))
        return told + Markup("<small>{}</small>").format(marked_up(value.small)) if value.small else told
    if isinstance(value, bool):
        return Markup("yes" if value else "no")
    if isinstance(value, int | float):
        return marked_up(number(value))
    return value if isinstance(value, Markup) else Markup("<bdi>{}</bdi>").format(marked_up(value))
