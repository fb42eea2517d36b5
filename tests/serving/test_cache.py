"""Answers that are kept: the least recently used one leaves, and a key tells everything apart that matters."""

from __future__ import annotations

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from noterec.serving.cache import AnswerCache, key_of


@given(st.integers(0, 4), st.lists(st.tuples(st.booleans(), st.integers(0, 6)), max_size=40))
def test_it_is_a_least_recently_used_cache(entries: int, steps: list[tuple[bool, int]]) -> None:
    cache: AnswerCache[int] = AnswerCache(entries)
    model: OrderedDict[int, int] = OrderedDict()
    for number, (put, key) in enumerate(steps):
        if put:
            cache.put(bytes([key]), number)
            model.pop(key, None)
            model[key] = number
            while len(model) > entries:
                model.popitem(last=False)
        else:
            if key in model:
                model.move_to_end(key)
            assert cache.get(bytes([key])) == model.get(key)
        assert len(cache) == len(model)


def test_keys_differ_by_version_and_question_and_not_by_order() -> None:
    assert key_of("v1", {"k": 1, "where": {"a": 1, "b": [1, 2]}}) == key_of(
        "v1", {"where": {"b": [1, 2], "a": 1}, "k": 1}
    )
    keys = {
        key_of("v1", {"k": 1}),
        key_of("v2", {"k": 1}),
        key_of("v1", {"k": 2}),
        key_of("v1", {"k": "1"}),
        key_of("v1", {"k": True}),
        key_of("v1", {"k": None}),
    }
    assert len(keys) == 6


def test_clearing_forgets_all() -> None:
    cache: AnswerCache[int] = AnswerCache(3)
    cache.put(b"a", 1)
    cache.clear()
    assert cache.get(b"a") is None and len(cache) == 0
