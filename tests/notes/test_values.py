import datetime
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noterec.notes.importing import values


@pytest.mark.parametrize(
    ("given_value", "expected"),
    [
        (881250949, 881250949_000_000),
        ("881250949", 881250949_000_000),
        (1_700_000_000_123, 1_700_000_000_123_000),
        (1_700_000_000_123_456, 1_700_000_000_123_456),
        ("1970-01-01T00:00:01Z", 1_000_000),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-02", 86_400_000_000),
        (b"1970-01-02 00:00:00.000001", 86_400_000_001),
        (datetime.datetime(1970, 1, 1, 0, 0, 2), 2_000_000),
        (datetime.date(1970, 1, 2), 86_400_000_000),
        ("", None),
        (None, None),
    ],
)
def test_times_by_hand(given_value: object, expected: int | None) -> None:
    assert values.microseconds(given_value, "t") == expected


@pytest.mark.parametrize("bad", ["yesterday", True, [1], float("nan"), float("inf"), 1e30, "1e400", {"a": 1}])
def test_bad_times_are_refused(bad: object) -> None:
    with pytest.raises(values.BadValueError, match="t "):
        values.microseconds(bad, "t")


def test_text_is_nfc_and_free_of_what_breaks_later() -> None:
    assert values.text("cafe\u0301", "title") == "café"
    assert values.text("a\x00b\ud800c", "title") == "a b\ufffdc"
    assert values.text("two\nlines\tkept", "title") == "two\nlines\tkept"
    assert values.text(1984, "title") == "1984"
    assert values.text("  ", "title") is None


@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=50))
def test_any_text_becomes_encodable_normal_text(raw: str) -> None:
    cleaned = values.text(raw, "content")
    if cleaned is not None:
        assert "\x00" not in cleaned
        assert cleaned.encode("utf-8").decode("utf-8") == unicodedata.normalize("NFC", cleaned)


@given(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(exclude_categories=())), st.binary()
    )
)
def test_no_value_escapes_as_another_error(raw: object) -> None:
    for convert in (values.identifier, values.text, values.microseconds, values.whole_number, values.truth):
        try:
            convert(raw, "field")
        except values.BadValueError as error:
            str(error).encode("utf-8")  # a reason must itself be storable


@pytest.mark.parametrize(("raw", "expected"), [("7", "7"), (7, "7"), (" 7", " 7"), (b"x", "x")])
def test_ids_stay_as_they_are(raw: object, expected: str) -> None:
    assert values.identifier(raw, "note_id") == expected


@pytest.mark.parametrize("bad", [None, "", "  ", 1.0, True, [1], "a\x00", "\ud800", b"\xff"])
def test_bad_ids_are_refused(bad: object) -> None:
    with pytest.raises(values.BadValueError, match="note_id"):
        values.identifier(bad, "note_id")


@pytest.mark.parametrize(
    ("raw", "separator", "expected"),
    [
        ("a,b, c", None, ["a", "b", "c"]),
        ("a|b|a", None, ["a", "b"]),
        ("#one #two words #three", None, ["one", "two words", "three"]),
        ("3M, Inc.", "", ["3M, Inc."]),
        ("a;b,c", ";", ["a", "b,c"]),
        (["#x", "", None, "y"], None, ["x", "y"]),
        ("", None, None),
    ],
)
def test_hashtags_by_hand(raw: object, separator: str | None, expected: list[str] | None) -> None:
    assert values.hashtags(raw, separator) == expected


def test_numbers_and_truths() -> None:
    assert values.whole_number("12", "exposure") == 12
    assert values.whole_number(3.0, "exposure") == 3
    for bad in ("1.5", -1, True, "many", 1e300):
        with pytest.raises(values.BadValueError):
            values.whole_number(bad, "exposure")
    assert [values.truth(v, "deleted") for v in (True, "0", b"yes", "")] == [True, False, True, None]
    with pytest.raises(values.BadValueError):
        values.truth("perhaps", "deleted")


def test_images_of_all_shapes() -> None:
    assert values.images("a.jpg") == [{"bytes": None, "path": "a.jpg"}]
    assert values.images([b"\x89", {"bytes": None, "path": "b"}]) == [
        {"bytes": b"\x89", "path": None},
        {"bytes": None, "path": "b"},
    ]
    with pytest.raises(values.BadValueError):
        values.images([{"bytes": None, "path": None}])
