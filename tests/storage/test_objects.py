"""Places in object stores: names, listings, reading by ranges, conditional puts, and errors that say what to do."""

from __future__ import annotations

import io
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noterec import storage
from noterec.errors import DependencyError, InputError
from noterec.storage import objects, stores
from noterec.storage.objects import ObjectPath
from noterec.storage.stores import ConflictError


def put(path: storage.Place, data: bytes = b"x") -> None:
    with storage.atomic_write(path) as file:
        file.write(data)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("s3://bucket/a/b.parquet", "s3://bucket/a/b.parquet"),
        (Path("s3://bucket/a"), "s3://bucket/a"),  # a Path has swallowed a slash
        ("gs://bucket", "gs://bucket"),
        ("az://bucket//a//", "az://bucket/a"),
        ("S3://bucket/a b", "s3://bucket/a b"),
    ],
)
def test_urls_are_places_in_stores(given: str | Path, text: str) -> None:
    place = storage.place(given)
    assert isinstance(place, ObjectPath)
    assert str(place) == os.fspath(place) == text
    assert storage.place(place) is place


def test_other_paths_are_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert storage.place("~/a") == Path("/home/me/a")
    assert storage.place("a:b") == Path("a:b")


@pytest.mark.parametrize("url", ["http://host/a", "s3://", "s3://bucket/../a", "file:///a", "memory://a/b"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(InputError, match="expected"):
        storage.place(url)


def test_steps_that_need_files_refuse_stores() -> None:
    for url in ("s3://bucket/a", Path("s3://bucket/a"), storage.place("s3://bucket/a")):
        with pytest.raises(InputError, match=r"^s3://bucket/a: object-store URLs are not supported here"):
            storage.local(url)


def test_names() -> None:
    place = ObjectPath.parse("s3://bucket/a") / "b" / "c.tar.gz"
    assert (place.name, place.suffix, str(place.parent)) == ("c.tar.gz", ".gz", "s3://bucket/a/b")
    assert str(place.parent.parent.parent.parent) == "s3://bucket"
    assert place == ObjectPath("s3", "bucket", "a/b/c.tar.gz")
    assert len({place, place.parent / "c.tar.gz"}) == 1
    with pytest.raises(InputError, match=r"without \. or \.\."):
        _ = place / "../up"


def test_files_and_folders(root: storage.Place) -> None:
    root = root / "new"
    assert not root.exists()
    for name in ("b.parquet", "a.parquet", "c.txt", "deep/d.parquet", "deeper.parquet/e"):
        put(root / name)
    assert [str(file) for file in sorted(root.glob("*.parquet")) if file.is_file()] == [
        f"{root}/a.parquet",
        f"{root}/b.parquet",
    ]
    assert ((root / "deep").is_dir(), (root / "deep").is_file(), (root / "deep").exists()) == (True, False, True)
    assert ((root / "c.txt").is_dir(), (root / "c.txt").is_file(), (root / "c.txt").exists()) == (False, True, True)
    assert not (root / "dee").exists()  # the beginning of a name is no folder
    assert (root / "c.txt").stat().st_size == 1
    assert (root / "c.txt").read_text() == "x"
    (root / "c.txt").unlink()
    (root / "c.txt").unlink(missing_ok=True)
    assert not (root / "c.txt").exists()
    for ask in ((root / "none").stat, (root / "none").read_bytes, (root / "none").read_text, (root / "none").open):
        with pytest.raises(FileNotFoundError):
            ask()
    with pytest.raises(InputError, match="none: no such file"):
        storage.read_json(root / "none")


def test_a_whole_bucket_is_a_folder(s3: str) -> None:
    bucket = storage.place(s3)
    assert not bucket.exists()
    put(bucket / "a.parquet")
    assert bucket.is_dir()
    assert [str(file) for file in bucket.glob("*")] == [f"{s3}/a.parquet"]


def test_a_write_that_fails_leaves_what_was_there(root: storage.Place) -> None:
    put(root / "a", b"old")
    with pytest.raises(KeyboardInterrupt), storage.atomic_write(root / "a") as file:
        file.write(b"half of the n")
        raise KeyboardInterrupt
    assert (root / "a").read_bytes() == b"old"


DATA = bytes(range(256)) * 5
MOVES = st.lists(st.tuples(st.integers(-1, 1500), st.integers(-300, 1600), st.sampled_from([0, 1, 2])), max_size=8)


@settings(max_examples=40, deadline=None)
@given(MOVES)
def test_reading_is_that_of_any_file(moves: list[tuple[int, int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patched:
        from obstore.store import MemoryStore

        store = MemoryStore()
        patched.setattr(stores, "_client", lambda scheme, bucket: store)
        patched.setattr(objects, "READ_BYTES", 100)
        place = storage.place("gs://memory/a")
        put(place, DATA)
        ours, plain = place.open("rb"), io.BytesIO(DATA)
        for size, offset, whence in moves:
            if plain.tell() + offset >= 0 and len(DATA) + offset >= 0 and (whence or offset >= 0):
                assert ours.seek(offset, whence) == plain.seek(offset, whence)
            assert ours.read(size) == plain.read(size)
            assert ours.tell() == plain.tell()
        buffer = bytearray(300)
        ours.seek(1200)
        assert (ours.readinto(buffer), bytes(buffer[:80])) == (80, DATA[1200:])
        assert b"".join(place.chunks()) == DATA


@pytest.mark.parametrize("store", ["s3", "gs"])
def test_a_conditional_put_replaces_what_was_read_and_nothing_else(store: str, request: pytest.FixtureRequest) -> None:
    place = storage.place(request.getfixturevalue(store)) / "a"
    assert isinstance(place, ObjectPath)
    first = place.put_if(b"1", None)
    with pytest.raises(ConflictError, match="another job changed it"):
        place.put_if(b"2", None)
    second = place.put_if(b"2", first)
    assert place.fetch()[:2] == (b"2", second)
    with pytest.raises(ConflictError):
        place.put_if(b"3", first)
    assert place.put_if(b"2", first) == second  # our own put, whose answer was lost
    place.unlink()
    with pytest.raises(ConflictError):
        place.put_if(b"3", second)
    assert not place.exists()


def test_a_bucket_that_is_not_there(s3: str) -> None:
    place = storage.place("s3://no-such-bucket/a")
    for ask in (
        place.is_dir,
        lambda: storage.write_json(place, 1),
        lambda: storage.read_json(place),
        lambda: storage.read_table(place),
    ):
        with pytest.raises(InputError, match="there is no bucket 'no-such-bucket'; create it"):
            ask()


def test_a_store_that_cannot_be_reached(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = {"max_retries": 1, "retry_timeout": timedelta(seconds=1)}
    monkeypatch.setattr(stores, "RETRIES", quick)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"can't be reached \(.*\); check the network and AWS_ENDPOINT_URL") as said:
        storage.place("s3://unreachable/a").exists()
    assert "Debug" not in str(said.value)


@pytest.mark.parametrize(
    ("scheme", "kind", "text", "said"),
    [
        ("s3", "PermissionDeniedError", "<Code>AccessDenied</Code>", "no permission to read it (AccessDenied); give"),
        ("gs", "UnauthenticatedError", "no", "set GOOGLE_SERVICE_ACCOUNT (or GOOGLE_APPLICATION_CREDENTIALS) to"),
        ("s3", "GenericError", "PUT http://169.254.169.254/latest/api/token", "no credentials to read it with"),
        ("az", "GenericError", "Account must be specified", "set AZURE_STORAGE_ACCOUNT_NAME"),
        ("s3", "GenericError", "<Code>SlowDown</Code><Message>Less.</Message>", "refused to read it (SlowDown: Less.)"),
    ],
)
def test_refusals_say_what_to_do(monkeypatch: pytest.MonkeyPatch, scheme: str, kind: str, text: str, said: str) -> None:
    from obstore import exceptions

    def refuse(*_: Any) -> None:
        raise getattr(exceptions, kind)(f"Generic error: {text}\n\nDebug source:\nGeneric {{ }}")

    monkeypatch.setattr(stores, "_client", refuse)
    with pytest.raises(InputError) as error:
        storage.place(f"{scheme}://bucket/a").is_file()
    assert said in str(error.value)
    assert "Debug" not in str(error.value)


def test_without_obstore_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    place = storage.place("s3://bucket/a")
    for ask in (place.exists, place.is_dir, place.open, lambda: storage.write_json(place, 1)):
        with pytest.raises(DependencyError, match=r"pip install 'noterec\[cloud\]'"):
            ask()


def test_a_fork_is_told_before_it_harms_its_parent(gs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put(storage.place(gs) / "a")
    monkeypatch.setattr(stores, "_first", [os.getpid() + 1])
    with pytest.raises(RuntimeError, match="spawn"):
        (storage.place(gs) / "a").exists()
