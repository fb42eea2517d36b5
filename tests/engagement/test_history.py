"""A log as one row per person and note."""

from __future__ import annotations

import numpy as np
import pytest

from noterec.engagement.history import NEVER, history
from noterec.errors import InputError
from noterec.notes.dataset import Dataset
from tests.engagement.logs import START, make_dataset

T0 = int(START.timestamp() * 1_000_000)
MINUTE = 60_000_000


def rows_of(tmp_path, events, notes="abc", clock="time", **settings):
    data = Dataset(make_dataset(tmp_path / "d", notes, events, clock=clock))
    settings = {"views": True, "max_notes_per_user": 1000, **settings}
    rows = history(data.engagement(), data.note_ids, clock=data.clock, **settings)
    return rows, list(
        zip(rows.user.tolist(), rows.note.tolist(), rows.seen.tolist(), rows.engaged.tolist(), strict=True)
    )


def test_first_view_and_last_engagement(tmp_path):
    events = [
        ("v", "c", 4),
        ("u", "b", 3, "view"),
        ("u", "a", 5, "like"),
        ("u", "a", 2, "view"),
        ("u", "a", 9, "view"),
        ("u", "a", 7, "save"),
        ("u", "a", 1, "impression"),
    ]
    rows, found = rows_of(tmp_path, events)
    at = lambda minute: T0 + minute * MINUTE  # noqa: E731
    assert found == [(0, 0, at(2), at(7)), (0, 1, at(3), NEVER), (1, 2, at(4), at(4))]
    np.testing.assert_array_equal(rows.weight, [1.0, 1.0])
    assert rows.counts["events"] == 7
    assert rows.counts["events_not_engaged"] == 1
    rows, found = rows_of(tmp_path, events, views=False)
    assert found == [(0, 0, at(5), at(7)), (1, 2, at(4), at(4))]
    assert rows.counts["events_not_engaged"] == 4


def test_codes_follow_the_ids_whatever_the_file_order(tmp_path):
    rows, found = rows_of(tmp_path, [("u", "c", 1), ("u", "a", 1)], notes="cba")
    assert rows.note_ids.to_list() == ["a", "b", "c"]
    assert [row[1] for row in found] == [0, 2]


def test_a_window_leaves_its_first_moment_out(tmp_path):
    day = 24 * 60
    events = [("u", "a", 0), ("u", "b", 1), ("u", "c", 2 * day)]
    rows, found = rows_of(tmp_path, events, window_days=2)
    assert [row[1] for row in found] == [1, 2]
    assert rows.counts["events_outside_window"] == 1


def test_without_clock_all_times_are_zero(tmp_path):
    _, found = rows_of(tmp_path, [("u", "a", 5), ("u", "b", None, "view")], clock="none")
    assert found == [(0, 0, 0, 0), (0, 1, 0, NEVER)]


def test_a_clock_that_is_promised_must_be_there(tmp_path):
    with pytest.raises(InputError, match="1 of 2 events have no timestamp though the log's clock is 'position'"):
        rows_of(tmp_path, [("u", "a", 5), ("u", "b", None)], clock="position")
