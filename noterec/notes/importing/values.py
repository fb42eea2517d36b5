"""One value at a time: what a hostile cell becomes, or in a few words why it can't be used.

Text is normalised to Unicode NFC, so that two spellings of one word meet; control characters but tab and line breaks
become spaces, lone surrogates become U+FFFD: neither tokenizers nor JSON nor Arrow need to survive them later. Ids are opaque:
they are never normalised or trimmed, and one with control characters or surrogates is refused.
"""

from __future__ import annotations

import datetime
import math
import re
import unicodedata
from typing import Any

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SEPARATORS = re.compile(r"[,|\uff0c\u3001]")
_HASHES = re.compile(r"\s*[#\uff03]")
MAX_MICROSECONDS = 253_402_300_799_999_999  # the end of the year 9999
MAX_TEXT_IN_REASON = 40


class BadValueError(ValueError):
    """A cell can't be used; the message is the reason that goes into the rejects table."""


def shown(value: Any) -> str:
    """A value in a reason: short, printable, encodable."""
    if isinstance(value, (bytes, bytearray)):
        value = bytes(value[: 2 * MAX_TEXT_IN_REASON]).decode("utf-8", "replace")
    text = value if isinstance(value, str) else repr(value)
    text = text[:MAX_TEXT_IN_REASON] + ("…" if len(text) > MAX_TEXT_IN_REASON else "")
    return "'" + "".join(c if c.isprintable() else "�" for c in text) + "'"


def clean(text: str) -> str:
    """Text in NFC without control characters and lone surrogates."""
    if text.isascii():
        return _CONTROL.sub(" ", text)
    text = _SURROGATE.sub("�", _CONTROL.sub(" ", text))
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


def _decoded(value: Any, field: str) -> Any:
    if isinstance(value, (bytes, bytearray)):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadValueError(f"{field} is not valid UTF-8") from error
    return value


def identifier(value: Any, field: str) -> str:
    """A note's or person's id: text or a whole number, as it stands.

    Raises:
        BadValueError: missing, of another type, or unprintable.
    """
    value = _decoded(value, field)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BadValueError(f"no {field}")
    if not isinstance(value, str):
        raise BadValueError(f"{field} is a {type(value).__name__}, expected text or a whole number")
    if _CONTROL.search(value) or _SURROGATE.search(value):
        raise BadValueError(f"{field} has control characters or broken Unicode")
    return value


def text(value: Any, field: str) -> str | None:
    """Clean text; None where there is none. Numbers are taken as written.

    Raises:
        BadValueError: a list, mapping or truth value stands where text was expected.
    """
    value = _decoded(value, field)
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return None if isinstance(value, float) and math.isnan(value) else str(value)
    if not isinstance(value, str):
        raise BadValueError(f"{field} is a {type(value).__name__}, expected text")
    return clean(value) if value.strip() else None


def hashtags(value: Any, separator: str | None) -> list[str] | None:
    """A list of hashtags, without the sign, blanks and repetitions, in the order given.

    Args:
        value: a list of texts, or one text to be split.
        separator: splits a text; None = commas and vertical bars, or else the # signs; "" = a text is one hashtag.
    """
    value = _decoded(value, "hashtags")
    if value is None:
        return None
    if isinstance(value, str):
        if separator:
            parts: list[Any] = value.split(separator)
        elif separator == "":
            parts = [value]
        else:
            parts = (_SEPARATORS if _SEPARATORS.search(value) else _HASHES).split(value)
    elif isinstance(value, (list, tuple)):
        parts = list(value)
    else:
        raise BadValueError(f"hashtags is a {type(value).__name__}, expected a list or text")
    tags = (text(part, "a hashtag") for part in parts)
    return list(dict.fromkeys(tag for tag in (t.strip().lstrip("#\uff03").strip() for t in tags if t) if tag)) or None


def images(value: Any) -> list[dict[str, Any]]:
    """Images as {"bytes", "path"}: from paths, bytes, such mappings, or a list of them.

    Raises:
        BadValueError: something else, or an image with neither bytes nor path.
    """
    if value is None:
        return []
    found = []
    for item in value if isinstance(value, (list, tuple)) else [value]:
        if item is None or item == "":
            continue
        if isinstance(item, dict):
            data, path = item.get("bytes"), item.get("path")
        elif isinstance(item, (bytes, bytearray)):
            data, path = bytes(item), None
        else:
            data, path = None, item
        if data is not None and not isinstance(data, (bytes, bytearray)):
            raise BadValueError(f"images: bytes are a {type(data).__name__}, expected binary data")
        if path is not None:
            path = identifier(path, "image path")
        if not data and path is None:
            raise BadValueError("images: an image with neither bytes nor path")
        found.append({"bytes": bytes(data) if data else None, "path": path})
    return found


def microseconds(value: Any, field: str) -> int | None:
    """A time as microseconds since 1970 in UTC.

    Numbers are seconds, milliseconds (from 1e11) or microseconds (from 1e14) since 1970; text is such a number or ISO 8601; a
    time without a zone is UTC.

    Raises:
        BadValueError: neither, or outside the years 1 to 9999.
    """
    value = _decoded(value, field)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, datetime.datetime):
        moment = value
    elif isinstance(value, datetime.date):
        moment = datetime.datetime(value.year, value.month, value.day)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        return _from_number(value, field)
    elif isinstance(value, str):
        try:
            return _from_number(float(value), field)
        except ValueError as error:
            if isinstance(error, BadValueError):
                raise
        try:
            moment = datetime.datetime.fromisoformat(value.strip())
        except ValueError as error:
            raise BadValueError(f"{field} is {shown(value)}, expected ISO 8601 or a Unix time") from error
    else:
        raise BadValueError(f"{field} is a {type(value).__name__}, expected a time")
    try:
        # Integer arithmetic: going through a float would round microseconds.
        return (moment.replace(tzinfo=moment.tzinfo or datetime.UTC) - _EPOCH) // datetime.timedelta(microseconds=1)
    except OverflowError as error:
        raise BadValueError(f"{field} is {shown(value)}, outside the years 1 to 9999") from error


def _from_number(value: float, field: str) -> int:
    if not math.isfinite(value):
        raise BadValueError(f"{field} is {shown(value)}, expected a time")
    size = abs(value)
    scale = 1 if size >= 1e14 else 1000 if size >= 1e11 else 1_000_000
    result = round(value * scale)
    if abs(result) > MAX_MICROSECONDS:
        raise BadValueError(f"{field} is {shown(value)}, beyond the year 9999")
    return result


def whole_number(value: Any, field: str) -> int | None:
    """A count of zero or more.

    Raises:
        BadValueError: not a whole number, negative, or beyond 64 bits.
    """
    value = _decoded(value, field)
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    try:
        number = float(value) if isinstance(value, (str, float)) and not isinstance(value, bool) else value
        if isinstance(number, bool) or not isinstance(number, (int, float)) or number != int(number):
            raise ValueError
    except (ValueError, OverflowError) as error:
        raise BadValueError(f"{field} is {shown(value)}, expected a whole number") from error
    if not 0 <= number < 2**63:
        raise BadValueError(f"{field} is {shown(value)}, expected 0 or more")
    return int(number)


_TRUE, _FALSE = {"true", "1", "yes", "1.0"}, {"false", "0", "no", "0.0"}


def truth(value: Any, field: str) -> bool | None:
    """True or false, also written as 1/0, true/false or yes/no.

    Raises:
        BadValueError: anything else.
    """
    value = _decoded(value, field)
    if value is None or value == "":
        return None
    word = str(value).strip().lower()
    if word not in _TRUE | _FALSE:
        raise BadValueError(f"{field} is {shown(value)}, expected true or false")
    return word in _TRUE
