"""Notes as Python objects, and the hash that says whether a vector is still good."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noterec.errors import InputError
from noterec.notes import note
from noterec.notes.note import Note, as_table, content_hashes, has_text, texts


def one_hash(**fields: Any) -> int:
    return int(content_hashes(as_table([fields]))[0])


def test_the_hash_is_the_same_on_every_machine() -> None:
    digest = hashlib.blake2b(digest_size=8)
    for part in (b"Cold brew", "手冲".encode(), b"coffee"):  # title, content, hashtags, each behind its length
        digest.update(len(part).to_bytes(8, "little") + part)
    assert one_hash(title="Cold brew", hashtags=["coffee"], content="手冲") == 7783268363911793980
    assert int.from_bytes(digest.digest(), "little") == 7783268363911793980


def test_the_hash_follows_what_is_read_and_nothing_else() -> None:
    base = dict(title="a", hashtags=["b", "c"], content="d")
    assert one_hash(**base) == one_hash(**base, category="x", author_id="y", note_id="z")
    changes: list[dict[str, Any]] = [{"title": "A"}, {"hashtags": ["c", "b"]}, {"hashtags": ["b"]}, {"content": "dd"}]
    assert len({one_hash(**{**base, **change}) for change in [{}, *changes]}) == 5
    assert one_hash(title="a", content=None) == one_hash(title="a", content="", hashtags=[])


@given(
    st.text("ab", max_size=3), st.lists(st.text("ab", min_size=1, max_size=2), max_size=3), st.text("ab", max_size=3)
)
def test_no_text_moves_from_one_field_to_the_next(title: str, tags: list[str], content: str) -> None:
    hashed = one_hash(title=title, hashtags=tags, content=content)
    if title != content:
        assert hashed != one_hash(title=content, hashtags=tags, content=title)
    if tags:
        assert hashed != one_hash(title=title, hashtags=tags[1:], content=content + tags[0])


PIECE = st.none() | st.text(max_size=4) | st.sampled_from([" ", "\u3000", "\x1c", "\u200b", "\x00", "手冲" * 50])
FIELDS = st.fixed_dictionaries({"title": PIECE, "content": PIECE, "hashtags": st.none() | st.lists(PIECE, max_size=3)})


@settings(max_examples=60, deadline=None)
@given(
    st.lists(FIELDS, max_size=8),
    st.integers(0, 3),
    st.integers(1, 5),
    st.lists(st.integers(0, 2), min_size=24, max_size=24),
)
def test_hashes_and_has_text_are_those_of_notes_one_by_one(
    notes: list[dict[str, Any]], start: int, batch_rows: int, pictures: list[int]
) -> None:
    """Whatever nulls, chunks and slices the table has, and however it is cut into batches."""
    table = as_table([{"title": "x"}, *notes]).slice(1)
    table = pa.concat_tables([table, table.slice(len(notes) // 2), table]).slice(start)
    stamps = [[b"stamp"] * count for count in pictures[: table.num_rows]]
    expected = {True: [], False: []}  # type: dict[bool, list[int]]
    for (title, tags, content), stamp in zip(texts(table), stamps, strict=True):
        parts = b"".join(len(p.encode()).to_bytes(8, "little") + p.encode() for p in (title, content, *tags))
        seen = b"images" + b"".join(len(s).to_bytes(8, "little") + s for s in stamp) if stamp else b""
        for with_stamps in (True, False):
            digest = hashlib.blake2b((seen if with_stamps else b"") + parts, digest_size=8).digest()
            expected[with_stamps].append(int.from_bytes(digest, "little"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(note, "BATCH_ROWS", batch_rows)
        assert content_hashes(table).tolist() == expected[False]
        assert content_hashes(table, stamps).tolist() == expected[True]
        says = [bool(t.strip() or c.strip() or any(tag.strip() for tag in tags)) for t, tags, c in texts(table)]
        assert has_text(table).tolist() == says


def test_white_space_is_what_python_takes_for_it() -> None:
    characters = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    some = has_text(as_table(pa.table({"note_id": ["x"] * len(characters), "title": characters})))
    assert some.tolist() == [bool(character.strip()) for character in characters]


def test_texts_have_no_nulls() -> None:
    assert texts(as_table([{"hashtags": ["a", None, ""]}, Note(title="t")])) == [("", ["a"], ""), ("t", [], "")]


def test_has_text() -> None:
    notes = [Note(), Note(title=" \u3000"), Note(hashtags=[" "]), Note(content="x"), Note(hashtags=["", "x"])]
    assert has_text(as_table(notes)).tolist() == [False, False, False, True, True]
    assert has_text(as_table([])).dtype == np.bool_


def test_note_ids_must_be_there_where_the_column_is() -> None:
    with pytest.raises(InputError, match="1 of 2 rows have no note_id"):
        as_table(pa.table({"note_id": ["a", None]}))
