"""Folders of shards: what the manifest names counts, whoever is killed, and whatever fails."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noterec import storage
from noterec.errors import ArtefactError, InputError
from noterec.storage import parquet, shards
from noterec.storage.stores import ConflictError

TABLE = pa.table({"x": [1, 2, 3]})


def folder(root: storage.Place, **origin: Any) -> storage.ShardFolder:
    return storage.ShardFolder(root / "t", origin=origin)


def column(root: storage.Place) -> list[int]:
    return [int(x) for x in storage.read_table(root / "t")["x"].to_pylist()]


def shards_of(root: storage.Place) -> list[str]:
    return sorted(file.name for file in (root / "t").glob("shard-*.parquet"))


def test_shards_grow_and_only_named_ones_count(tmp_path: Path) -> None:
    folder = storage.ShardFolder(tmp_path / "s", origin={"v": 1})
    for start in (0, 10):
        folder.append(pa.table({"x": [start, start + 1]}))
    pq.write_table(pa.table({"x": [99]}), tmp_path / "s" / "shard-000002.parquet")  # of a job that was killed here
    again = storage.ShardFolder(tmp_path / "s", origin={"v": 1})
    assert again.rows == 4
    assert storage.read_table(tmp_path / "s")["x"].to_pylist() == [0, 1, 10, 11]
    again.append(pa.table({"x": [20]}))
    assert storage.read_table(tmp_path / "s")["x"].to_pylist() == [0, 1, 10, 11, 20]
    record: dict[str, Any] = storage.read_json(tmp_path / "s" / "manifest.json")
    for shard in record["shards"]:
        assert storage.file_hash(tmp_path / "s" / shard["name"]) == shard["sha256"]


def test_a_table_without_shards_is_a_table(tmp_path: Path) -> None:
    storage.ShardFolder(tmp_path / "s", origin={}).commit()
    assert storage.parquet_files(tmp_path / "s") == []
    assert storage.read_origin(tmp_path / "s") == {}


def test_shards_of_another_origin_are_refused(tmp_path: Path) -> None:
    storage.ShardFolder(tmp_path / "s", origin={"v": 1}).append(TABLE)
    with pytest.raises(ArtefactError, match="holds a table of another origin"):
        storage.ShardFolder(tmp_path / "s", origin={"v": 2})


def test_folders_of_others_are_refused(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "mine.parquet")
    with pytest.raises(InputError, match="was not written by noterec"):
        storage.ShardFolder(tmp_path, origin={})
    with pytest.raises(InputError, match="was not written by noterec"):
        storage.ShardFolder(tmp_path / "mine.parquet", origin={})


@pytest.mark.parametrize("record", [[], {"files": []}, {"origin": {}, "shards": "all"}])
def test_a_manifest_of_others_is_refused(tmp_path: Path, record: Any) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(ArtefactError, match="no manifest of noterec's"):
        storage.parquet_files(tmp_path)
    with pytest.raises(ArtefactError, match="no manifest of noterec's"):
        storage.ShardFolder(tmp_path, origin={})


def test_a_shard_counts_from_the_moment_it_is_named(root: storage.Place) -> None:
    table = folder(root, v=1)
    table.state = {"epoch": 1}
    table.append(pa.table({"x": [1]}), epoch=1)
    record = storage.write_shard(root / "t", pa.table({"x": [2, 3]}), origin={"v": 1})
    assert column(root) == [1]
    assert table.add(record, epoch=2) == {**record, "epoch": 2} == table.shards[1]
    assert column(root) == [1, 2, 3]
    file = root / "t" / record["name"]
    assert (record["rows"], record["bytes"], record["sha256"]) == (2, file.stat().st_size, storage.file_hash(file))
    again = folder(root, v=1)
    assert (again.shards, again.state, again.rows) == (table.shards, {"epoch": 1}, 3)
    assert again.files() == table.files() == [root / "t" / shard["name"] for shard in table.shards]
    assert storage.read_origin(root / "t") == {"v": 1}
    with pytest.raises(ArtefactError, match="of another origin"):
        folder(root, v=2)


def test_state_without_shards(root: storage.Place) -> None:
    table = folder(root)
    table.state["complete"] = True
    table.commit()
    assert folder(root).state == {"complete": True}
    assert storage.parquet_files(root / "t") == []


def test_writers_in_turn_see_each_other(tmp_path: Path) -> None:
    one, two = folder(tmp_path), folder(tmp_path)
    for table, value in ((one, 1), (two, 2), (two, 3), (one, 4)):
        table.append(pa.table({"x": [value]}))
    assert column(tmp_path) == [1, 2, 3, 4]
    assert [shard["rows"] for shard in one.shards] == [1] * 4
    assert len(two.shards) == 3


def test_manifests_of_earlier_versions(tmp_path: Path) -> None:
    storage.write_table(pa.table({"x": [1]}), tmp_path / "t" / "shard-000000.parquet")
    digest = storage.file_hash(tmp_path / "t" / "shard-000000.parquet")
    shard = {"name": "shard-000000.parquet", "rows": 1, "sha256": digest}
    storage.write_json(tmp_path / "t" / "manifest.json", {"origin": {}, "shards": [shard]})
    table = folder(tmp_path)
    assert (table.shards, table.state, table.check(deep=True)) == ([shard], {}, [])
    table.append(pa.table({"x": [2]}))
    assert column(tmp_path) == [1, 2]
    storage.write_json(tmp_path / "t" / "manifest.json", {"origin": {}, "shards": [table.shards[1]]})
    folder(tmp_path).append(pa.table({"x": [3]}))  # they may have gaps, and the next number be taken
    assert column(tmp_path) == [2, 3]


def test_several_shards_are_named_in_one_step(root: storage.Place, monkeypatch: pytest.MonkeyPatch) -> None:
    table = folder(root)
    table.append(pa.table({"x": [1]}), epoch=0)
    written = [storage.write_shard(root / "t", pa.table({"x": [value]}), origin={}) for value in (2, 3)]
    commits: list[int] = []
    write = shards.write_manifest

    def counted(place: storage.Place, manifest: Any) -> Any:
        commits.append(len(manifest.shards))
        return write(place, manifest)

    monkeypatch.setattr(shards, "write_manifest", counted)
    assert table.extend(written, epoch=1) == [{**record, "epoch": 1} for record in written] == table.shards[1:]
    assert table.extend([]) == []
    assert commits == [3]
    assert column(root) == [1, 2, 3]
    assert folder(root).shards == table.shards


def test_names_are_never_given_again(root: storage.Place) -> None:
    table = folder(root)
    given = [table.append(pa.table({"x": [value]}))["name"] for value in range(3)]
    table.replace(table.shards[:2])
    given.append(table.append(pa.table({"x": [3]}))["name"])
    table.replace([])
    again = folder(root)  # the manifest remembers
    given += [again.append(pa.table({"x": [value]}))["name"] for value in (4, 5)]
    assert len(set(given)) == 6
    assert column(root) == [4, 5]


def test_numbers_go_on_as_long_as_none_became_free(tmp_path: Path) -> None:
    table = folder(tmp_path)
    table.append(pa.table({"x": [0]}))
    worker = table.add(storage.write_shard(tmp_path / "t", pa.table({"x": [1]}), origin={}))
    folder(tmp_path).append(pa.table({"x": [2]}))
    assert shards_of(tmp_path) == sorted(["shard-000000.parquet", worker["name"], "shard-000002.parquet"])


@pytest.mark.parametrize("read", [storage.read_table, storage.read_origin])
def test_who_reads_while_shards_are_replaced_gets_the_new_ones(
    root: storage.Place, monkeypatch: pytest.MonkeyPatch, read: Callable[..., Any]
) -> None:
    table = folder(root, v=1)
    for value in (1, 2, 3):
        table.append(pa.table({"x": [value]}))
    opened = parquet.open_parquet
    calls: list[str] = []

    def beaten(file: storage.Place) -> pq.ParquetFile:
        early = opened(file) if read is storage.read_table else None
        if not calls:  # a compaction ends here, after the list was read
            table.replace([storage.write_shard(root / "t", pa.table({"x": [10, 20]}), origin={"v": 1})])
        calls.append(file.name)
        return early or opened(file)

    monkeypatch.setattr(parquet, "open_parquet", beaten)
    found = read(root / "t")
    assert (found["x"].to_pylist() == [10, 20]) if read is storage.read_table else (found == {"v": 1})
    assert calls[-1] == table.shards[0]["name"]


def test_a_missing_shard_is_named_with_what_strikes_it_out(root: storage.Place) -> None:
    table = folder(root)
    first, second = (table.append(pa.table({"x": [value]})) for value in (1, 2))
    (root / "t" / second["name"]).unlink()
    said = rf"^{root}/t: shards that it lists are missing \(.*{second['name']}: no such file.*embeddings repair {root}/t` strikes"
    with pytest.raises(ArtefactError, match=said):
        storage.read_table(root / "t")
    assert storage.read_table(root / "t" / first["name"])["x"].to_pylist() == [1]
    with pytest.raises(InputError, match="no such file or folder"):
        storage.read_table(root / "t" / second["name"])


def test_a_list_that_changes_and_still_names_a_missing_shard(tmp_path: Path) -> None:
    table = folder(tmp_path)
    for value in (1, 2):
        table.append(pa.table({"x": [value]}))
    (tmp_path / "t" / table.shards[0]["name"]).unlink()
    asked: list[int] = []

    def read(files: list[storage.Place]) -> list[pa.Table]:
        asked.append(len(files))
        table.append(pa.table({"x": [3]}))
        return [storage.read_table(file) for file in files]

    with pytest.raises(ArtefactError, match="shards that it lists are missing"):
        storage.read_files(tmp_path / "t", read)
    assert asked == [2, 3]


def test_the_list_of_shards_is_swapped_in_one_step(root: storage.Place) -> None:
    table = folder(root)
    first, second, third = (table.append(pa.table({"x": [value]})) for value in (1, 2, 3))
    merged = storage.write_shard(root / "t", pa.table({"x": [10, 20]}), origin={})
    table.replace([merged, third])
    assert column(root) == [10, 20, 3]
    assert shards_of(root) == sorted([merged["name"], third["name"]])
    assert first["name"] not in table.append(pa.table({"x": [4]})).values()
    assert column(root) == [10, 20, 3, 4]  # its number was taken, and nothing was written over
    assert second["name"] != third["name"]


def test_damage_is_found(root: storage.Place) -> None:
    table = folder(root)
    gone, short, flipped, whole = (table.append(pa.table({"x": [value]})) for value in range(4))
    assert table.check(deep=True) == []
    data = (root / "t" / flipped["name"]).read_bytes()
    (root / "t" / gone["name"]).unlink()
    for record, content in ((short, data[:-1]), (flipped, bytes([data[0] ^ 1]) + data[1:])):
        with storage.atomic_write(root / "t" / record["name"]) as file:
            file.write(content)
    found = [
        storage.Damage(gone["name"], "is missing"),
        storage.Damage(short["name"], f"has {len(data) - 1} bytes instead of {len(data)}"),
    ]
    assert table.check() == found
    assert table.check(deep=True) == [*found, storage.Damage(flipped["name"], "holds other bytes than were written")]
    assert whole["name"] in shards_of(root)


@pytest.mark.parametrize("store", ["s3", "gs"])
def test_of_two_writers_in_a_store_one_loses_and_harms_nothing(store: str, request: pytest.FixtureRequest) -> None:
    root = storage.place(request.getfixturevalue(store))
    folder(root).append(pa.table({"x": [1]}))
    winner, loser = folder(root), folder(root)
    winner.append(pa.table({"x": [2]}))
    for change in (lambda: loser.append(pa.table({"x": [3]})), loser.commit, lambda: loser.replace([])):
        with pytest.raises(ConflictError, match="another job has written to this output"):
            change()
    assert column(root) == [1, 2]
    assert len(loser.shards) == 1
    again = folder(root)
    again.append(pa.table({"x": [3]}))
    assert column(root) == [1, 2, 3]
    assert len(shards_of(root)) == 4  # the loser's, too, until the next job claims the folder
    with again.claim("tests"):
        assert len(shards_of(root)) == 3


@pytest.mark.parametrize("store", ["s3", "gs"])
def test_two_that_begin_at_once_in_a_store(store: str, request: pytest.FixtureRequest) -> None:
    root = storage.place(request.getfixturevalue(store))
    one, two = folder(root), folder(root)
    one.append(pa.table({"x": [1]}))
    with pytest.raises(ConflictError):
        two.commit()
    assert column(root) == [1]
    two.append(pa.table({"x": [2]}))  # reads first what is there
    assert column(root) == [1, 2]


def test_a_claim_removes_what_a_killed_job_left_and_nothing_else(root: storage.Place) -> None:
    table = folder(root)
    kept = table.append(pa.table({"x": [1]}))
    storage.write_shard(root / "t", TABLE, origin={})  # a worker's, that was never named
    left = [".shard-0123456789abcdef.parquet.ab12_xyz.tmp", ".manifest.json.abcdefgh.tmp", "shard-000007.parquet"]
    others = ["shard-mine.parquet", "rejects.parquet", ".shard-notes.tmp", "notes.txt"]
    for name in (*left, *others):
        with storage.atomic_write(root / "t" / name) as file:
            file.write(b"x")
    with table.claim("tests"):
        there = {file.name for file in (root / "t").glob("*")} - {"manifest.json", ".lock", ".job.lock"}
        assert there == {kept["name"], *others}
    assert column(root) == [1]


def test_a_claim_reads_what_the_job_before_left(root: storage.Place) -> None:
    table = folder(root)
    before = folder(root)
    before.state = {"epoch": 3}
    before.append(pa.table({"x": [1]}))
    with table.claim("tests"):
        assert (table.rows, table.state) == (1, {"epoch": 3})
        table.append(pa.table({"x": [2]}))
    assert column(root) == [1, 2]


def test_a_killed_first_job_leaves_a_folder_that_is_ours(root: storage.Place) -> None:
    with pytest.raises(KeyboardInterrupt), folder(root).claim("tests"):
        storage.write_shard(root / "t", TABLE, origin={})
        raise KeyboardInterrupt
    assert storage.parquet_files(root / "t") == []
    with folder(root).claim("tests"):
        assert shards_of(root) == []


def test_a_first_append_that_is_interrupted_leaves_a_folder_that_is_ours(
    root: storage.Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(storage.ShardFolder, "_add", interrupt)
        folder(root).append(TABLE)
    assert len(shards_of(root)) == 1
    table = folder(root)
    table.append(pa.table({"x": [1]}))
    assert column(root) == [1]
    with table.claim("tests"):
        assert len(shards_of(root)) == 1


def test_a_run_that_made_nothing_leaves_room_for_another_origin(root: storage.Place) -> None:
    first = folder(root, dtype="float32")
    with pytest.raises(ZeroDivisionError), first.claim("tests"):
        first.state = {"epoch": 3}
        first.commit()
        storage.write_shard(root / "t", TABLE, origin={"dtype": "float32"})
        raise ZeroDivisionError
    second = folder(root, dtype="float16")
    assert second.state == {}
    with second.claim("tests"):
        assert storage.read_json(root / "t" / "manifest.json")["origin"] == {"dtype": "float16"}
        assert shards_of(root) == []
        second.append(pa.table({"x": [1]}))
    assert column(root) == [1]
    for refused in (lambda: folder(root, dtype="float32"), lambda: first.claim("tests").__enter__()):
        with pytest.raises(ArtefactError, match="holds a table of another origin"):
            refused()


def test_a_first_append_takes_the_place_of_a_run_that_made_nothing(root: storage.Place) -> None:
    folder(root, v=1).commit()
    folder(root, v=2).append(pa.table({"x": [1]}))
    assert (column(root), folder(root, v=2).rows) == ([1], 1)


FULL = """
import resource, signal, sys
import numpy as np, pyarrow as pa
from noterec import storage
from noterec.errors import InputError
from noterec.storage.stores import ConflictError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
table = storage.ShardFolder(sys.argv[1], origin={})
with table.claim("tests"):
    table.append(pa.table({"x": [1]}))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    try:
        table.append(pa.table({"x": np.random.default_rng(0).integers(0, 2**60, 100_000)}))
    except InputError as error:
        print(error)
print(table.rows, table.check(deep=True))
"""


def test_a_disk_that_takes_no_more(tmp_path: Path, python: Callable[..., Any]) -> None:
    process = python(FULL, tmp_path / "t")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    said, facts = out.splitlines()
    assert "could not be written: File too large; nothing was changed" in said
    assert facts == "1 []"
    assert sorted(file.name for file in (tmp_path / "t").iterdir()) == [
        ".lock",
        "manifest.json",
        "shard-000000.parquet",
    ]
    folder(tmp_path).append(pa.table({"x": [2]}))
    assert column(tmp_path) == [1, 2]


def test_a_disk_that_is_full_at_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = folder(tmp_path)
    table.append(pa.table({"x": [1]}))
    before = (tmp_path / "t" / "manifest.json").read_bytes()
    make = os.open

    def full(path: Any, flags: int, mode: int = 0o777) -> int:
        if Path(path).name.startswith(".manifest"):
            os.close(make(path, flags, mode))
            return make("/dev/full", os.O_WRONLY)
        return make(path, flags, mode)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", full)
        with pytest.raises(InputError, match=r"manifest\.json: could not be written: No space left on device"):
            table.append(pa.table({"x": [2]}))
    assert (tmp_path / "t" / "manifest.json").read_bytes() == before
    assert (table.rows, column(tmp_path)) == (1, [1])
    assert not [file for file in (tmp_path / "t").iterdir() if file.suffix == ".tmp"]
    table.append(pa.table({"x": [2]}))
    assert column(tmp_path) == [1, 2]
    assert folder(tmp_path).check(deep=True) == []


def test_an_output_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    blocked = storage.ShardFolder(tmp_path / "file" / "t", origin={})
    read_only = folder(tmp_path)
    read_only.append(pa.table({"x": [1]}))

    def refuse(*_: Any) -> int:
        raise OSError(30, "Read-only file system")

    for change in (blocked.commit, lambda: blocked.append(TABLE), lambda: blocked.claim("tests").__enter__()):
        with pytest.raises(InputError, match="can't write there: Not a directory"):
            change()
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InputError, match="can't write there: Read-only file system"):
        read_only.append(TABLE)
    assert (read_only.rows, column(tmp_path)) == (1, [1])


def test_a_manifest_is_read_by_people_too(tmp_path: Path) -> None:
    table = folder(tmp_path, v="ü")
    for value in (1, 2):
        table.append(pa.table({"x": [value]}))
    lines = (tmp_path / "t" / "manifest.json").read_text(encoding="utf-8").splitlines()
    assert lines[0] == '{"origin": {"v": "ü"}, "state": {}, "shards": ['
    assert [json.loads(line.rstrip(",]}") + "}")["rows"] for line in lines[1:]] == [1, 1]
