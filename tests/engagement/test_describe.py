"""What is said of a table of pairs: by hand, against slow counts, and on tables of other makers."""

from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter, defaultdict

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from noterec import storage
from noterec.engagement.counting.keys import DatasetNotes
from noterec.engagement.describing.advice import suggestions, verdict
from noterec.engagement.describing.describe import QUANTILES, describe_pairs
from noterec.engagement.describing.description import Agreement, Coverage, Popularity, Scores
from noterec.engagement.reach import people_per_note
from noterec.engagement.table import write_pairs
from noterec.errors import InputError
from noterec.notes.dataset import Dataset
from tests.engagement.logs import make_dataset, note_ids, random_events


def write(path, rows, origin=None):
    """A pairs table of (anchor, related, score, rank)."""
    columns = {"anchor_id": pl.String, "related_id": pl.String, "score": pl.Float32, "rank": pl.Int32}
    write_pairs(pl.DataFrame(rows, schema=columns, orient="row"), path, origin=origin or {})
    return path


# ---- people per note -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("events_at_once", [7, 50, 10_000])
def test_people_are_counted_once_however_often_the_log_is_read(tmp_path, events_at_once):
    events = [
        *random_events(5, users=40, notes=20, events=600),
        ("u00", "gone", 1, "click"),
        ("u01", "n19", 1, "impression"),
    ]
    data = Dataset(make_dataset(tmp_path / "d", note_ids(22), events))
    people = defaultdict(set)
    for user, note, _, action in events:
        if action == "click":
            people[note].add(user)
    counts = people_per_note(data, DatasetNotes(data.note_ids), events_at_once=events_at_once)
    assert counts.tolist() == [len(people[note]) for note in note_ids(22)]


# ---- by hand ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path):
    """People per note: a 3, b 2, c 1, d 1, e 2, f 0 (only viewed)."""
    events = [("u1", "a"), ("u2", "a"), ("u3", "a"), ("u1", "b"), ("u2", "b"), ("u1", "c"), ("u9", "d"), ("u8", "e")]
    events += [("u7", "e"), ("u1", "a", 5, "like"), ("u1", "f", 5, "view")]
    folder = make_dataset(
        tmp_path / "d",
        "abcdef",
        events,
        created=[0, 1, 4, None, 0, 0],
        category=["Food/Tea", "Food", "Art", None, "Art", ""],
        author_id=["x", "x", "y", "y", None, None],
    )
    rows = [("a", "b", 0.9, 1), ("a", "c", 0.5, 2), ("b", "a", 0.8, 1), ("c", "a", 0.25, 1)]
    return folder, write(tmp_path / "p.parquet", rows, {"config": {"weighting": "cosine", "top": 2}})


def test_every_figure_by_hand(small):
    found = describe_pairs(*small)
    assert found.settings == {"weighting": "cosine", "top": 2}
    assert (found.pairs, found.unknown, found.repeated) == (4, 0, 0)
    assert found.coverage == Coverage(
        notes=6,
        anchors=3,
        without_engagement=1,
        with_one_person=1,
        with_more_people=1,
        related=3,
        anchors_by_related={"1": 2, "2": 1},
    )
    assert found.symmetric == 1.0  # a-b and b-a, a-c and c-a
    assert {rank: of[0.5] for rank, of in found.scores.by_rank.items()} == pytest.approx(
        {"1": 0.8, "2": 0.5, "all": 0.65}
    )
    assert found.scores.tied == 0.0
    # The first 1 % and 10 % of six notes are one note: a, with 3 of the 9 engagements; it takes 2 of the 4 places.
    for top in found.popularity.top:
        assert (top.notes, top.least_people, top.of_engagement, top.of_related) == (1, 3, 3 / 9, 0.5)
    assert found.popularity.people["notes"][0.5] == 1.5
    assert found.popularity.people["anchors"][0.5] == 2.0
    assert found.popularity.people["related"][0.5] == 2.5
    assert (found.popularity.recall_at_10, found.popularity.chance) == (1.0, 1.0)  # a list of ten is everything here
    assert found.category == Agreement(4, 0, same=0.5, chance=10 / 16, commonest=("Food", "Food"), of_known=0.5)
    assert found.author == Agreement(4, 0, same=0.5, chance=10 / 16)
    assert (found.age.known, found.age.days, found.age.older) == (4, 2.5, 0.5)


def test_chance_is_what_shuffling_gives(tmp_path):
    rng = random.Random(2)
    ids = note_ids(30)
    category = [rng.choice(["x", "x", "y/1", "y/2", "z", None]) for _ in ids]
    rows = [(a, b, 1.0, r) for a in ids for r, b in enumerate(rng.sample([i for i in ids if i != a], 5), 1)]
    folder = make_dataset(tmp_path / "d", ids, random_events(1, notes=30), category=category)
    found = describe_pairs(folder, write(tmp_path / "p", rows)).category
    step = {i: None if c is None else c.split("/")[0] for i, c in zip(ids, category, strict=True)}
    known = [(step[a], step[b]) for a, b, *_ in rows if step[a] and step[b]]
    assert (found.known, found.unknown) == (len(known), len(rows) - len(known))
    assert found.same == pytest.approx(sum(a == b for a, b in known) / len(known))
    left, right = [a for a, _ in known], [b for _, b in known]
    shuffles = [
        np.mean([a == b for a, b in zip(left, rng.sample(right, len(right)), strict=True)]) for _ in range(2000)
    ]
    assert found.chance == pytest.approx(np.mean(shuffles), abs=0.004)
    combinations = Counter(known)
    assert combinations[found.commonest] == max(combinations.values())
    assert found.of_known == pytest.approx(max(combinations.values()) / len(known))


@pytest.mark.parametrize("seed", range(4))
def test_popularity_and_scores_against_slow_counts(tmp_path, seed):
    rng = random.Random(seed)
    ids = note_ids(40)
    events = random_events(seed, users=60, notes=38, events=900)
    rows = []
    for a in rng.sample(ids, 30):
        related = rng.sample([i for i in ids if i != a], rng.randrange(1, 13))
        rows += [
            (a, b, score, r)
            for r, (b, score) in enumerate(
                zip(related, sorted((rng.random() for _ in related), reverse=True), strict=True), 1
            )
        ]
    found = describe_pairs(make_dataset(tmp_path / "d", ids, events), write(tmp_path / "p", rows))

    people = {i: len({u for u, n, _, action in events if n == i and action == "click"}) for i in ids}
    popular = sorted(ids, key=lambda i: (-people[i], i))
    lists = defaultdict(list)
    for a, b, *_ in rows:
        lists[a].append(b)
    recall = []
    for a, related in lists.items():
        shown = [i for i in popular if i != a][:10]
        recall.append(len(set(shown) & set(related)) / len(related))
    assert found.popularity.recall_at_10 == pytest.approx(np.mean(recall))
    assert found.popularity.chance == 10 / 39
    top = found.popularity.top[1]
    assert top.notes == 4
    assert top.least_people == people[popular[3]]
    assert top.of_related == pytest.approx(np.mean([b in popular[:4] for _, b, *_ in rows]))
    assert top.of_engagement == pytest.approx(sum(people[i] for i in popular[:4]) / sum(people.values()))
    places = np.quantile([people[b] for _, b, *_ in rows], QUANTILES)
    assert list(found.popularity.people["related"].values()) == pytest.approx(places.tolist())

    longest = max(map(len, lists.values()))
    assert list(found.scores.by_rank) == [*dict.fromkeys(["1", "5", "10", str(longest)]), "all"]
    for rank, of in found.scores.by_rank.items():
        scores = [np.float32(score) for _, _, score, r in rows if rank in ("all", str(r))]
        assert list(of.values()) == pytest.approx(np.quantile(scores, QUANTILES).tolist())
    pairs = {(a, b) for a, b, *_ in rows}
    assert found.symmetric == pytest.approx(np.mean([(b, a) in pairs for a, b in pairs]))
    assert sum(found.coverage.anchors_by_related.values()) == found.coverage.anchors == 30
    assert found.coverage.anchors_by_related["1"] == sum(len(related) == 1 for related in lists.values())
    assert found.coverage.anchors_by_related[str(longest)] == sum(len(related) == longest for related in lists.values())


def test_ties_at_the_end_of_the_longest_lists(tmp_path):
    rows = [("n00", "n01", 2.0, 1), ("n00", "n02", 1.0, 2), ("n00", "n03", 1.0, 3)]
    rows += [
        ("n01", "n02", 3.0, 1),
        ("n01", "n03", 3.0, 2),
        ("n01", "n04", 1.0, 3),
        ("n02", "n03", 1.0, 1),
        ("n02", "n01", 1.0, 2),
    ]
    folder = make_dataset(tmp_path / "d", note_ids(5), random_events(1, notes=5))
    assert describe_pairs(folder, write(tmp_path / "p", rows)).scores.tied == 0.5


# ---- tables of other makers ------------------------------------------------------------------------------------------


def test_a_table_of_two_columns(tmp_path):
    folder = make_dataset(tmp_path / "d", note_ids(6), random_events(1, notes=6))
    table = pa.table({"anchor_id": ["n01", "n00", "n01", "n01"], "related_id": ["n02", "n01", "n00", "n02"]})
    storage.write_table(table, tmp_path / "p.parquet")
    found = describe_pairs(folder, tmp_path / "p.parquet")
    assert (found.settings, found.pairs, found.repeated) == ({}, 3, 1)
    assert found.scores == Scores({}, None)
    lists = {line.note_id: [note.note_id for note in line.related] for line in found.sample}
    assert lists == {"n00": ["n01"], "n01": ["n02", "n00"]}  # in the order of the file
    assert all(note.score is None for line in found.sample for note in line.related)


def test_a_table_without_ranks_is_read_by_score(tmp_path):
    folder = make_dataset(tmp_path / "d", note_ids(6), random_events(1, notes=6))
    table = pa.table(
        {"anchor_id": ["n00"] * 4, "related_id": ["n01", "n02", "n03", "n04"], "score": [0.1, float("nan"), 0.9, None]}
    )
    storage.write_table(table, tmp_path / "p.parquet")
    found = describe_pairs(folder, tmp_path / "p.parquet")
    assert [note.note_id for note in found.sample[0].related] == ["n03", "n01", "n02"]
    assert found.scores.by_rank["all"][0.5] == pytest.approx(0.5)


def test_pairs_of_another_dataset_are_refused_and_a_few_are_counted(tmp_path):
    ids = note_ids(40)
    folder = make_dataset(tmp_path / "d", ids, random_events(1, notes=40))
    rows = [(a, b, 1.0, 1) for a, b in zip(ids, ids[1:] + ids[:1], strict=True)]
    assert describe_pairs(folder, write(tmp_path / "p", [*rows, ("n00", "gone", 0.5, 2)])).unknown == 1
    with pytest.raises(InputError, match="name notes that are not in the dataset"):
        describe_pairs(folder, write(tmp_path / "q", [("x", "y", 1.0, 1)]))


def test_a_log_without_engagement_is_refused(tmp_path):
    folder = make_dataset(tmp_path / "d", "ab", [("u", "a", 1, "view"), ("u", "z", 1, "click")])
    with pytest.raises(InputError, match="nobody engaged with any of its notes; expected the log"):
        describe_pairs(folder, write(tmp_path / "p", [("a", "b", 1.0, 1)]))


# ---- the sample ------------------------------------------------------------------------------------------------------


def test_the_sample_follows_its_seed(tmp_path):
    ids = note_ids(30)
    rows = [(a, b, 1.0 / r, r) for a in ids for r, b in enumerate([i for i in ids if i != a][:5], 1)]
    folder = make_dataset(tmp_path / "d", ids, random_events(1, notes=30))
    path = write(tmp_path / "p", rows)
    drawn = [[line.note_id for line in describe_pairs(folder, path, sample=4, seed=seed).sample] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] == sorted(drawn[0])
    assert len(drawn[0]) == 4
    first = describe_pairs(folder, path, sample=4).sample[0]
    assert first.title == f"title of {first.note_id}"
    assert [note.score for note in first.related] == pytest.approx([1, 1 / 2, 1 / 3])
    assert len(describe_pairs(folder, path, sample=99).sample) == 30
    assert describe_pairs(folder, path, sample=0).sample == ()
    with pytest.raises(InputError, match="sample=-1; expected"):
        describe_pairs(folder, path, sample=-1)
    with pytest.raises(InputError, match="seed=-1; expected"):
        describe_pairs(folder, path, seed=-1)


def test_a_description_is_json(small):
    record = json.loads(json.dumps(dataclasses.asdict(describe_pairs(*small))))
    assert record["coverage"]["anchors"] == 3
    assert record["sample"][0]["related"][0]["note_id"] == "b"


# ---- what is said of the figures -------------------------------------------------------------------------------------


def popularity(recall=0.01, chance=0.001, anchors=20.0, related=20.0):
    return Popularity((), {"anchors": {0.5: anchors}, "related": {0.5: related}}, recall, chance, "")


WELL = Coverage(100, 90, 5, 3, 2, 80, {"1": 5, "2-4": 5, "5-9": 5, "10": 75})
FINE = Scores({"1": {0.5: 0.5}, "5": {0.5: 0.3}, "10": {0.5: 0.25}, "all": {0.5: 0.3}}, 0.05)


def said(settings=None, coverage=WELL, scores=FINE, popular=None, category=None, author=None):
    return " | ".join(suggestions(settings or {}, coverage, scores, popular or popularity(), category, author))


def test_nothing_is_said_where_nothing_speaks_for_it():
    agreement = Agreement(90, 10, same=0.4, chance=0.1, commonest=("Food", "Food"), of_known=0.2)
    assert said(category=agreement, author=Agreement(100, 0, same=0.02, chance=0.01)) == ""
    few = dataclasses.replace(WELL, anchors_by_related={"1": 82, "2": 8})
    assert said(popular=popularity(0.15)) == ""  # training on such pairs gained by it
    assert said(coverage=few, scores=Scores(FINE.by_rank, 1.0)) == ""  # hardly a list is cut, so ties decide little


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (dict(popular=popularity(0.25)), "25% of what is related: try weighting cosine"),
        (dict(popular=popularity(0.25), settings={"weighting": "cosine"}), "try weighting lift or npmi"),
        (dict(popular=popularity(related=3)), "3 people or fewer"),
        (dict(scores=Scores(FINE.by_rank, 0.6)), "60% of the longest lists are equal"),
        (dict(scores=Scores(FINE.by_rank | {"10": {0.5: 0.4}}, 0.0)), "still 80% of the first: try a higher top"),
        (dict(scores=Scores(FINE.by_rank | {"10": {0.5: 0.02}}, 0.0)), "or the bound lower=0.02"),
        (dict(coverage=dataclasses.replace(WELL, with_more_people=40)), "40% of the notes have several people"),
        (dict(category=Agreement(90, 10, same=0.11, chance=0.1)), "chance alone gives 10%"),
        (dict(category=Agreement(90, 10, 0.5, 0.1, ("a", "b"), 0.4)), "per_category_pair"),
        (dict(author=Agreement(90, 10, same=0.5, chance=0.01)), "50% of the pairs are by one author (chance: 1.0%)"),
    ],
)
def test_a_figure_out_of_line_is_named(given, expected):
    assert expected in said(**given)
    assert " | " not in said(**given)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "lower min_support or widen the bounds or bring a longer log"),
        ({"weighting": "cosine", "min_support": 2}, "lower min_support or bring a longer log"),
        ({"weighting": "cosine", "min_support": 1, "lower": 0.1}, "related: widen the bounds or bring a longer log"),
        ({"weighting": "pmi", "min_support": 1}, "related: widen the bounds or bring a longer log"),
        ({"weighting": "cosine", "min_support": 1}, "related: bring a longer log"),
    ],
)
def test_only_what_the_settings_leave_open_is_advised(settings, expected):
    left_out = dataclasses.replace(WELL, with_more_people=40)
    assert said(coverage=left_out, settings=settings).endswith(expected)


def test_the_verdict_is_about_popularity_beyond_chance():
    assert verdict(0.2, 0.006).startswith(
        "Related is to a good part just popular: the ten most popular notes are 20.0% "
    )
    assert verdict(0.05, 0.006).startswith("Popularity plays a part")
    assert verdict(0.01, 0.0004) == (
        "Related is not just popular: the ten most popular notes are 1.0% of what is related, ten random ones would be 0.04%."
    )
    assert verdict(0.87, 0.53).startswith("Related is to a good part just popular")
    assert verdict(1.0, 1.0).startswith("Related is not just popular")
    assert verdict(0.35, 0.33).startswith("Related is not just popular")  # so few notes that any ten find that


def test_days_apart_beside_chance(tmp_path):
    """Notes come in two seasons, and are related within theirs."""
    ids = note_ids(40)
    created = [i if i < 20 else 400 + i for i in range(40)]
    rows = [(ids[i], ids[j], 1.0, 1) for i in range(40) for j in [i + 1 if (i + 1) % 20 else i - 1]]
    found = describe_pairs(
        make_dataset(tmp_path / "d", ids, random_events(1, notes=40), created=created), write(tmp_path / "p", rows)
    )
    assert found.age.days == 1
    assert found.age.chance > 5
    assert found.age.older == 2 / 40
