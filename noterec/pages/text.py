"""Text of strangers, made fit for a page; and numbers as a page writes them."""

from __future__ import annotations

import datetime as dt
import math
import re

from markupsafe import Markup, escape

# What no page should hold: control characters, lone surrogates (which UTF-8 can't say), and marks that turn the direction of
# the text around them. A tab and a line break are text.
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def clean(text: str) -> str:
    """A text in which every character that isn't fit for a page is replaced by U+FFFD; still to be escaped."""
    return _UNFIT.sub("\ufffd", text)


def marked_up(value: object) -> Markup:
    """A value as escaped, clean text; what is `Markup` already stays as it is."""
    return value if isinstance(value, Markup) else escape(clean(str(value)))


def number(value: float) -> str:
    """A number to be read: whole ones with their thousands apart, others with four digits that count.

    >>> number(12345), number(0.123456), number(1234.5), number(-0.00001)
    ('12,345', '0.1235', '1,234.5', '-1e-05')
    """
    if isinstance(value, int) or (math.isfinite(value) and float(value).is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def day(moment: dt.datetime | dt.date | None) -> str:
    """A day as people write it, "22 Nov 2026"; "" where unknown."""
    return "" if moment is None else f"{moment.day} {moment:%b %Y}"
