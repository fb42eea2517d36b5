"""Answers that are kept: the least recently used one leaves, and a key tells everything apart that matters."""

from __future__ import annotations

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from noterec.serving.cache import OVERHEAD_BYTES, AnswerCache, key_of
from noterec.serving.messages import SimilarRequest

STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 600)), max_size=40)


@given(st.integers(0, 2000), STEPS)
def test_it_is_a_least_recently_used_cache_of_so_many_bytes(most: int, steps: list[tuple[bool, int, int]]) -> None:
    cache = AnswerCache(most)
    model: OrderedDict[int, bytes] = OrderedDict()
    for put, key, size in steps:
        if put:
            cache.put(bytes([key]), bytes(size))
            model.pop(key, None)
            model[key] = bytes(size)
            while sum(len(answer) + OVERHEAD_BYTES for answer in model.values()) > most:
                model.popitem(last=False)
        else:
            if key in model:
                model.move_to_end(key)
            assert cache.get(bytes([key])) == model.get(key)
        assert len(cache) == len(model)


def test_keys_differ_by_version_and_question_and_not_by_order() -> None:
    def key(version: str = "v1", **question: object) -> bytes:
        return key_of(version, SimilarRequest.model_validate({"note_id": "a", **question}))

    assert key(where={"a": 1, "b": [1, 2]}) == key(where={"b": [1, 2], "a": 1})
    assert key(where={}) == key(where=[]) == key(k=10)
    notes = [{"title": "a", "images": images} for images in ([], ["x"], ["y"], ["x", "y"], ["xy"])]
    keys = [
        key(),
        key("v2"),
        key(k=2),
        key(where={"a": 1}),
        key(where={"a": "1"}),
        key(where={"a": True}),
        key(where={"a": None}),
        *(key(note_id=None, note=note) for note in notes),
    ]
    assert len(set(keys)) == len(keys)


def test_clearing_forgets_all() -> None:
    cache = AnswerCache(600)
    cache.put(b"a", b"1")
    cache.clear()
    assert cache.get(b"a") is None and len(cache) == 0
    cache.put(b"a", b"1")
    cache.put(b"b", b"2")
    assert len(cache) == 2  # what was forgotten takes no room
