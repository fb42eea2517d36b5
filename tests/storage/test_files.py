"""Files that are never half-written."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from noterec import storage
from noterec.errors import ArtefactError, InputError
from noterec.storage import objects
from noterec.storage.files import Hashing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("old")
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), storage.atomic_write(file) as out:
            out.write(b"half of the n")
            raise error
    assert (file.read_text(), names(tmp_path)) == ("old", ["a.json"])


def test_a_full_disk_is_said_in_one_line_and_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("old")
    said = "could not be written: No space left on device; nothing was changed"
    with pytest.raises(InputError, match=said), storage.atomic_write(file):
        raise OSError(28, "No space left on device")
    assert (file.read_text(), names(tmp_path)) == ("old", ["a.json"])


def test_a_written_file_has_the_usual_rights(tmp_path: Path) -> None:
    (tmp_path / "usual").write_text("")
    storage.write_json(tmp_path / "new" / "a.json", {"ü": 1})
    assert json.loads((tmp_path / "new" / "a.json").read_text(encoding="utf-8")) == {"ü": 1}
    rights = [stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "usual", tmp_path / "new" / "a.json")]
    assert rights[0] == rights[1]


def test_the_umask_holds_and_is_never_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(os, "umask", lambda _: pytest.fail("the umask is that of all threads"))
            storage.write_json(tmp_path / "a.json", 1)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o640


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    with storage.atomic_write(tmp_path / "a") as one, storage.atomic_write(tmp_path / "a") as two:
        one.write(b"one")
        two.write(b"two")
        assert len(names(tmp_path)) == 2
    assert ((tmp_path / "a").read_bytes(), names(tmp_path)) == (b"one", ["a"])


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't write there"):
        storage.write_json(tmp_path / "file" / "a.json", {})


def test_reading_json(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        storage.read_json(tmp_path / "none.json")
    (tmp_path / "bad.json").write_bytes(b"\xff{")
    with pytest.raises(ArtefactError, match="not valid JSON"):
        storage.read_json(tmp_path / "bad.json")


def test_hashes() -> None:
    assert storage.value_hash({"a": 1, "b": 2}) == storage.value_hash({"b": 2, "a": 1})
    assert storage.value_hash({"a": 1}) != storage.value_hash({"a": "1"})
    assert len(storage.value_hash(None)) == 16


def test_the_hash_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert storage.file_hash(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_hash_of_an_object(gs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "READ_BYTES", 2)
    with storage.atomic_write(f"{gs}/a") as file:
        file.write(b"abc")
    assert storage.file_hash(f"{gs}/a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_bytes_are_hashed_on_their_way(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file:
        hashing = Hashing(file)
        for part in (b"a", memoryview(b"b"), bytearray(b"c")):
            assert hashing.write(part) == 1
    assert (hashing.size, hashing.tell(), hashing.sha256) == (3, 3, storage.file_hash(tmp_path / "a"))


def test_json_in_stores(root: storage.Place) -> None:
    storage.write_json(root / "a.json", {"ü": [1]})
    assert storage.read_json(root / "a.json") == {"ü": [1]}
    with storage.atomic_write(root / "a.json") as file:
        file.write(b"{")
    with pytest.raises(ArtefactError, match=r"a\.json: not valid JSON"):
        storage.read_json(root / "a.json")
