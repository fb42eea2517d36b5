"""Balancing by category pair: by hand, against a slow count, and what must not matter."""

from __future__ import annotations

import random
from collections import defaultdict

import polars as pl
import pytest

from noterec.engagement.balance import balanced
from noterec.engagement.counting.keys import keys, mix
from noterec.errors import InputError

SCHEMA = {"anchor_id": pl.String, "related_id": pl.String, "score": pl.Float32, "rank": pl.Int32}


def pairs_of(lists):
    """A pairs table of {anchor: related notes, the strongest first}."""
    rows = [(a, b, 1 / rank, rank) for a in sorted(lists) for rank, b in enumerate(lists[a], start=1)]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def categories(**of):
    return pl.DataFrame(
        {"note_id": list(of), "category": list(of.values())}, schema={"note_id": pl.String, "category": pl.String}
    )


def random_pairs(seed, notes=40, names=("a", "b", "c/x", "c/y", " ", None)):
    rng = random.Random(seed)
    ids = [f"n{i:02d}" for i in range(notes)]
    lists = {a: rng.sample([b for b in ids if b != a], rng.randrange(1, 8)) for a in rng.sample(ids, notes - 5)}
    return pairs_of(lists), categories(**{i: rng.choice(names) for i in ids[:-3]})  # three notes aren't in it


def slowly(table, category, per_pair):
    step = {row["note_id"]: (row["category"] or "").split("/")[0].strip() for row in category.to_dicts()}
    combinations = defaultdict(list)
    hashes = mix(keys(table["anchor_id"].to_arrow()), keys(table["related_id"].to_arrow())).tolist()
    for row, hashed in zip(table.to_dicts(), hashes, strict=True):
        pair = (step.get(row["anchor_id"], ""), step.get(row["related_id"], ""))
        combinations[pair].append((row["rank"], hashed, row["anchor_id"], row["related_id"], row["score"]))
    kept = [row for rows in combinations.values() for row in sorted(rows)[:per_pair]]
    lists = defaultdict(list)
    for rank, _, anchor, related, score in kept:
        lists[anchor].append((rank, related, score))
    rows = [
        (anchor, related, score, new)
        for anchor in sorted(lists)
        for new, (_, related, score) in enumerate(sorted(lists[anchor]), start=1)
    ]
    full = sum(len(rows) > per_pair for rows in combinations.values())
    counts = {
        "pairs_beyond_balance": table.height - len(rows),
        "category_pairs": len(combinations),
        "category_pairs_full": full,
    }
    return pl.DataFrame(rows, schema=SCHEMA, orient="row"), counts


def test_lower_ranks_stay_and_ranks_count_anew():
    table = pairs_of({"a": ["x", "b", "c"], "b": ["a", "x"]})
    kept, counts = balanced(table, categories(a="Food", b="Food/Tea", c="Food", x="Art"), per_pair=1)
    # Food -> Food has a-b (rank 2), a-c (3), b-a (1): b-a stays. Food -> Art has a-x (1) and b-x (2): a-x stays.
    assert kept.select("anchor_id", "related_id", "rank").rows() == [("a", "x", 1), ("b", "a", 1)]
    assert kept.schema == table.schema
    assert counts == {"pairs_beyond_balance": 3, "category_pairs": 2, "category_pairs_full": 2}
    kept, counts = balanced(table, categories(a="Food", b="Food/Tea", c="Food", x="Art"), per_pair=2)
    assert kept.select("anchor_id", "related_id", "rank").rows() == [
        ("a", "x", 1),
        ("a", "b", 2),
        ("b", "a", 1),
        ("b", "x", 2),
    ]
    assert counts == {"pairs_beyond_balance": 1, "category_pairs": 2, "category_pairs_full": 1}


def test_directions_are_combinations_of_their_own():
    table = pairs_of({"a": ["x"], "x": ["a"]})
    kept, counts = balanced(table, categories(a="Food", x="Art"), per_pair=1)
    assert kept.equals(table)
    assert counts == {"pairs_beyond_balance": 0, "category_pairs": 2, "category_pairs_full": 0}


def test_notes_without_a_category_are_a_category():
    table = pairs_of({"a": ["x"], "b": ["x"], "c": ["x"], "x": ["a"]})
    kept, counts = balanced(table, categories(a=None, b=" ", x="Art"), per_pair=2)  # c isn't there at all
    assert counts == {"pairs_beyond_balance": 1, "category_pairs": 2, "category_pairs_full": 1}
    assert kept["anchor_id"].to_list()[-1] == "x"


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("per_pair", [1, 3, 10_000])
def test_against_a_slow_count(seed, per_pair):
    table, category = random_pairs(seed)
    kept, counts = balanced(table, category, per_pair=per_pair)
    expected, expected_counts = slowly(table, category, per_pair)
    assert kept.equals(expected)
    assert counts == expected_counts
    if per_pair == 10_000:
        assert kept.equals(table)


def test_the_order_of_rows_does_not_matter():
    table, category = random_pairs(3)
    shuffled = table.sample(fraction=1, shuffle=True, seed=1)
    assert balanced(shuffled, category.reverse(), per_pair=4)[0].equals(balanced(table, category, per_pair=4)[0])


def test_equal_ranks_are_spread_over_anchors():
    """Of 1,000 anchors in the order of their ids, those that stay come from all parts of it."""
    ids = [f"n{i:04d}" for i in range(1000)]
    table = pairs_of({a: [b] for a, b in zip(ids, ids[1:] + ids[:1], strict=True)})
    kept, _ = balanced(table, categories(**dict.fromkeys(ids, "Food")), per_pair=200)
    tenths = kept["anchor_id"].str.slice(2, 1).value_counts()["count"]
    assert len(tenths) == 10
    assert tenths.min() >= 8


def test_without_any_category_there_is_nothing_to_balance():
    with pytest.raises(InputError, match="per_category_pair=5: none of 2 notes has a category; expected"):
        balanced(pairs_of({"a": ["b"]}), categories(a=None, b="/"), per_pair=5)
