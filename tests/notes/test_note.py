"""Notes as Python objects, and the hash that says whether a vector is still good."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noterec.errors import InputError
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


def test_texts_have_no_nulls() -> None:
    assert texts(as_table([{"hashtags": ["a", None, ""]}, Note(title="t")])) == [("", ["a"], ""), ("t", [], "")]


def test_has_text() -> None:
    notes = [Note(), Note(title=" \u3000"), Note(hashtags=[" "]), Note(content="x"), Note(hashtags=["", "x"])]
    assert has_text(as_table(notes)).tolist() == [False, False, False, True, True]
    assert has_text(as_table([])).dtype == np.bool_


def test_note_ids_must_be_there_where_the_column_is() -> None:
    import pyarrow as pa

    with pytest.raises(InputError, match="1 of 2 rows have no note_id"):
        as_table(pa.table({"note_id": ["a", None]}))
