"""What tells one picture from another without decoding it: it changes when the picture does, and no entry is too bad for one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noterec.config import ImagesConfig
from noterec.notes.images import source as module
from noterec.notes.images.source import ImageSource


def _path(path: str) -> dict[str, Any]:
    return {"bytes": None, "path": path}


def test_bytes() -> None:
    source = ImageSource()
    stamp = source.stamp({"bytes": b"a", "path": None})
    assert len(stamp) == 16 and stamp == ImageSource(limits=ImagesConfig(fetch=True)).stamp(
        {"bytes": b"a", "path": "x"}
    )
    assert stamp != source.stamp({"bytes": b"b", "path": None})
    assert source.stamp({"bytes": b"", "path": None}) != source.stamp(None)


@pytest.mark.parametrize(
    ("limit", "value"), [("max_bytes", 5), ("max_pixels", 7), ("min_side_px", 2), ("max_aspect_ratio", 3)]
)
def test_limits_that_decide_whether_it_can_be_used(limit: str, value: int, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"12")
    for entry in ({"bytes": b"a", "path": None}, _path("a.jpg")):
        usual = ImageSource(tmp_path).stamp(entry)
        default = ImagesConfig.model_fields[limit].default
        assert ImageSource(tmp_path, ImagesConfig(**{limit: default})).stamp(entry) == usual
        one, other = (
            ImageSource(tmp_path, ImagesConfig(**{limit: number})).stamp(entry) for number in (value, value + 1)
        )
        assert len({usual, one, other}) == 3


def test_costs_are_no_part_of_it() -> None:
    other = ImagesConfig(fetch_seconds=1, workers=3, cache_gib=0)
    assert ImageSource(limits=other).stamp({"bytes": b"a"}) == ImageSource().stamp({"bytes": b"a"})


def test_a_file_by_path_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(b"12")
    os.utime(file, ns=(5, 7))
    source = ImageSource(tmp_path)
    monkeypatch.setattr(ImageSource, "read", lambda *_: pytest.fail("a file was read"))
    found = [source.stamp(_path("a.jpg"))]
    assert source.stamp(_path("a.jpg")) == found[0]
    os.utime(file, ns=(5, 8))
    found.append(source.stamp(_path("a.jpg")))
    file.write_bytes(b"123")
    os.utime(file, ns=(5, 8))
    found.append(source.stamp(_path("a.jpg")))
    (tmp_path / "b.jpg").hardlink_to(file)
    found.append(source.stamp(_path("b.jpg")))
    file.unlink()
    found.append(source.stamp(_path("a.jpg")))
    found.append(source.stamp({"bytes": b"a.jpg\x003\x008", "path": None}))
    assert len(set(found)) == len(found)


def test_what_can_not_be_reached(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (tmp_path / "root" / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    source = ImageSource(tmp_path / "root")
    outside = source.stamp(_path("out.jpg"))
    (tmp_path / "secret.jpg").write_bytes(b"a longer secret")
    # Nothing about a file outside shows.
    assert (
        outside == source.stamp(_path("out.jpg")) == source.stamp(_path("../secret.jpg")) == source.stamp(_path("/etc"))
    )
    others = {source.stamp(entry) for entry in (_path("none"), _path("."), _path("a\0b"), _path("s3://b/a"), None)}
    assert len(others | {outside, ImageSource().stamp(_path("out.jpg"))}) == 7


def test_urls() -> None:
    fetching = ImageSource(limits=ImagesConfig(fetch=True))
    a, b = (fetching.stamp(_path(f"https://h/{name}")) for name in "ab")
    assert a != b
    assert ImageSource().stamp(_path("https://h/a")) == ImageSource().stamp(_path("https://h/b")) != a
    assert fetching.url(_path("HTTPS://h/a")) == "HTTPS://h/a" and fetching.url(_path("ftp://h/a")) is None
    assert (
        fetching.url({"bytes": b"x", "path": "https://h/a"}) is None and ImageSource().url(_path("https://h/a")) is None
    )


@given(
    entry=st.none()
    | st.fixed_dictionaries(
        {"bytes": st.none() | st.binary(max_size=9), "path": st.none() | st.text(st.characters(), max_size=30)}
    )
)
def test_no_entry_is_too_bad(entry: Any) -> None:
    here = Path(module.__file__).parent
    for source in (ImageSource(), ImageSource(here), ImageSource(here, ImagesConfig(fetch=True))):
        assert len(source.stamp(entry)) == 16
