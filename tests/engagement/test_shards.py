"""A count that is cut into parts, run in two processes, equals one that isn't."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import polars as pl
import pytest

from noterec import storage
from noterec.config import PairsConfig
from noterec.engagement.apart.shards import count_people, cut_log, merge_anchors, plan_pairs, read_plan
from noterec.engagement.pairs import pairs
from noterec.errors import ConfigError, InputError
from tests.engagement.logs import make_dataset, note_ids, random_events


@pytest.fixture
def folder(tmp_path):
    """A log of three files."""
    folder = make_dataset(tmp_path / "d", note_ids(20), random_events(1, events=300, minutes=3 * 1440))
    for number in (2, 3):
        more = make_dataset(tmp_path / f"m{number}", note_ids(20), random_events(number, events=200, minutes=3 * 1440))
        (more / "engagement" / "a.parquet").rename(folder / "engagement" / f"{number}.parquet")
    return folder


def run(work, plan, do):
    """All calls of each line, `do` being how."""
    do(partial(cut_log, work), range(plan.logs))
    do(partial(count_people, work), range(plan.people))
    do(partial(merge_anchors, work), range(plan.anchors))
    return pl.DataFrame(storage.read_table(work / "pairs"))


@pytest.mark.parametrize(
    "config",
    [
        {"weighting": "notellm", "window_days": 2},
        {"weighting": "cosine", "half_life_days": 1.0, "actions": {"view": -0.1}},
        {"weighting": "npmi", "max_notes_per_user": 3},
    ],
    ids=str,
)
def test_parts_give_the_pairs_of_the_whole(tmp_path, folder, config):
    plan = plan_pairs(folder, out=tmp_path / "w", config=PairsConfig(**config), people=5, anchors=3)
    assert plan.logs == 3
    found = run(tmp_path / "w", plan, lambda call, parts: [call(part) for part in parts])
    pairs(folder, out=tmp_path / "p", config=PairsConfig(**config))
    whole = pl.read_parquet(tmp_path / "p")
    assert found.drop("score").equals(whole.drop("score"))
    assert (found["score"] - whole["score"]).abs().max() < 1e-6


def test_two_processes_and_a_call_that_runs_twice(tmp_path, folder):
    plan = plan_pairs(folder, out=tmp_path / "w", people=4, anchors=2, logs=2)
    assert plan == read_plan(tmp_path / "w")
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = run(tmp_path / "w", plan, lambda call, parts: list(pool.map(call, [*parts, 0])))
    pairs(folder, out=tmp_path / "p")
    assert found.equals(pl.read_parquet(tmp_path / "p"))


def test_a_call_before_its_time_is_told_what_to_run(tmp_path, folder):
    plan_pairs(folder, out=tmp_path / "w", people=2, anchors=2, logs=2)
    with pytest.raises(InputError, match=r"expected cut_log\(folder, 0\) to be done"):
        count_people(tmp_path / "w", 0)
    cut_log(tmp_path / "w", 0)
    with pytest.raises(InputError, match=r"expected cut_log\(folder, 1\) to be done"):
        count_people(tmp_path / "w", 1)
    with pytest.raises(InputError, match=r"expected count_people\(folder, 0\) to be done"):
        merge_anchors(tmp_path / "w", 0)
    with pytest.raises(InputError, match="no plan there"):
        cut_log(tmp_path, 0)


def test_a_dataset_that_grew_in_between_is_refused(tmp_path, folder):
    plan_pairs(folder, out=tmp_path / "w", people=1, anchors=1)
    cut_log(tmp_path / "w", 0)
    make_dataset(tmp_path / "d", note_ids(21), random_events(1, events=300))
    with pytest.raises(InputError, match="has 21 notes, and had 20"):
        count_people(tmp_path / "w", 0)


@pytest.mark.parametrize("config", [{"weighting": "swing"}, {"per_category_pair": 2}])
def test_what_can_not_be_cut_is_refused(tmp_path, folder, config):
    with pytest.raises(ConfigError, match="on one machine"):
        plan_pairs(folder, out=tmp_path / "w", config=PairsConfig(**config))
