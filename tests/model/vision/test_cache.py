"""Features on disk: found again bit for bit, written by many at once, below a bound, never another model's and never damaged."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from noterec.errors import InputError
from noterec.model.vision.cache import FeatureCache
from noterec.notes.images.decode import image_hash

SHAPE, GIB = (5, 6), 2**30


def _cache(folder: Path, version: str = "v1", shape: tuple[int, ...] = SHAPE, limit: int = GIB) -> FeatureCache:
    return FeatureCache(folder, version, shape, np.dtype(np.float16), limit)


def _names(*numbers: int) -> list[str]:
    return [image_hash(b"%d" % number) for number in numbers]


def _values(*numbers: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.stack([np.random.default_rng(number).normal(size=shape) for number in numbers]).astype(np.float16)


def _found(cache: FeatureCache, number: int) -> np.ndarray | None:
    place = cache.find(_names(number)[0])
    return None if place is None else cache.values(place[0])[place[1]]


def _add(cache: FeatureCache, *numbers: int) -> np.ndarray:
    return cache.values(cache.add(_names(*numbers), _values(*numbers, shape=cache.shape)))


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.arrow"))


def test_what_was_added_is_found_by_the_next_run(tmp_path: Path) -> None:
    first = _cache(tmp_path)
    assert (len(first), _found(first, 1)) == (0, None) and not any(tmp_path.iterdir())
    np.testing.assert_array_equal(_add(first, 1, 2, 3), _values(1, 2, 3))
    _add(first, 4)
    second = _cache(tmp_path)
    assert len(second) == 4 and _found(second, 5) is None
    for cache in (first, second):
        for number in (1, 2, 3, 4):
            found = _found(cache, number)
            assert found is not None and found.dtype == np.float16 and not found.flags.writeable
            np.testing.assert_array_equal(found, _values(number)[0])


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    cache = _cache(tmp_path)
    first = os.dup(0)  # the lowest number that is free
    os.close(first)
    for number in range(20):
        _add(cache, number)
    again = os.dup(0)
    os.close(again)
    assert again == first


def test_refresh_sees_what_others_added(tmp_path: Path) -> None:
    mine, other = _cache(tmp_path), _cache(tmp_path)
    _add(other, 1)
    assert _found(mine, 1) is None
    mine.refresh()
    np.testing.assert_array_equal(_found(mine, 1), _values(1)[0])


def _write(folder: Path, first: int) -> None:
    cache = _cache(folder)
    for number in range(first, first + 10):
        _add(cache, number, number + 1)  # overlapping: the same picture from two writers


def test_processes_and_threads_add_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_write, args=(tmp_path, first)) for first in (0, 5)]
    shared = _cache(tmp_path)
    threads = [threading.Thread(target=_write, args=(tmp_path, first)) for first in (10, 15)]
    threads += [threading.Thread(target=_add, args=(shared, first)) for first in range(30, 40)]
    for worker in (*processes, *threads):
        worker.start()
    for worker in (*processes, *threads):
        worker.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    cache = _cache(tmp_path)
    assert len(cache) == 26 + 10 and len(_shards(tmp_path)) == 50 and not list(tmp_path.glob("*/*.tmp"))
    for number in (*range(26), *range(30, 40)):
        np.testing.assert_array_equal(_found(cache, number), _values(number)[0])


def test_another_encoders_cache_is_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _add(_cache(tmp_path, "v1"), 1)
    assert _found(_cache(tmp_path, "v2"), 1) is None
    # Nor where its file was put into our folder, or where only the shape or the kind of number differs.
    (tmp_path / "v2").mkdir()
    stray = tmp_path / "v2" / _shards(tmp_path)[0].name
    _shards(tmp_path)[0].rename(stray)
    with caplog.at_level(logging.WARNING):
        assert _found(_cache(tmp_path, "v2"), 1) is None
    assert "'version': 'v1'" in caplog.text and "'version': 'v2'" in caplog.text and stray.exists()
    stray.rename(tmp_path / "v1" / stray.name)
    assert _found(_cache(tmp_path, "v1"), 1) is not None
    assert _found(_cache(tmp_path, "v1", shape=(6, 5)), 1) is None
    assert FeatureCache(tmp_path, "v1", SHAPE, np.dtype(np.uint16), GIB).find(_names(1)[0]) is None


@pytest.mark.parametrize("cut", [0, 1, 100, 0.5, -1])
def test_a_truncated_shard_is_removed(tmp_path: Path, cut: float, caplog: pytest.LogCaptureFixture) -> None:
    cache = _cache(tmp_path)
    _add(cache, 1, 2)
    path = _shards(tmp_path)[0]
    _add(cache, 3)
    data = path.read_bytes()
    path.unlink()  # a new file: the old one is mapped above
    path.write_bytes(data[: int(cut * len(data)) if isinstance(cut, float) else cut])
    with caplog.at_level(logging.WARNING):
        again = _cache(tmp_path)
    assert f"{path}: damaged" in caplog.text and not path.exists()
    assert _found(again, 1) is None and _found(again, 3) is not None
    np.testing.assert_array_equal(_add(again, 1, 2), _values(1, 2))


def test_damage_anywhere_is_never_taken_for_features(tmp_path: Path) -> None:
    _add(_cache(tmp_path), 1, 2)
    path = _shards(tmp_path)[0]
    data = path.read_bytes()
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 0xFF
        path.unlink(missing_ok=True)
        path.write_bytes(damaged)
        cache = _cache(tmp_path)
        for number in (1, 2):
            found = _found(cache, number)
            assert found is None or (found == _values(number)[0]).all(), place


def test_a_wrong_checksum_costs_the_shard_and_keeps_what_was_given(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _add(_cache(tmp_path), 1, 2, 3)
    path = _shards(tmp_path)[0]
    data = bytearray(path.read_bytes())
    data[data.index(_values(2).tobytes())] ^= 1
    path.unlink()
    path.write_bytes(data)
    cache = _cache(tmp_path)
    kept = _found(cache, 1)
    with caplog.at_level(logging.WARNING):
        assert _found(cache, 2) is None
    assert "a checksum is wrong" in caplog.text and not path.exists()
    assert _found(cache, 3) is None  # the disk isn't trusted with the rest either
    np.testing.assert_array_equal(kept, _values(1)[0])


def _age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_least_recently_used_go_first_over_all_versions(tmp_path: Path) -> None:
    paths: dict[int, Path] = {}
    for number, version in ((1, "old"), (2, "old"), (3, "v1"), (4, "v1")):
        before = set(_shards(tmp_path))
        _add(_cache(tmp_path, version), number)
        (paths[number],) = set(_shards(tmp_path)) - before
        _age(paths[number], 1000 - number)
    size = paths[1].stat().st_size
    (tmp_path / "old" / "notes.txt").write_text("x" * 10 * size)  # not ours: neither counted nor removed
    assert _found(_cache(tmp_path, "old"), 1) is not None  # used: now the youngest
    cache = _cache(tmp_path, limit=4 * size)
    assert len(_shards(tmp_path)) == 4
    _add(cache, 5)
    assert not paths[2].exists() and all(paths[number].exists() for number in (1, 3, 4))
    _add(cache, 6)
    assert not paths[3].exists() and paths[1].exists()
    assert _found(cache, 3) is None and len(_shards(tmp_path)) == 4
    assert (tmp_path / "old" / "notes.txt").exists()
    _cache(tmp_path, limit=size)  # a lowered bound counts at once
    assert len(_shards(tmp_path)) == 1


def test_a_run_larger_than_the_bound_keeps_its_own_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _add(_cache(tmp_path, "other"), 9)
    size = _shards(tmp_path)[0].stat().st_size
    cache = _cache(tmp_path, limit=2 * size)
    with caplog.at_level(logging.WARNING):
        for number in range(5):
            _add(cache, number)
    assert [path.parent.name for path in _shards(tmp_path)] == ["v1"] * 5
    assert [record.message.count("images.cache_gib") for record in caplog.records] == [1]
    for number in range(5):
        np.testing.assert_array_equal(_found(cache, number), _values(number)[0])
    cache.release()
    _add(cache, 5)
    assert len(_shards(tmp_path)) == 2 and _found(cache, 5) is not None


def test_files_are_looked_at_when_the_bound_is_reached_not_after_every_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _add(_cache(tmp_path, "other"), 9)
    size = _shards(tmp_path)[0].stat().st_size
    looks: list[int] = []
    shrink = FeatureCache._shrink
    monkeypatch.setattr(FeatureCache, "_shrink", lambda self: looks.append(len(_shards(tmp_path))) or shrink(self))
    cache = _cache(tmp_path, limit=4 * size)
    for number in range(8):
        _add(cache, number)
    # When it is opened; when there is one too many, the other's; when all that is there is this run's; and never again.
    assert looks == [1, 5, 5] and len(_shards(tmp_path)) == 8
    cache.release()
    _add(cache, 8)
    assert looks == [1, 5, 5, 9] and len(_shards(tmp_path)) == 4
    _add(_cache(tmp_path, "other"), 9)
    cache.refresh()  # here others' are counted
    assert len(_shards(tmp_path)) == 4


def test_removal_by_another_process_is_harmless(tmp_path: Path) -> None:
    shape = (64, 1024)  # more than a page
    cache = _cache(tmp_path, shape=shape)
    mapped = _add(cache, 1, 2, 3)
    opened = _cache(tmp_path, shape=shape)
    for path in _shards(tmp_path):
        path.unlink()
    np.testing.assert_array_equal(mapped, _values(1, 2, 3, shape=shape))
    np.testing.assert_array_equal(_found(opened, 2), _values(2, shape=shape)[0])
    opened.refresh()
    _add(opened, 4)
    assert len(_shards(tmp_path)) == 1


def test_leftovers_of_killed_writers(tmp_path: Path) -> None:
    _add(_cache(tmp_path, "other"), 1)
    old, new, foreign = (tmp_path / "other" / name for name in (".a.arrow.x.tmp", ".b.arrow.x.tmp", "mine.tmp"))
    for path in (old, new, foreign):
        path.touch()
    _age(old, 25 * 3600)
    _age(foreign, 25 * 3600)
    _age(new, 23 * 3600)
    _cache(tmp_path)
    assert not old.exists() and new.exists() and foreign.exists() and len(_shards(tmp_path)) == 1


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = _cache(tmp_path)
    _add(cache, 1)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"No space left on device; nothing was changed; free some.*cache_gib=0"):
        _add(cache, 2)
    monkeypatch.undo()
    assert len(list((tmp_path / "v1").iterdir())) == 1 and _found(cache, 2) is None
    _add(cache, 2)


def test_nothing_where_it_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="can't write there"):
        _add(_cache(tmp_path / "file"), 1)
    with pytest.raises(InputError, match="holds nothing"):
        _cache(tmp_path, limit=0)
