"""Every weighting against its formula: strengths, age, evidence against, and Swing."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noterec import storage
from noterec.config import PairsConfig
from noterec.engagement.pairs import pairs
from noterec.errors import ConfigError, InputError
from tests.engagement.logs import as_dict, make_dataset, note_ids, random_events

ACTIONS = ("view", "click", "save", "impression")
DAY = 24 * 60


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("weightings")


def mined(folder, scratch, **config):
    pairs(folder, out=scratch / "p", config=PairsConfig(top=100, **config))
    return as_dict(storage.read_table(scratch / "p"))


def by_definition(events, weighting, *, strengths=None, half_life=None, min_support=1):
    """Scores as the formulas read, from lists of events (user, note, minute, action)."""
    strengths = {"click": 1.0, "save": 1.0, **(strengths or {})}
    end = (max(minute for _, _, minute, action in events if action in strengths or action == "view") // DAY + 1) * DAY
    aged = lambda minute: 0.5 ** ((end - minute) / DAY / half_life) if half_life else 1.0  # noqa: E731
    people = defaultdict(lambda: defaultdict(list))
    for user, note, minute, action in events:
        people[user][note].append((minute, action))
    weight, support, norms, total = defaultdict(float), defaultdict(int), defaultdict(float), 0.0
    for history in people.values():
        seen, strong, when = {}, {}, {}
        for note, its in history.items():
            engaged = [(m, strengths[a]) for m, a in its if strengths.get(a, 0) > 0]
            against = [(m, strengths[a]) for m, a in its if strengths.get(a, 0) < 0]
            views = [m for m, a in its if a != "impression"]
            if views:
                seen[note] = min(views)
            if engaged:
                when[note], strong[note] = max(m for m, _ in engaged), max(s for _, s in engaged)
            elif against:
                when[note], strong[note] = max(m for m, _ in against), min(s for _, s in against)
        engaged = [note for note, s in strong.items() if s > 0]
        squares = {note: strong[note] ** 2 * aged(when[note]) for note in engaged}
        for note in engaged:
            norms[note] += squares[note]
        total += sum(squares.values()) / len(squares) if squares else 0.0
        for a, b in itertools.permutations({*seen, *strong}, 2):
            if b not in strong:
                continue
            if weighting == "notellm":
                if a not in seen or seen[a] > when[b]:
                    continue
                added = math.sqrt(aged(seen[a]) * aged(when[b])) * strong[b] / max(len(engaged), 1)
            else:
                if strong.get(a, 0) <= 0:
                    continue
                added = strong[a] * strong[b] * math.sqrt(aged(when[a]) * aged(when[b]))
            weight[a, b] += added
            support[a, b] += strong[b] > 0
    scores = {}
    for (a, b), w in weight.items():
        if support[a, b] < min_support or w <= 0:
            continue
        lift = w * total / (norms[a] * norms[b]) if weighting in ("lift", "pmi", "npmi") else 0.0
        if weighting in ("notellm", "count"):
            scores[a, b] = w
        elif weighting == "cosine":
            scores[a, b] = w / math.sqrt(norms[a] * norms[b])
        elif weighting == "lift":
            scores[a, b] = lift
        elif weighting == "pmi":
            scores[a, b] = math.log(lift)
        else:
            scores[a, b] = math.log(lift) / -math.log(w / total) if w < total else 1.0
    return scores


WEIGHTINGS = ["notellm", "count", "cosine", "lift", "pmi", "npmi"]


@settings(deadline=None, max_examples=6)
@given(
    st.integers(0, 10_000), st.sampled_from(WEIGHTINGS), st.sampled_from([None, 1.5]), st.booleans(), st.integers(1, 2)
)
def test_agrees_with_its_formula(scratch, seed, weighting, half_life, weighted, min_support):
    events = random_events(seed, minutes=6 * DAY, actions=ACTIONS, events=250)
    strengths = {"save": 2.5, "view": -0.25, "impression": -0.05} if weighted else {}
    folder = make_dataset(scratch / "d", note_ids(20), events)
    bounds = {"lower": -9.0, "upper": 1e9}
    found = mined(
        folder,
        scratch,
        weighting=weighting,
        half_life_days=half_life,
        actions=strengths,
        min_support=min_support,
        **bounds,
    )
    wanted = by_definition(events, weighting, strengths=strengths, half_life=half_life, min_support=min_support)
    wanted = {pair: score for pair, score in wanted.items() if score >= -9}
    assert found == pytest.approx(wanted, rel=2e-6, abs=2e-6)


def test_pmi_and_npmi_keep_what_is_oftener_than_by_chance(tmp_path):
    events = random_events(4, users=15, events=300)
    folder = make_dataset(tmp_path / "d", note_ids(20), events)
    lift = mined(folder, tmp_path, weighting="lift")
    for weighting in ("pmi", "npmi"):
        assert set(mined(folder, tmp_path, weighting=weighting)) == {pair for pair, s in lift.items() if s >= 1}
        assert any(s < 1 for s in lift.values())


def test_who_saw_a_note_and_left_speaks_against_it(tmp_path):
    """Ann and Bob clicked a and b; Cat and Dan clicked a, saw b and left: 2 - 2 x 0.25."""
    events = [(u, n, 1) for u in ("ann", "bob") for n in "ab"]
    events += [("cat", "a", 1), ("cat", "b", 2, "view"), ("dan", "a", 1), ("dan", "b", 2, "impression")]
    folder = make_dataset(tmp_path / "d", "ab", events)
    against = {"view": -0.25, "impression": -0.25}
    assert mined(folder, tmp_path, weighting="count") == {("a", "b"): 2.0, ("b", "a"): 2.0}
    # Cat and Dan engaged with a only, so as anchor b knows nothing of them.
    assert mined(folder, tmp_path, weighting="count", actions=against) == {("a", "b"): 1.5, ("b", "a"): 2.0}
    found = mined(folder, tmp_path, weighting="count", actions={"view": -3.0})
    assert found == {("b", "a"): 2.0}


def test_an_action_of_no_strength_does_not_engage(tmp_path):
    events = [(u, n, 1, a) for u in "uv" for n, a in (("a", "click"), ("b", "follow"), ("c", "click"))]
    folder = make_dataset(tmp_path / "d", "abc", events)
    assert mined(folder, tmp_path, actions={"follow": 0.0}) == {("a", "c"): 1.0, ("c", "a"): 1.0}
    assert len(mined(folder, tmp_path)) == 6


@pytest.mark.parametrize(
    ("actions", "said"),
    [
        ({"stare": 1}, "unknown action 'stare'"),
        ({"view": 0.5}, "at most 0"),
        ({"click": -1}, "at least 0"),
        ({"click": float("nan")}, "nan"),
        (dict.fromkeys(("click", "like", "save", "comment", "share", "follow"), 0), "no engagement has a strength"),
    ],
)
def test_strengths_that_make_no_sense(actions, said):
    with pytest.raises(ValueError, match=said):
        PairsConfig(actions=actions)


def test_a_half_life_without_real_times_is_refused(tmp_path):
    folder = make_dataset(tmp_path / "d", "ab", [(u, n, 1) for u in "uv" for n in "ab"], clock="position")
    with pytest.raises(InputError, match=r"half_life_days=7.* needs real times"):
        mined(folder, tmp_path, half_life_days=7)


def test_what_is_older_than_any_float32_is_still_related(tmp_path):
    """400 half-lives: a and b share their people as c and d do, however long ago."""
    events = [(u, n, 5) for u in "uvw" for n in "ab"] + [(u, n, 400 * DAY) for u in "xyz" for n in "cd"]
    folder = make_dataset(tmp_path / "d", "abcd", events)
    found = mined(folder, tmp_path, half_life_days=1)
    assert found == pytest.approx({("a", "b"): 1.0, ("b", "a"): 1.0, ("c", "d"): 1.0, ("d", "c"): 1.0})


def test_what_was_only_seen_adds_no_row_where_age_counts(tmp_path):
    """A view has no strength to be aged; it must not turn into a weight that is no number."""
    events = [(u, n, 5, a) for u in "uvw" for n, a in (("a", "view"), ("b", "click"))]
    folder = make_dataset(tmp_path / "d", "ab", events)
    found = pairs(folder, out=tmp_path / "p", config=PairsConfig(weighting="notellm", half_life_days=1))
    assert (found.pairs, found.pairs_below_support, found.pairs_out_of_bounds) == (1, 0, 0)


# ---- swing -----------------------------------------------------------------------------------------------------------


def swing_by_definition(events, *, alpha=1.0, min_support=2):
    notes = defaultdict(set)
    for user, note, _, action in events:
        if action != "view":
            notes[user].add(note)
    score, support = defaultdict(float), defaultdict(int)
    for mine in notes.values():
        for pair in itertools.permutations(mine, 2):
            support[pair] += 1
    for u, v in itertools.combinations(notes, 2):
        both = notes[u] & notes[v]
        for pair in itertools.permutations(both, 2):
            score[pair] += (len(notes[u]) * len(notes[v])) ** -0.5 / (alpha + len(both))
    return {pair: s for pair, s in score.items() if support[pair] >= min_support}


@settings(deadline=None, max_examples=6)
@given(st.integers(0, 10_000), st.sampled_from([0.5, 1.0, 20.0]))
def test_swing_agrees_with_its_formula(scratch, seed, alpha):
    events = random_events(seed, users=25, events=300)
    folder = make_dataset(scratch / "d", note_ids(20), events)
    found = mined(folder, scratch, weighting="swing", swing_alpha=alpha)
    assert found == pytest.approx(swing_by_definition(events, alpha=alpha), rel=1e-6)


def test_swing_looks_at_a_fixed_choice_of_people_where_there_are_many(tmp_path):
    events = [(f"u{u}", n, 1) for u in range(60) for n in ("a", "b", f"x{u % 7}")]
    ids = ["a", "b", *(f"x{i}" for i in range(7))]
    first = mined(make_dataset(tmp_path / "d", ids, events), tmp_path, weighting="swing", swing_people=10)
    again = mined(make_dataset(tmp_path / "e", ids, events[::-1]), tmp_path, weighting="swing", swing_people=10)
    everyone = mined(tmp_path / "d", tmp_path, weighting="swing", swing_people=60)
    assert first == again
    assert 0 < first["a", "b"] < everyone["a", "b"]  # 45 pairs of people instead of 1770
    assert first["a", "b"] == pytest.approx(45 / 3 / 3, rel=0.35)  # 1 / (1 + 2), seldom 1 / (1 + 3)


def test_swing_says_what_it_needs(tmp_path):
    folder = make_dataset(tmp_path / "d", note_ids(20), random_events(1, events=500))
    with pytest.raises(InputError, match=r"swing compares people .* raise memory"):
        mined(folder, tmp_path, weighting="swing", memory=500)
    for wrong in ({"half_life_days": 2}, {"actions": {"save": 2}}):
        with pytest.raises(ConfigError, match="swing counts people"):
            mined(folder, tmp_path, weighting="swing", **wrong)
