"""Pictures of notes as rows: each distinct one computed once, the first usable ones of a note, and every other one reported."""

from __future__ import annotations

import io
import logging
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from noterec.config import ImagesConfig
from noterec.errors import ImageError, InputError
from noterec.model.vision import cache, shelf, trying
from noterec.model.vision import gallery as module
from noterec.model.vision.gallery import Added, Gallery
from noterec.notes.images import workers
from noterec.notes.images.source import ImageSource
from noterec.progress import Bar
from tests.model.vision.eight import SIDE, eight
from tests.model.vision.towers import FakeTower, entry, features_of, png

BAD = entry(b"%PDF-1.7")


def _gallery(tower: FakeTower | None = None, **options: Any) -> Gallery:
    options = {"frozen": True, "images": 1, "config": ImagesConfig(), "source": ImageSource()} | options
    return Gallery(tower or FakeTower(), **options)  # type: ignore[arg-type]


def _rows(added: Added) -> list[list[int]]:
    return [rows.tolist() for rows in added.rows]


def _rejects(added: Added) -> list[tuple[int, int, str]]:
    return [(reject.note, reject.image, reject.reason) for reject in added.rejects]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What was decoded in this process."""
    done: list[bytes] = []
    decode = workers.decode

    def counted(data: bytes, limits: ImagesConfig) -> Image.Image:
        done.append(data)
        return decode(data, limits)

    monkeypatch.setattr(workers, "decode", counted)
    return done


# ---- rows


@pytest.mark.parametrize("cached", [False, True])
def test_features(tmp_path: Path, cached: bool) -> None:
    tower = FakeTower()
    tower.train()
    gallery = _gallery(tower, images=2, batch_images=2, folder=tmp_path if cached else None)
    a, b, c = png(1), png(2), png(3)
    added = gallery.add([[entry(a), entry(b)], None, [entry(b)], [], [entry(c), entry(a), entry(b)], [entry(a)] * 2])
    assert _rows(added) == [[0, 1], [], [1], [], [2, 0], [0, 0]] and added.rejects == []
    assert (len(gallery), added.computed, added.cached) == (3, 3, 0)
    assert tower.batches == [2, 1] and not tower.training
    found = gallery.take(np.array([2, 0, 0, 1]))
    assert (found.dtype, found.shape) == (np.float16, (4, 5, 6))
    np.testing.assert_array_equal(found, np.stack([features_of(tower, data) for data in (c, a, a, b)]))
    assert gallery.take(np.zeros(0, np.int64)).shape == (0, 5, 6)
    assert all(rows.dtype == np.int64 for rows in added.rows)
    for row in (-1, 3):
        with pytest.raises(IndexError, match="expected 0 to 2"):
            gallery.take(np.array([0, row]))


def test_pixels_of_a_tower_that_is_trained(tmp_path: Path) -> None:
    tower = FakeTower()
    gallery = _gallery(tower, frozen=False, folder=tmp_path)
    gallery.add([[entry(png(1))], [entry(png(2))]])
    found = gallery.take(np.array([1, 0]))
    assert (found.dtype, found.shape) == (np.uint8, (2, 3, SIDE, SIDE)) and tower.batches == []
    np.testing.assert_array_equal(found[0], eight(Image.open(io.BytesIO(png(2)))))
    assert not any(tmp_path.iterdir())


def test_one_picture_on_many_notes_is_decoded_once(decoded: list[bytes]) -> None:
    tower = FakeTower()
    gallery = _gallery(tower)
    added = gallery.add([[entry(png(1))]] * 10_000)
    assert len(decoded) == 1 and tower.batches == [1] and all(rows.tolist() == [0] for rows in added.rows)
    gallery.add([[entry(png(1))], [entry(png(2))]])
    assert len(decoded) == 2 and len(gallery) == 2


def test_one_bad_picture_on_many_notes_is_decoded_once(decoded: list[bytes]) -> None:
    gallery = _gallery()
    assert len(gallery.add([[BAD]] * 1000).rejects) == 1000
    assert _rejects(gallery.add([[BAD]])) == [(0, 0, "unknown-format")]
    assert len(decoded) == 1


def test_parts_are_put_away_as_they_fill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "PART_BYTES", 4 * 5 * 6 * 2)  # of four pictures
    tower = FakeTower()
    pictures = [png(number) for number in range(11)]
    kept = [_gallery(tower, batch_images=2, folder=folder) for folder in (None, tmp_path)]
    for gallery in kept:
        added = gallery.add([[entry(data)] for data in pictures])
        assert _rows(added) == [[row] for row in range(11)]
        order = np.random.default_rng(0).integers(0, 11, 50)
        expected = np.stack([features_of(tower, pictures[row]) for row in order])
        np.testing.assert_array_equal(gallery.take(order), expected)  # of the last part too, which isn't full
        gallery.close()
        np.testing.assert_array_equal(gallery.take(order), expected)
        gallery.close()
    assert len(list(tmp_path.glob("*/*.arrow"))) == 3


def test_however_few_come_at_a_time_shards_are_large_and_the_folder_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf, "PART_BYTES", 8 * 5 * 6 * 2)  # of eight pictures
    tower = FakeTower()
    with _gallery(tower, folder=tmp_path) as gallery:
        with monkeypatch.context() as patch:
            patch.setattr(cache, "_files", lambda _: pytest.fail("the folder was read"))
            rows = np.concatenate([gallery.add([[entry(png(number))]]).rows[0] for number in range(20)])
        assert rows.tolist() == list(range(20)) and len(list(tmp_path.glob("*/*.arrow"))) == 2
        # Killed here, a run leaves what filled its parts.
        killed = _gallery(tower, folder=tmp_path)
        assert killed.add([[entry(png(number))] for number in range(20)]).cached == 16
    assert len(list(tmp_path.glob("*/*.arrow"))) == 3
    np.testing.assert_array_equal(gallery.take(rows), np.stack([features_of(tower, png(n)) for n in range(20)]))
    gallery.add([[entry(png(20))]])
    gallery.clear()
    assert len(list(tmp_path.glob("*/*.arrow"))) == 4
    assert _gallery(tower, folder=tmp_path).add([[entry(png(number))] for number in range(21)]).cached == 21


def test_a_disk_that_fills_up_costs_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "PART_BYTES", 4 * 5 * 6 * 2)
    tower = FakeTower()
    gallery = _gallery(tower, folder=tmp_path, batch_images=1)
    notes = [[entry(png(number))] for number in range(6)]

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        for _ in range(2):
            with pytest.raises(InputError, match="No space left"):
                gallery.add(notes)
            assert len(gallery) == 4
        with pytest.raises(InputError, match="No space left"):
            gallery.close()
    added = gallery.add(notes)
    gallery.close()
    assert _rows(added) == [[row] for row in range(6)] and len(list(tmp_path.glob("*/*.arrow"))) == 2
    np.testing.assert_array_equal(gallery.take(np.arange(6)), [features_of(tower, png(n)) for n in range(6)])


def test_much_memory_is_said_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    each = 3 * SIDE * SIDE
    monkeypatch.setattr(module, "MUCH_BYTES", 4 * each)
    notes = [[entry(png(number))] for number in range(9)]
    moving, frozen = _gallery(frozen=False, batch_images=1), _gallery()
    with caplog.at_level(logging.WARNING):
        frozen.add(notes)
        moving.add(notes[:4])
        assert not caplog.records
        moving.add(notes[4:])
        moving.add([[entry(png(10))]])
    (record,) = caplog.records
    assert record.args is not None and not isinstance(record.args, dict)
    assert record.args[:2] == (5, 5 * each / 2**30)
    for way in ("GiB of memory", "smaller vision.image_px", "fewer notes", "vision.train=false"):
        assert way in record.message


def test_autocast_of_the_caller_changes_nothing() -> None:
    tower = FakeTower()
    gallery = _gallery(tower)
    with torch.autocast("cpu", torch.bfloat16):
        gallery.add([[entry(png(1))]])
    np.testing.assert_array_equal(gallery.take(np.array([0]))[0], features_of(tower, png(1)))


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 1e6])
def test_features_that_are_no_numbers(tmp_path: Path, scale: float) -> None:
    gallery = _gallery(FakeTower(scale=scale), folder=tmp_path)
    with pytest.raises(InputError, match=r"fake: the features of the picture with hash [0-9a-f]{32} are not finite"):
        gallery.add([[entry(png(1))]])
    assert len(gallery) == 0 and not any(tmp_path.iterdir())


# ---- which pictures of a note


def test_a_note_with_40_images_has_its_first(decoded: list[bytes]) -> None:
    gallery = _gallery(images=3)
    added = gallery.add([[entry(png(number)) for number in range(40)]])
    assert _rows(added) == [[0, 1, 2]] and added.rejects == []
    assert decoded == [png(0), png(1), png(2)]


def test_the_next_takes_the_place_of_one_that_is_rejected(decoded: list[bytes]) -> None:
    gallery = _gallery(images=2)
    missing = {"bytes": None, "path": "none.png"}
    notes = [[BAD, missing, entry(png(1)), None, entry(png(2)), BAD, entry(png(3))], [BAD], [missing, entry(png(2))]]
    added = gallery.add(notes)
    assert _rejects(added) == [
        (0, 0, "unknown-format"),
        (0, 1, "no-root"),
        (0, 3, "nothing"),
        (1, 0, "unknown-format"),
        (2, 0, "no-root"),
    ]
    assert [len(rows) for rows in added.rows] == [2, 0, 1] and added.rows[0][1] == added.rows[2][0]
    assert added.rejects[0].message.startswith("the content is a PDF")
    assert png(3) not in decoded


@pytest.mark.parametrize("count", [0, 1])
def test_workers_find_the_same(count: int) -> None:
    config = ImagesConfig(workers=count)
    notes: list[Any] = [[BAD] * 6 + [entry(png(1)), entry(png(9))], [entry(png(2)), BAD, entry(png(3))], None]
    notes += [[entry(png(number % 7))] for number in range(30)] + [[BAD] * 9]
    tower = FakeTower()
    gallery = _gallery(tower, images=2, config=config)
    with gallery:
        added = gallery.add(notes)
    assert [len(rows) for rows in added.rows] == [2, 2, 0] + [1] * 30 + [0]
    assert len(added.rejects) == 6 + 1 + 9
    np.testing.assert_array_equal(gallery.take(added.rows[0][:1])[0], features_of(tower, png(1)))
    np.testing.assert_array_equal(gallery.take(added.rows[1][1:])[0], features_of(tower, png(3)))
    assert added.computed == len(gallery) == 8


def _children() -> set[int | None]:
    return {process.pid for process in multiprocessing.active_children()}


def test_workers_stay_from_one_add_to_the_next() -> None:
    with _gallery(config=ImagesConfig(workers=1)) as gallery:
        gallery.add([[BAD, entry(png(1))]])
        first = _children()
        gallery.add([[entry(png(1))]])
        gallery.clear()
        gallery.add([[entry(png(2))]])
        assert len(first) == 1 and _children() == first
    assert _children() == set()
    assert _rows(gallery.add([[entry(png(2))], [entry(png(3))]])) == [
        [0],
        [1],
    ]  # the rows stayed, and others are started
    gallery.close()
    assert _children() == set()


def test_an_error_leaves_the_workers_to_the_next_add() -> None:
    tower = FakeTower()
    with _gallery(tower, config=ImagesConfig(workers=1), batch_images=2) as gallery:
        tower.weight.data.fill_(1e6)
        with pytest.raises(InputError, match="not finite"):
            gallery.add([[entry(png(number))] for number in range(20)])
        children = _children()
        tower.weight.data.fill_(1)
        added = gallery.add([[entry(png(number))] for number in range(20)])
        assert _rows(added) == [[number] for number in range(20)] and _children() == children
    assert _children() == set()


def test_for_a_few_notes_no_process_is_started_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "workers_of", lambda *_, **__: 1)
    with _gallery(config=ImagesConfig()) as gallery:
        gallery.add([[entry(png(number))] for number in range(module.FEW_NOTES - 1)])
        assert _children() == set()
        gallery.add([[entry(png(100 + number))] for number in range(module.FEW_NOTES)])
        assert len(_children()) == 1
        assert len(gallery) == 2 * module.FEW_NOTES - 1


@settings(max_examples=60, deadline=None)
@given(
    notes=st.lists(st.lists(st.integers(-3, 5), max_size=6), max_size=8),
    images=st.integers(1, 3),
    batch=st.integers(1, 4),
    ahead=st.integers(1, 5),
)
def test_any_notes_at_any_lookahead(notes: list[list[int]], images: int, batch: int, ahead: int) -> None:
    tower = FakeTower()

    def file(number: int) -> bytes:
        return png(number) if number >= 0 else b"no picture %d" % number

    def in_flight(entries: Any, source: Any, *, then: Any, **_: Any) -> Any:  # as worker processes take and give
        flying: list[Any] = []
        while True:
            for one in entries:
                flying.append(workers._one(one, source, then))
                if len(flying) >= ahead:
                    break
            if not flying:
                return
            yield flying.pop(0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "decode_all", in_flight)
        gallery = _gallery(tower, images=images, batch_images=batch)
        added = gallery.add([[entry(file(number)) for number in note] for note in notes])
    for place, note in enumerate(notes):
        usable = [number for number in note if number >= 0][:images]
        found = gallery.take(added.rows[place])
        np.testing.assert_array_equal(found, [features_of(tower, png(n)) for n in usable] or np.empty((0, 5, 6)))
        last = [index for index, number in enumerate(note) if number >= 0][:images]
        end = last[-1] if len(usable) == images else len(note)
        expected = [index for index, number in enumerate(note[:end]) if number < 0]
        assert [reject.image for reject in added.rejects if reject.note == place] == expected
    assert added.computed == len(gallery)


def test_bytes_in_flight_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading never runs ahead of what was computed by more than what is in flight and a batch."""
    tower = FakeTower()
    read = 0
    ahead: list[int] = []
    original = ImageSource.read

    def counted(self: ImageSource, one: Any) -> bytes:
        nonlocal read
        read += 1
        ahead.append(read // 2 - sum(tower.batches))  # each is read here and, as bytes, once more where it is decoded
        return original(self, one)

    monkeypatch.setattr(trying.ImageSource, "read", counted)
    _gallery(tower, batch_images=4).add([[entry(png(number))] for number in range(60)])
    assert max(ahead) <= 3 * 4 + 1  # one is computed, one waits, one is decoded


def test_the_bar_counts_notes() -> None:
    class Counting(Bar):
        count = 0

        def advance(self, count: int = 1, note: str | None = None) -> None:
            self.count += count

    bar = Counting()
    _gallery().add([None, [BAD, entry(png(1))], [], [entry(png(1))]], bar)
    assert bar.count == 4


def test_workers_by_default() -> None:
    assert trying.workers_of(ImagesConfig(), accelerator=False) == 0
    assert 1 <= trying.workers_of(ImagesConfig(), accelerator=True) <= 8
    assert trying.workers_of(ImagesConfig(), accelerator=True, default=0) == 0
    assert trying.workers_of(ImagesConfig(workers=3), accelerator=False, default=0) == 3


@pytest.mark.parametrize(
    ("cores", "processes", "expected"), [(6, None, 6), (6, "", 6), (6, "2", 3), (7, "4", 1), (2, "8", 1), (64, "2", 8)]
)
def test_workers_share_the_cores_that_this_process_may_use(
    cores: int, processes: str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 96)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if processes is not None:
        monkeypatch.setenv("WORLD_SIZE", processes)
    assert trying.workers_of(ImagesConfig(), accelerator=True) == expected


def test_workers_where_a_system_knows_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 5)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert trying.workers_of(ImagesConfig(), accelerator=True) == 5


def test_beside_an_accelerator_a_caller_may_want_no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trying, "_cores", lambda: 4)
    tower = FakeTower().to("meta")  # no CPU
    counts = [
        _gallery(tower, config=config, workers_default=default)._workers.count
        for config in (ImagesConfig(), ImagesConfig(workers=2))
        for default in (None, 0)
    ]
    assert counts == [4, 0, 2, 2]


# ---- what strangers put there


def _file(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def test_hostile_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(png(1))
    (root / "way-out.png").symlink_to(tmp_path / "secret.png")
    (root / "text.jpg").write_text("hello")
    (root / "good.png").write_bytes(png(2))
    bomb = _file(Image.new("1", (10_000, 10_000)))  # 100 megapixels in a few kB
    assert len(bomb) < 20_000
    cases: list[tuple[Any, str | None]] = [
        (entry(bomb), "too-many-pixels"),
        (entry(_file(Image.new("L", (20_000, 10)))), "too-narrow"),
        (entry(_file(Image.new("RGB", (1, 1), (255, 0, 0)))), None),
        ({"bytes": None, "path": "text.jpg"}, "unknown-format"),
        ({"bytes": None, "path": "../secret.png"}, "outside-root"),
        ({"bytes": None, "path": "way-out.png"}, "outside-root"),
        ({"bytes": None, "path": "http://127.0.0.1/a.png"}, "url"),
        ({"bytes": None, "path": "good.png"}, None),
        (entry(png(3)[:-30]), "corrupt"),
        (entry(b""), "empty"),
        (None, "nothing"),
    ]
    added = _gallery(source=ImageSource(root)).add([[image] for image, _ in cases])
    reasons = dict.fromkeys(range(len(cases)), None) | {reject.note: reject.reason for reject in added.rejects}
    assert [reasons[note] for note in range(len(cases))] == [reason for _, reason in cases]
    assert [len(rows) for rows in added.rows] == [int(reason is None) for _, reason in cases]


def test_urls_are_fetched_ahead_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from noterec.notes.images import fetch as fetching

    fetched: list[str] = []

    def fetch(url: str, limits: ImagesConfig) -> bytes:
        fetched.append(url)
        number = int(url.rsplit("/", 1)[1])
        if number == 3:
            raise ImageError("timeout", "too slow")
        return png(number)

    monkeypatch.setattr(fetching, "fetch", fetch)
    tower = FakeTower()
    gallery = _gallery(tower, images=1, source=ImageSource(limits=ImagesConfig(fetch=True)))
    urls = [{"bytes": None, "path": f"https://h/{number % 40}"} for number in range(100)]
    added = gallery.add([[url] for url in urls])
    assert sorted(fetched) == sorted(f"https://h/{number}" for number in range(40))
    assert _rejects(added) == [(3, 0, "timeout"), (43, 0, "timeout"), (83, 0, "timeout")]
    np.testing.assert_array_equal(gallery.take(added.rows[47])[0], features_of(tower, png(7)))
    gallery.add([[urls[0]]])
    assert len(fetched) == 40
    gallery.clear()
    assert _rows(gallery.add([[urls[5]]])) == [[0]] and len(fetched) == 41


# ---- the cache behind it


def test_a_cache_gives_the_same_bits(tmp_path: Path, decoded: list[bytes]) -> None:
    notes = [[entry(png(number))] for number in range(5)]
    plain, first = _gallery(), _gallery(folder=tmp_path)
    expected = plain.take(np.concatenate(plain.add(notes).rows))
    with first:
        np.testing.assert_array_equal(first.take(np.concatenate(first.add(notes).rows)), expected)
    decoded.clear()
    tower = FakeTower()
    again = _gallery(tower, folder=tmp_path)
    added = again.add([*reversed(notes), [entry(png(7))]])
    assert (added.computed, added.cached, len(decoded), tower.batches) == (1, 5, 1, [1])
    np.testing.assert_array_equal(again.take(np.concatenate(added.rows[:5])), expected[::-1])


def test_another_vision_model_does_not_use_it(tmp_path: Path) -> None:
    notes = [[entry(png(1))]]
    with _gallery(FakeTower(0), folder=tmp_path) as first:
        first.add(notes)
    other = FakeTower(1)
    gallery = _gallery(other, folder=tmp_path)
    assert gallery.add(notes).computed == 1
    np.testing.assert_array_equal(gallery.take(np.array([0]))[0], features_of(other, png(1)))


@pytest.mark.parametrize(
    ("limits", "size", "reason"),
    [
        ({"max_pixels": 119}, (12, 10), "too-many-pixels"),
        ({"min_side_px": 11}, (12, 10), "too-small"),
        ({"max_aspect_ratio": 1.1}, (12, 10), "too-narrow"),
        ({"max_bytes": 100}, (12, 10), "too-many-bytes"),
        ({}, (12, 10), None),
    ],
)
def test_limits_hold_for_pictures_in_the_cache_too(
    limits: dict[str, Any], size: tuple[int, int], reason: str | None, tmp_path: Path
) -> None:
    notes = [[entry(png(1, size)), entry(png(2, (12, 12)))]]
    with _gallery(folder=tmp_path, images=2) as gallery:
        gallery.add(notes)
    config = ImagesConfig(**limits)
    warm, cold = (
        _gallery(folder=folder, images=2, config=config, source=ImageSource(limits=config)).add(notes)
        for folder in (tmp_path, None)
    )
    assert _rejects(warm) == _rejects(cold)
    assert [reject.reason for reject in warm.rejects if reject.image == 0] == ([] if reason is None else [reason])


def test_limits_said_or_left_out_are_the_same_cache(tmp_path: Path) -> None:
    with _gallery(folder=tmp_path) as gallery:
        gallery.add([[entry(png(1))]])
    said = ImagesConfig(
        max_aspect_ratio=200.0, max_pixels=50_000_000, min_side_px=1, max_bytes=10_000, fetch=True, workers=0
    )
    same = _gallery(folder=tmp_path, config=said, source=ImageSource(limits=said))
    assert same.add([[entry(png(1))]]).cached == 1


def test_what_another_process_adds_is_seen_after_clear(tmp_path: Path) -> None:
    mine, other = _gallery(folder=tmp_path), _gallery(folder=tmp_path)
    with other:
        other.add([[entry(png(1))]])
    mine.clear()
    assert mine.add([[entry(png(1))]]).cached == 1


def test_a_damaged_cache_is_computed_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tower = FakeTower()
    with _gallery(tower, folder=tmp_path) as first:
        first.add([[entry(png(1))]])
    (path,) = tmp_path.glob("*/*.arrow")
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[: len(data) // 2])
    with caplog.at_level(logging.WARNING):
        gallery = _gallery(tower, folder=tmp_path)
        assert gallery.add([[entry(png(1))]]).computed == 1
    assert "damaged" in caplog.text
    np.testing.assert_array_equal(gallery.take(np.array([0]))[0], features_of(tower, png(1)))


def test_a_cache_of_no_size_is_none(tmp_path: Path) -> None:
    gallery = _gallery(folder=tmp_path, config=ImagesConfig(cache_gib=0))
    gallery.add([[entry(png(1))]])
    assert len(gallery) == 1 and not any(tmp_path.iterdir())


def test_cleared_rows_make_room(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        gallery = _gallery(folder=tmp_path, config=ImagesConfig(cache_gib=5000 / 2**30))
        for number in range(6):
            gallery.add([[entry(png(number))]])
            assert len(gallery) == 1
            gallery.clear()
    assert sum(path.stat().st_size for path in tmp_path.glob("*/*.arrow")) <= 5000 and not caplog.records
