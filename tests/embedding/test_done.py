"""What an output holds: small, whatever the ids; the last row counts; equal contents are found."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noterec import storage
from noterec.embedding import done as module
from noterec.embedding.done import Done, keys_of
from noterec.errors import ArtefactError

Rows = list[tuple[str, int | None]]  # (note_id, content hash; None = tombstone)


def folder_of(path: Path, shards: list[Rows], epochs: list[int] | None = None) -> storage.ShardFolder:
    folder = storage.ShardFolder(path, origin={"kind": "embeddings"})
    for number, rows in enumerate(shards):
        ids, hashes = [row[0] for row in rows], [row[1] for row in rows]
        table = pa.table({"note_id": pa.array(ids, pa.string()), "content_hash": pa.array(hashes, pa.uint64())})
        folder.append(table, epoch=epochs[number] if epochs else 0)
    return folder


def opened(path: Path, shards: list[Rows], epochs: list[int] | None = None, epoch: int | None = None) -> Done:
    folder = folder_of(path, shards, epochs)
    return Done(folder.path, folder.shards, epoch=epoch)


def known(done: Done, *rows: tuple[str, int]) -> list[bool]:
    keys = keys_of(pa.array([row[0] for row in rows], pa.string()))
    return [bool(found) for found in done.known(keys, np.array([row[1] for row in rows], dtype=np.uint64))]


def words(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint64)


def test_keys_are_digests_of_the_ids() -> None:
    ids = ["", "a", "手冲", "x" * 100_000, "a\x00"]
    found = keys_of(pa.chunked_array([ids[:2], ids[2:]]))
    assert found.shape == (5, 2)
    expected = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in ids]
    assert [row.tobytes() for row in found.astype("<u8")] == expected
    assert keys_of(pa.array([], pa.string())).shape == (0, 2)


def test_the_last_row_of_a_note_counts(tmp_path: Path) -> None:
    done = opened(tmp_path, [[("a", 1), ("b", 2), ("a", 3)], [("c", 4), ("b", 5)]])
    assert known(done, ("a", 3), ("b", 5), ("c", 4)) == [True] * 3
    assert known(done, ("a", 1), ("b", 2), ("c", 5), ("d", 1)) == [False] * 4
    assert (done.rows, done.notes, done.tombstones) == (5, 3, 0)
    shards, rows = done.places()
    assert list(zip(shards.tolist(), rows.tolist(), strict=True)) == [(0, 2), (1, 0), (1, 1)]


def test_a_tombstone_withdraws_and_a_later_row_brings_back(tmp_path: Path) -> None:
    done = opened(tmp_path, [[("a", 1), ("b", 2), ("x", None)], [("a", None), ("b", None)], [("b", 2)]])
    assert known(done, ("a", 1), ("b", 2), ("x", 0)) == [False, True, False]
    assert (done.rows, done.notes, done.tombstones) == (6, 1, 3)
    assert done.find(words(1, 2))[0].tolist() == [-1, 2]


def test_rows_of_another_epoch_are_held_and_not_known(tmp_path: Path) -> None:
    done = opened(tmp_path, [[("a", 1), ("b", 2)], [("a", 1)]], epochs=[0, 1], epoch=1)
    assert known(done, ("a", 1), ("b", 2)) == [True, False]
    assert done.find(words(1, 2))[0].tolist() == [1, -1]
    assert done.notes == 2
    assert done.see(keys_of(pa.array(["b", "z"]))) == 1
    assert (done.unseen, [part.tolist() for part in done.places(unseen=True)]) == (1, [[1], [0]])


def test_seen_and_not_seen(tmp_path: Path) -> None:
    done = opened(tmp_path, [[(name, 0) for name in "abcd"]])
    assert done.unseen == 4
    done.see(keys_of(pa.array(["b", "d", "nobody"])))
    assert done.places(unseen=True)[1].tolist() == [0, 2]
    done.see_all()
    done.see(keys_of(pa.array(["c"])), False)
    assert done.places(unseen=True)[1].tolist() == [2]


def test_nothing_held(tmp_path: Path) -> None:
    done = Done(tmp_path, [])
    assert known(done, ("a", 1)) == [False]
    assert (done.find(words(1))[0].tolist(), done.see(keys_of(pa.array(["a"]))), done.unseen) == ([-1], 0, 0)
    assert [len(part) for part in done.places()] == [0, 0]


def test_ids_whose_first_halves_are_the_same_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crowded(ids: Any) -> np.ndarray:
        """Digests of which only the second half tells ids apart."""
        keys = keys_of(ids)
        keys[:, 0] = keys[:, 0] % 2
        return keys

    monkeypatch.setattr(module, "keys_of", crowded)
    names = [f"n{i}" for i in range(40)]
    done = opened(tmp_path, [[(name, i) for i, name in enumerate(names)], [("n7", 100), ("n8", None)]])
    asked = crowded(pa.array([*names, *(f"m{i}" for i in range(40))]))
    hashes = words(*[100 if i == 7 else i for i in range(40)], *range(40))
    expected = [i != 8 for i in range(40)] + [False] * 40
    assert (done.notes, done.known(asked, hashes).tolist()) == (39, expected)


def test_a_note_takes_few_bytes_whatever_its_id(tmp_path: Path) -> None:
    done = opened(tmp_path, [[(f"{'long ' * 200}{i}", i) for i in range(1000)]])
    arrays = [value for value in vars(done).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in arrays) <= 33 * 1000 + 8
    assert known(done, (f"{'long ' * 200}{999}", 999)) == [True]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_contents_are_found_as_by_looking_through_them_all(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = st.integers(0, 30)
    first = data.draw(st.lists(content, max_size=20))
    done = opened(
        tmp_path_factory.mktemp("done"), [[(f"n{i}", value) for i, value in enumerate(first)]] if first else []
    )
    shards = [first] if first else []
    for added in data.draw(st.lists(st.lists(content, min_size=1, max_size=6), max_size=12)):
        done.add({"name": f"s{len(shards)}", "rows": len(added)}, words(*added))
        shards.append(added)
        found = done.find(np.arange(35, dtype=np.uint64))
        for value, shard, row in zip(range(35), *(part.tolist() for part in found), strict=True):
            assert (shard >= 0) == any(value in part for part in shards)
            assert shard < 0 or shards[shard][row] == value


def test_many_added_shards_stay_in_few_parts(tmp_path: Path) -> None:
    done = Done(tmp_path, [])
    for number in range(300):
        done.add({"name": str(number), "rows": 4}, np.arange(4 * number, 4 * number + 4, dtype=np.uint64))
    assert len(done._by_content()) < 12
    shards, rows = done.find(np.arange(1200, dtype=np.uint64))
    assert shards.tolist() == [i // 4 for i in range(1200)]
    assert rows.tolist() == [i % 4 for i in range(1200)]


@pytest.mark.parametrize("harm", ["missing", "truncated", "zeroed", "other rows"])
def test_a_damaged_shard_is_named_with_what_mends_it(tmp_path: Path, harm: str) -> None:
    folder = folder_of(tmp_path / "out", [[(f"n{i}", i * 7919) for i in range(3000)], [("a", 1)]])
    name = folder.shards[0]["name"]
    file = tmp_path / "out" / name
    data = file.read_bytes()
    if harm == "missing":
        file.unlink()
    elif harm == "truncated":
        file.write_bytes(data[:-9])
    elif harm == "zeroed":
        file.write_bytes(data[:4] + bytes(len(data) // 2) + data[4 + len(data) // 2 :])
    else:
        file.write_bytes((tmp_path / "out" / folder.shards[1]["name"]).read_bytes())
    with pytest.raises(ArtefactError, match=rf"{name}.*`noterec embeddings repair .*out` strikes out"):
        Done(folder.path, folder.shards)
