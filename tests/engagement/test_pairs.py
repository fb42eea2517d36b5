"""Pairs by hand, against a sparse-matrix product and a brute-force count, and on bad logs."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from noterec import schema, storage
from noterec.config import PairsConfig
from noterec.engagement.counting import events, histories, mining
from noterec.engagement.counting.compiled import interruptible
from noterec.engagement.counting.keys import NoteCodes, keys
from noterec.engagement.counting.log import Log
from noterec.engagement.counting.searching import Search
from noterec.engagement.counting.walking import Rule
from noterec.engagement.pairs import pairs, relevant
from noterec.engagement.table import load_pairs
from noterec.errors import InputError
from noterec.notes.dataset import Dataset
from tests.engagement.logs import as_dict, make_dataset, note_ids, random_events


def mine(folder, tmp_path, **config):
    summary = pairs(folder, out=tmp_path / "pairs.parquet", config=PairsConfig(**config))
    table = pl.DataFrame(storage.read_table(tmp_path / "pairs.parquet", schema.PAIRS))
    assert summary.pairs == table.height
    return summary, as_dict(table), table


# ---- by hand ---------------------------------------------------------------------------------------------------------


def test_directional_score_by_hand(tmp_path):
    """Ann views a, clicks b, then c: N = 2. Bob clicks c and b at the same minute: N = 2. Cat clicks b, then only views a."""
    events = [
        ("ann", "a", 1, "view"),
        ("ann", "b", 2, "click"),
        ("ann", "c", 3, "click"),
        ("bob", "c", 5, "click"),
        ("bob", "b", 5, "click"),
        ("cat", "b", 7, "click"),
        ("cat", "a", 8, "view"),
        ("dan", "a", 1, "impression"),
        ("dan", "b", 2, "click"),
    ]
    folder = make_dataset(tmp_path / "d", "abc", events)
    summary, score, _ = mine(folder, tmp_path, weighting="notellm", min_support=1)
    assert score == {("a", "b"): 0.5, ("a", "c"): 0.5, ("b", "c"): 1.0, ("c", "b"): 0.5}
    assert summary.events_not_engaged == 1  # Dan's impression: he never saw a
    _, score, _ = mine(folder, tmp_path, weighting="notellm", min_support=2)
    assert score == {("b", "c"): 1.0}


def test_some_view_before_some_engagement_is_enough(tmp_path):
    """First view of a (1) is before the last engagement with b (9), and first view of b (2) before a's last (3)."""
    events = [("u", "a", 1, "view"), ("u", "b", 2), ("u", "a", 3), ("u", "b", 9)]
    _, score, _ = mine(make_dataset(tmp_path / "d", "ab", events), tmp_path, weighting="notellm", min_support=1)
    assert score == {("a", "b"): 0.5, ("b", "a"): 0.5}


def test_a_log_without_clock_counts_both_directions(tmp_path):
    events = [("u", "a", None, "view"), ("u", "b", None), ("u", "c", None)]
    folder = make_dataset(tmp_path / "d", "abc", events, clock="none")
    _, score, _ = mine(folder, tmp_path, weighting="notellm", min_support=1)
    assert score == {("a", "b"): 0.5, ("a", "c"): 0.5, ("b", "c"): 0.5, ("c", "b"): 0.5}  # a was never engaged with


def test_symmetric_weightings_by_hand(tmp_path):
    """a: ann bob cat, b: ann bob, c: cat dan; dan's second click on c and his view of a change nothing."""
    events = [("ann", "a"), ("bob", "a"), ("cat", "a"), ("ann", "b"), ("bob", "b"), ("cat", "c"), ("dan", "c")]
    events = [(*event, 1) for event in events] + [("dan", "c", 2), ("dan", "a", 3, "view")]
    folder = make_dataset(tmp_path / "d", "abc", events)
    both = lambda ab, ac: {("a", "b"): ab, ("b", "a"): ab, ("a", "c"): ac, ("c", "a"): ac}  # noqa: E731
    assert mine(folder, tmp_path, weighting="count", min_support=1)[1] == both(2, 1)
    cosine = both(2 / math.sqrt(6), 1 / math.sqrt(6))
    assert mine(folder, tmp_path, weighting="cosine", min_support=1)[1] == pytest.approx(cosine)
    assert mine(folder, tmp_path, weighting="lift", min_support=1)[1] == pytest.approx(both(8 / 6, 4 / 6))
    assert mine(folder, tmp_path, weighting="count", min_support=2)[1] == {("a", "b"): 2, ("b", "a"): 2}


def test_ties_go_to_the_lower_id_and_ranks_start_at_one(tmp_path):
    events = [(user, note, 1) for user in "uv" for note in "dcba"]
    _, _, table = mine(make_dataset(tmp_path / "d", "dcba", events), tmp_path, top=2)
    assert table.rows() == [
        ("a", "b", 1.0, 1), ("a", "c", 1.0, 2), ("b", "a", 1.0, 1), ("b", "c", 1.0, 2),
        ("c", "a", 1.0, 1), ("c", "b", 1.0, 2), ("d", "a", 1.0, 1), ("d", "b", 1.0, 2),
    ]  # fmt: skip


def test_bounds_are_inclusive_and_survive_rounding(tmp_path):
    """Ten people with a hundred clicks each give 0.1, the sum of ten times 0.01, which isn't exact in binary."""
    ids = [f"n{i:03d}" for i in range(100)]
    events = [(f"u{u}", note, 1) for u in range(10) for note in ids]
    folder = make_dataset(tmp_path / "d", ids, events)
    summary, score, _ = mine(folder, tmp_path, weighting="notellm", lower=0.1, upper=0.1)
    assert len(score) == 1000
    assert summary.pairs_beyond_top == 8900
    with pytest.raises(InputError, match=r"no related pair is left.*9900 out of bounds"):
        mine(folder, tmp_path, weighting="notellm", lower=0.11)


def test_default_bounds_are_the_papers(tmp_path):
    ids = [f"n{i:03d}" for i in range(101)]
    folder = make_dataset(tmp_path / "d", ids, [("u", note, 1) for note in ids])
    with pytest.raises(InputError, match="10100 out of bounds"):  # 1/101 < 0.01
        mine(folder, tmp_path, weighting="notellm", min_support=1)
    folder = make_dataset(tmp_path / "e", "abc", [(f"u{i}", note, 1) for i in range(61) for note in "ab"])
    with pytest.raises(InputError, match="2 out of bounds"):  # 61 / 2 > 30
        mine(folder, tmp_path, weighting="notellm")
    assert mine(folder, tmp_path, weighting="count")[0].pairs == 2  # no bounds for the others


# ---- oracles ---------------------------------------------------------------------------------------------------------


def engaged_matrix(events, notes):
    users = sorted({event[0] for event in events})
    matrix = np.zeros((len(users), notes))
    for user, note, _, action in events:
        if action != "view":
            matrix[users.index(user), int(note[1:])] = 1
    return sparse.csr_matrix(matrix)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("oracle")


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 6))
def test_symmetric_weightings_agree_with_a_sparse_product(scratch, seed, min_support, top):
    events = random_events(seed)
    folder = make_dataset(scratch / "d", note_ids(20), events)
    matrix = engaged_matrix(events, 20)
    shared = (matrix.T @ matrix).toarray()
    people = shared.diagonal()
    users = int((matrix.sum(axis=1) > 0).sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = {
            "count": shared,
            "cosine": shared / np.sqrt(np.outer(people, people)),
            "lift": shared * users / np.outer(people, people),
        }
    for weighting, scores in expected.items():
        _, _, table = mine(folder, scratch, weighting=weighting, min_support=min_support, top=top)
        wanted = []
        for a in range(20):
            row = [(-np.float32(scores[a, b]), b) for b in range(20) if b != a and shared[a, b] >= min_support]
            wanted += [(f"n{a:02d}", f"n{b:02d}", -s, r) for r, (s, b) in enumerate(sorted(row)[:top], 1)]
        assert table.rows() == wanted


def brute_force_directional(events):
    """Every pair of events, as the definition reads."""
    by_user = defaultdict(list)
    for event in events:
        by_user[event[0]].append(event[1:])
    score, support = defaultdict(float), defaultdict(int)
    for history in by_user.values():
        clicked = {note for note, _, action in history if action != "view"}
        found = {(a, b) for a, t, _ in history for b, s, action in history if action != "view" and t <= s and a != b}
        for pair in found:
            score[pair] += 1 / len(clicked)
            support[pair] += 1
    return score, support


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_directional_score_agrees_with_the_definition(scratch, seed, min_support):
    events = random_events(seed)
    folder = make_dataset(scratch / "d", note_ids(20), events)
    _, found, _ = mine(folder, scratch, weighting="notellm", min_support=min_support, top=100)
    score, support = brute_force_directional(events)
    assert found == pytest.approx({pair: s for pair, s in score.items() if support[pair] >= min_support}, rel=1e-6)


@pytest.mark.parametrize("weighting", ["notellm", "count", "cosine", "lift", "pmi", "npmi"])
@pytest.mark.parametrize("memory", [1, 500, 20_000])
def test_little_memory_gives_the_same_pairs(tmp_path, weighting, memory):
    """Many parts and groups of people, whose sums go through a file and come together again."""
    folder = make_dataset(tmp_path / "d", note_ids(20), random_events(3, events=600))
    summary, _, whole = mine(folder, tmp_path, weighting=weighting)
    again, _, pieces = mine(folder, tmp_path, weighting=weighting, memory=memory)
    assert again == summary
    assert pieces.equals(whole)


@pytest.mark.parametrize("memory", [5_000, 1_000_000_000])
def test_people_beyond_what_one_group_can_number_are_counted_in_the_next(tmp_path, monkeypatch, memory):
    folder = make_dataset(tmp_path / "d", note_ids(20), random_events(3, events=600))
    summary, _, whole = mine(folder, tmp_path)
    for module in (histories, mining, events):
        monkeypatch.setattr(module, "MOST_ROWS", 150)
    again, _, pieces = mine(folder, tmp_path, memory=memory)
    assert again == summary
    assert pieces.equals(whole)
    monkeypatch.setattr(histories, "MOST_ROWS", 20)
    with pytest.raises(InputError, match="events of one part of the people; expected at most 20"):
        mine(folder, tmp_path)


def test_people_with_one_note_count_but_take_no_room(tmp_path):
    events = [(u, n, 1) for u in "uvw" for n in "ab"] + [(f"s{i}", "a", 1) for i in range(13)]
    data = Dataset(make_dataset(tmp_path / "d", "ab", events))
    summary, score, _ = mine(data.path, tmp_path)
    assert summary.users == 16
    assert score == pytest.approx({("a", "b"): 3 / math.sqrt(16 * 3), ("b", "a"): 3 / math.sqrt(16 * 3)})
    notes, tally = NoteCodes(keys(pa.array(["a", "b"]))), histories.Tally(np.zeros(2))
    builder = histories.HistoryBuilder(notes, len(events), histories.Rules(False, 0.0), tally)
    codes = np.array([ord(n) - ord("a") for _, n, _ in events])
    moments, clicks = np.zeros(len(events), np.int64), np.full(len(events), 2, np.uint8)
    builder.add(histories.Events(keys(pa.array([u for u, _, _ in events])), codes, moments, clicks))
    assert len(builder.build().share) == 3


def test_any_top_is_as_good_as_all(tmp_path):
    folder = make_dataset(tmp_path / "d", note_ids(20), random_events(3, events=600))
    assert mine(folder, tmp_path, top=10**12)[2].equals(mine(folder, tmp_path, top=20)[2])


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["work", "take"])
def test_after_an_error_no_block_is_begun_and_none_runs_on(error, where):
    search = Search(100, Rule(0, 1, np.float32(0), np.float32(1), 1), 10**9, "test")
    search.threads = 2
    begun, ended = [], []

    def work(block, space):
        begun.append(block)
        time.sleep(0.02)
        if where == "work" and block == (3, 4):
            raise error
        ended.append(block)
        return block

    def take(block, result):
        assert block == result == (len(taken), len(taken) + 1)
        taken.append(block)
        if where == "take" and block == (3, 4):
            raise error

    taken = []
    with pytest.raises(error):
        search.over([(i, i + 1) for i in range(100)], None, work, take)
    assert len(taken) in (3, 4)
    assert len(begun) < 10
    assert len(ended) >= len(begun) - 1
    begun.clear()
    time.sleep(0.05)
    assert not begun


def test_an_interrupt_in_compiled_code_is_one(tmp_path):
    """The signal is handled when the compiled call returns, which by itself makes a SystemError of it."""

    def interrupt(*_):
        raise KeyboardInterrupt

    ids = pa.array([f"u{i}" for i in range(300_000)])
    some = histories.Events(
        keys(ids), np.zeros(300_000, np.int64), np.zeros(300_000, np.int64), np.full(300_000, 2, np.uint8)
    )
    notes = NoteCodes(keys(pa.array(["a"])))

    def fold():
        tally = histories.Tally(np.zeros(1))
        histories.HistoryBuilder(notes, len(some), histories.Rules(False, 0.0), tally).add(some)

    fold()
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for seconds in (0.03, 0.04, 0.05, 0.06):
            with pytest.raises(KeyboardInterrupt), interruptible():
                signal.setitimer(signal.ITIMER_REAL, seconds)
                while True:
                    fold()
    finally:
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(SystemError, match="another"), interruptible():
        raise SystemError("another")


def test_same_events_in_any_order_and_any_files_give_the_same_bytes(tmp_path):
    events = random_events(5)
    first = make_dataset(tmp_path / "a" / "d", note_ids(20), events)
    second = make_dataset(tmp_path / "b" / "d", note_ids(20)[::-1], events[::-1])
    for folder, out in ((first, "1"), (second, "2")):
        pairs(folder, out=tmp_path / out, config=PairsConfig(weighting="notellm"))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


# ---- windows, caps, bad logs -----------------------------------------------------------------------------------------


def test_window_keeps_the_last_days_and_counts_the_rest(tmp_path):
    day = 24 * 60
    events = [(u, n, 0) for u in "uv" for n in "ab"] + [(u, n, 3 * day) for u in "uv" for n in "bc"]
    folder = make_dataset(tmp_path / "d", "abc", events)
    summary, score, _ = mine(folder, tmp_path, window_days=2)
    assert score == {("b", "c"): 1.0, ("c", "b"): 1.0}
    assert summary.events_outside_window == 4
    assert len(mine(folder, tmp_path, window_days=4)[1]) == 6


def test_a_window_is_of_whole_days_so_that_the_minute_of_the_last_event_does_not_matter(tmp_path):
    day = 24 * 60
    events = [(u, n, day) for u in "uv" for n in "ab"] + [(u, n, day - 1) for u in "uv" for n in "bc"]
    for last in (2 * day, 3 * day - 1):
        folder = make_dataset(tmp_path / str(last), "abcd", [*events, ("u", "d", last)])
        assert mine(folder, tmp_path, window_days=2)[1] == {("a", "b"): 1.0, ("b", "a"): 1.0}


@pytest.mark.parametrize("clock", ["position", "none"])
def test_a_window_without_real_times_is_refused(tmp_path, clock):
    folder = make_dataset(tmp_path / "d", "ab", [(u, n, 1) for u in "uv" for n in "ab"], clock=clock)
    with pytest.raises(InputError, match=r"window_days=7.* needs real times"):
        pairs(folder, out=tmp_path / "p", config=PairsConfig(window_days=7))
    assert not (tmp_path / "p").exists()


def test_n_counts_only_engagement_inside_the_window(tmp_path):
    day = 24 * 60
    events = [("u", "c", 0), ("u", "a", 9 * day), ("u", "b", 9 * day + 1)]
    folder = make_dataset(tmp_path / "d", "abc", events)
    _, score, _ = mine(folder, tmp_path, weighting="notellm", min_support=1, window_days=2)
    assert score == {("a", "b"): 0.5}


def test_cap_keeps_the_most_recent_notes(tmp_path):
    """The last event counts, also where the first was long ago."""
    events = [(u, n, t) for u in "uv" for n, t in (("a", 1), ("b", 2), ("d", 2), ("c", 3), ("a", 9))]
    folder = make_dataset(tmp_path / "d", "abcd", events)
    summary, score, _ = mine(folder, tmp_path, max_notes_per_user=2)
    assert set(score) == {("a", "c"), ("c", "a")}
    assert (summary.users_capped, summary.rows_capped) == (2, 4)


def test_equal_times_at_the_cap_are_decided_by_a_hash_that_knows_no_order(tmp_path):
    """Neither the order of the log nor which notes the dataset knows moves the choice of one person's notes."""
    ids = note_ids(30)
    events = [(f"u{u}", note, 7) for u in range(40) for note in ids]
    first = mine(make_dataset(tmp_path / "a", ids, events), tmp_path, max_notes_per_user=15, top=30, weighting="count")
    again = make_dataset(tmp_path / "b", ids[:20], events[::-1])
    second = mine(again, tmp_path, max_notes_per_user=15, top=30, weighting="count")
    known = {pair: score for pair, score in first[1].items() if max(pair) < "n20"}
    assert second[1] == known
    assert len(set(known.values())) > 3  # people differ in what they keep


def test_cap_without_clock_is_a_fixed_choice_that_differs_between_people(tmp_path):
    ids = note_ids(30)
    events = [(f"u{u}", note, None) for u in range(40) for note in ids]
    shuffled = [events[i] for i in np.random.default_rng(0).permutation(len(events))]
    first = mine(make_dataset(tmp_path / "a", ids, events, clock="none"), tmp_path, max_notes_per_user=5, top=30)
    second = mine(make_dataset(tmp_path / "b", ids, shuffled, clock="none"), tmp_path, max_notes_per_user=5, top=30)
    assert first[2].equals(second[2])
    assert first[0].users_capped == 40
    assert first[2]["anchor_id"].n_unique() > 20  # had all kept the same five notes, there would be five


def test_a_person_with_a_hundred_thousand_clicks_is_capped(tmp_path):
    """Their ten billion pairs would take minutes."""
    ids = [f"n{i:06d}" for i in range(100_000)]
    events = [("bot", note, i % 1000) for i, note in enumerate(ids)] + [(u, n, 5) for u in "uv" for n in ids[:2]]
    folder = make_dataset(tmp_path / "d", ids, events)
    summary, score, _ = mine(folder, tmp_path)
    assert summary.users_capped == 1
    assert summary.rows_capped == 99_000
    assert summary.cooccurrences_capped == 100_000 * 99_999 - 1000 * 999
    assert set(score) == {(ids[0], ids[1]), (ids[1], ids[0])}


def test_n_is_taken_before_the_cap(tmp_path):
    folder = make_dataset(tmp_path / "d", "abcd", [("u", n, t) for t, n in enumerate("abcd")])
    _, score, _ = mine(folder, tmp_path, weighting="notellm", min_support=1, max_notes_per_user=2)
    assert score == {("c", "d"): 0.25}


def test_events_on_unknown_notes_are_left_out_and_counted(tmp_path):
    events = [(u, n, t) for u in "uv" for t, n in enumerate(["a", "gone", "b", "gone"])]
    folder = make_dataset(tmp_path / "d", "ab", events)
    summary, score, _ = mine(folder, tmp_path, weighting="notellm")
    assert summary.events_unknown_note == 4
    assert score == {("a", "b"): pytest.approx(2 / 3)}  # N_u still counts the third note
    with pytest.raises(InputError, match="none of the 8 events engages with a note of this dataset"):
        mine(make_dataset(tmp_path / "e", "xy", events), tmp_path)


def test_an_empty_log_is_an_error(tmp_path):
    with pytest.raises(InputError, match="0 events and no engagement"):
        pairs(make_dataset(tmp_path / "d", "ab", []), out=tmp_path / "p")
    only_seen = [("u", "a", 1, "impression"), ("u", "b", 1, "view")]
    with pytest.raises(InputError, match="2 events and no engagement"):
        pairs(
            make_dataset(tmp_path / "e", "ab", only_seen), out=tmp_path / "p", config=PairsConfig(weighting="notellm")
        )


def test_a_log_without_common_notes_is_an_error_that_says_why(tmp_path):
    folder = make_dataset(tmp_path / "d", "ab", [("u", "a", 1), ("u", "b", 1)])
    with pytest.raises(InputError, match="2 were shared by fewer than 2 people"):
        pairs(folder, out=tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_few_events_without_time_are_counted_many_are_refused(tmp_path):
    good = [(f"u{i}", n, 1) for i in range(20) for n in "ab"]
    summary, score, _ = mine(make_dataset(tmp_path / "d", "ab", [*good, ("u0", "b", None)]), tmp_path)
    assert summary.events_undated == 1
    assert len(score) == 2
    bad = [*good, *[(f"u{i}", "a", None) for i in range(10)]]
    with pytest.raises(InputError, match="10 of 50 events have no timestamp"):
        pairs(make_dataset(tmp_path / "e", "ab", bad), out=tmp_path / "p")
    assert pairs(make_dataset(tmp_path / "f", "ab", bad, clock="none"), out=tmp_path / "p").events_undated == 0


def test_the_file_knows_its_origin(tmp_path):
    mine(make_dataset(tmp_path / "data", "ab", [(u, n, 1) for u in "uv" for n in "ab"]), tmp_path)
    origin = storage.read_origin(tmp_path / "pairs.parquet")
    assert origin["dataset"] == "data"
    assert origin["config"]["weighting"] == "cosine"
    assert origin["pairs"] == 2
    stored = storage.read_table(tmp_path / "pairs.parquet").schema
    assert [(f.name, f.type) for f in stored] == [(f.name, f.type) for f in schema.PAIRS]


# ---- relevant, load_pairs --------------------------------------------------------------------------------------------


def test_what_two_people_share_beside_the_candidates_counts_in_swing(tmp_path):
    data = Dataset(make_dataset(tmp_path / "d", note_ids(20), random_events(9, events=500)))
    anchors, candidates = pl.Series(["n03", "n07"]), pl.Series(["n00", "n01", "n02", "n03"])
    some = as_dict(relevant(Log(data), anchors=anchors, candidates=candidates, weighting="swing"))
    every = as_dict(relevant(Log(data), anchors=data.note_ids, weighting="swing", top=20))
    wanted = {(a, b): s for (a, b), s in every.items() if a in ("n03", "n07") and b in set(candidates)}
    assert some == pytest.approx(wanted)


def test_relevant_chooses_the_strongest_among_the_candidates(tmp_path):
    data = Dataset(make_dataset(tmp_path / "d", note_ids(20), random_events(9, events=500)))
    log, ids = Log(data), data.note_ids
    everything = relevant(log, anchors=ids, top=100, min_support=1)
    anchors, candidates = pl.Series(["n03", "n07"]), pl.Series(["n00", "n01", "n02", "n03"])
    some = relevant(log, anchors=anchors, candidates=candidates, top=2, min_support=1)
    wanted = (
        everything.filter(
            pl.col("anchor_id").is_in(anchors.implode()) & pl.col("related_id").is_in(candidates.implode())
        )
        .group_by("anchor_id", maintain_order=True)
        .head(2)
    )
    assert some.select("anchor_id", "related_id", "score").equals(wanted.select("anchor_id", "related_id", "score"))
    assert some["rank"].to_list() == [1, 2, 1, 2]
    assert relevant(log, anchors=anchors, min_support=10_000).height == 0


def write_pairs_file(path, rows):
    table = pa.table({"anchor_id": [r[0] for r in rows], "related_id": [r[1] for r in rows]})
    storage.write_table(table, path)
    return path


def test_load_pairs_leaves_few_unknown_notes_out_and_refuses_many(tmp_path):
    known = pl.Series(note_ids(30))
    good = [(f"n{i:02d}", f"n{i + 1:02d}") for i in range(20)]
    table, unknown = load_pairs(write_pairs_file(tmp_path / "a", [*good, ("n00", "gone")]), known)
    assert (table.height, unknown) == (20, 1)
    assert table.columns == schema.PAIRS.names
    with pytest.raises(InputError, match="2 of 22 pairs name notes that are not in the dataset"):
        load_pairs(write_pairs_file(tmp_path / "b", [*good, ("n00", "gone"), ("gone", "n00")]), known)
    with pytest.raises(InputError, match="20 of 20 pairs"):
        load_pairs(write_pairs_file(tmp_path / "c", good), pl.Series(["other"]))


def test_load_pairs_refuses_what_is_no_pairs_table(tmp_path):
    with pytest.raises(InputError, match="holds no pairs"):
        storage.write_table(schema.PAIRS.empty_table(), tmp_path / "a")
        load_pairs(tmp_path / "a", pl.Series(["x"]))
    with pytest.raises(InputError, match="to itself"):
        load_pairs(write_pairs_file(tmp_path / "b", [("x", "x")]), pl.Series(["x"]))
    storage.write_table(pa.table({"a": ["x"]}), tmp_path / "c")
    with pytest.raises(InputError, match="anchor_id"):
        load_pairs(tmp_path / "c", pl.Series(["x"]))


@pytest.mark.slow
def test_who_waits_for_the_compiler_is_told(tmp_path):
    """A process of its own whose compiled functions are kept in an empty folder, and one that finds them there."""
    folder = make_dataset(tmp_path / "d", "ab", [(u, n, 1) for u in "uv" for n in "ab"])
    code = (
        "import sys; from noterec import progress; from noterec.engagement.counting import compiled\n"
        "compiled.say = lambda text: print(text); from noterec import pairs; pairs(sys.argv[1], out=sys.argv[2])"
    )
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    said = [
        subprocess.run(
            [sys.executable, "-c", code, folder, tmp_path / "p"], env=env, check=True, capture_output=True, text=True
        ).stdout
        for _ in range(2)
    ]
    assert "compiled" in said[0]
    assert said[1] == ""
