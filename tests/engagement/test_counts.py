"""Co-occurrence piece by piece: complete, exact, and bounded."""

from __future__ import annotations

import polars as pl
import pytest

from noterec.engagement import counts
from noterec.engagement.history import history
from noterec.notes.dataset import Dataset
from tests.engagement.logs import make_dataset, note_ids, random_events


@pytest.fixture
def rows(tmp_path):
    data = Dataset(make_dataset(tmp_path / "d", note_ids(20), random_events(2, users=25, events=700)))
    return history(data.engagement(), data.note_ids, clock="time", views=True, max_notes_per_user=1000)


def brute_force(rows, directional):
    found: dict[tuple[int, int], list[float]] = {}
    everything = list(zip(rows.user, rows.note, rows.seen, rows.engaged, strict=True))
    for user, a, seen, engaged_a in everything:
        for other, b, _, engaged in everything:
            if user != other or a == b or engaged < 0 or (seen > engaged if directional else engaged_a < 0):
                continue
            total = found.setdefault((int(a), int(b)), [0, 0.0])
            total[0] += 1
            total[1] += rows.weight[user]
    return found


@pytest.mark.parametrize("directional", [True, False])
@pytest.mark.parametrize("partition_events", [1, 7, 250_000])
def test_every_anchor_comes_once_and_whole(rows, directional, partition_events):
    pieces = list(counts.cooccurrences(rows, directional=directional, partition_events=partition_events))
    anchors = [anchor for piece in pieces for anchor in piece["anchor"].unique().sort()]
    assert anchors == sorted(set(anchors))
    expected = brute_force(rows, directional)
    table = pl.concat(pieces)
    assert {(a, b): s for a, b, s, _ in table.rows()} == {pair: s for pair, (s, _) in expected.items()}
    if directional:
        weights = {(a, b): w for a, b, _, w in table.rows()}
        assert weights == pytest.approx({pair: w for pair, (_, w) in expected.items()})


def test_a_piece_holds_no_more_than_its_budget_and_one_event(rows, monkeypatch):
    sizes = []
    real = counts._count

    def spy(rows, piece, right, starts, lengths, directional):
        sizes.append((len(piece), int(lengths.sum())))
        return real(rows, piece, right, starts, lengths, directional)

    monkeypatch.setattr(counts, "_count", spy)
    list(counts.cooccurrences(rows, directional=True, partition_events=10))
    assert len(sizes) > 20
    assert all(events <= 10 for events, _ in sizes)
    assert all(length <= 40 or events == 1 for events, length in sizes)


def test_masks_only_leave_out(rows):
    everything = pl.concat(counts.cooccurrences(rows, directional=False))
    anchors, related = (pl.Series(range(20)).is_in(ids).to_numpy() for ids in ([3, 4, 19], [0, 4, 5]))
    some = pl.concat(counts.cooccurrences(rows, directional=False, anchors=anchors, related=related))
    assert some.equals(everything.filter(pl.col("anchor").is_in([3, 4, 19]), pl.col("related").is_in([0, 4, 5])))


def test_note_counts_are_people(rows):
    people = counts.note_counts(rows)
    assert people.tolist() == [len(set(rows.user[(rows.note == n) & (rows.engaged > 0)])) for n in range(20)]
