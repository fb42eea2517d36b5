"""Colours that people with any kind of colour vision can tell apart (after Okabe and Ito); the style sheet knows their shades."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

COLOURS = 8  # then they begin again, with hollow dots and dashed lines
STYLES = 2 * COLOURS


def palette(names: Iterable[str]) -> dict[str, int]:
    """A colour for every name, in their order: give it to every chart of a page, so that a name keeps its colour.

    Args:
        names: of arms, metrics, whatever is drawn; repeated ones count once.

    Returns:
        name -> number of a style, 0 to STYLES - 1.
    """
    return {name: place % STYLES for place, name in enumerate(dict.fromkeys(names))}


def chosen(names: Iterable[str], colours: Mapping[str, int] | None) -> dict[str, int]:
    """The style of every name: the one it was given, and for the others the first that is still free."""
    found = {name: colours[name] for name in names if colours and name in colours}
    free = [style for style in range(STYLES) if style not in found.values()] or list(range(STYLES))
    for place, name in enumerate(name for name in dict.fromkeys(names) if name not in found):
        found[name] = free[place % len(free)]
    return found


def css(style: int) -> str:
    """The classes of a style: its colour, and whether it is of the second round."""
    return f"k{style % COLOURS}" + (" second" if style >= COLOURS else "")
