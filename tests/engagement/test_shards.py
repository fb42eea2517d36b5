"""A count that is cut into parts, run in two processes, equals one that isn't."""

from __future__ import annotations

import functools
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


def test_dataset_and_work_may_be_in_an_object_store(tmp_path, monkeypatch):
    from obstore.store import MemoryStore

    monkeypatch.setattr(storage.stores, "_client", functools.cache(lambda scheme, bucket: MemoryStore()))
    data, work = (storage.place(f"gs://memory/{name}") for name in ("d", "w"))
    make_dataset(data, note_ids(20), random_events(1, events=300))
    plan = plan_pairs(str(data), out=str(work), people=2, anchors=2)
    found = run(work, plan, lambda call, parts: [call(part) for part in parts])
    pairs(str(data), out=tmp_path / "p")
    assert found.equals(pl.read_parquet(tmp_path / "p"))


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
    plan_pairs(folder, out=tmp_path / "w", people=1, anchors=1, logs=1)
    cut_log(tmp_path / "w", 0)
    for others in (note_ids(21), [*note_ids(19), "x"]):
        make_dataset(tmp_path / "d", others, random_events(1, events=300))
        with pytest.raises(InputError, match=rf"has {len(others)} notes, and had 20 others"):
            count_people(tmp_path / "w", 0)


def test_files_that_come_after_the_plan_do_not_count_and_one_that_went_is_told(tmp_path, folder):
    plan = plan_pairs(folder, out=tmp_path / "w", people=2, anchors=2)
    counts = [cut_log(tmp_path / "w", 0)]
    more = make_dataset(tmp_path / "m", note_ids(20), random_events(8, events=100))
    (more / "engagement" / "a.parquet").rename(folder / "engagement" / "1.parquet")
    counts += [cut_log(tmp_path / "w", part) for part in range(1, plan.logs)]
    assert [part.events for part in counts] == [200, 200, 300]
    (folder / "engagement" / "2.parquet").unlink()
    with pytest.raises(InputError, match=r"the log's file 2.parquet is gone"):
        cut_log(tmp_path / "w", 0)


def test_a_folder_with_another_plan_is_refused(tmp_path, folder):
    """Its tables would stand beside the new ones, and be read as theirs."""
    first = plan_pairs(folder, out=tmp_path / "w", people=2, anchors=4)
    assert plan_pairs(folder, out=tmp_path / "w", people=2, anchors=4) == first
    with pytest.raises(InputError, match="is another plan"):
        plan_pairs(folder, out=tmp_path / "w", people=2, anchors=2)


def test_a_relative_dataset_is_found_from_elsewhere(tmp_path, folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan_pairs("d", out="w", people=1, anchors=1)
    monkeypatch.chdir("/")
    assert cut_log(tmp_path / "w", 0).events == 200


def test_a_file_without_engagement_is_a_part_like_others_and_a_log_without_any_is_refused(tmp_path):
    folder = make_dataset(tmp_path / "d", "ab", [(u, n, 1) for u in "uv" for n in "ab"])
    seen = make_dataset(tmp_path / "e", "ab", [("u", "a", 1, "impression"), ("v", "a", 1, "view")])
    plan_pairs(seen, out=tmp_path / "none", people=1, anchors=1)
    cut_log(tmp_path / "none", 0)
    with pytest.raises(InputError, match="2 events and no engagement"):
        count_people(tmp_path / "none", 0)
    (seen / "engagement" / "a.parquet").rename(folder / "engagement" / "b.parquet")
    plan = plan_pairs(folder, out=tmp_path / "w", people=2, anchors=2)
    assert run(tmp_path / "w", plan, lambda call, parts: [call(part) for part in parts]).height == 2


def test_parts_that_are_not_in_the_plan_are_refused(tmp_path, folder):
    plan_pairs(folder, out=tmp_path / "w", people=2, anchors=2, logs=2)
    for call in (cut_log, count_people, merge_anchors):
        for part in (-1, 2):
            with pytest.raises(InputError, match=rf"part {part} of .*expected 0 to 1"):
                call(tmp_path / "w", part)
    for wrong in ({"people": 0}, {"anchors": -1}, {"logs": 5000}):
        with pytest.raises(ConfigError, match="expected 1 to 4096 parts"):
            plan_pairs(folder, out=tmp_path / "v", **wrong)


@pytest.mark.parametrize("config", [{"weighting": "swing"}, {"per_category_pair": 2}])
def test_what_can_not_be_cut_is_refused(tmp_path, folder, config):
    with pytest.raises(ConfigError, match="on one machine"):
        plan_pairs(folder, out=tmp_path / "w", config=PairsConfig(**config))
