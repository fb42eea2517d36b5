"""Cards, search and pictures of a dataset's notes, whatever its columns and files."""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from noterec import schema
from noterec.config import ImagesConfig
from noterec.errors import ImageError, InputError
from noterec.serving.explorer import catalogue as module
from noterec.serving.explorer.catalogue import Card, Catalogue
from noterec.serving.explorer.spool import MAX_CONTENT, MAX_TAG, MAX_TAGS, fold
from noterec.serving.explorer.thumbnails import SIDES_PX, Thumbnails


def png(colour: str, size: tuple[int, int] = (8, 6)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def image(data: bytes | None, path: str | None = None) -> dict[str, Any]:
    return {"bytes": data, "path": path}


def write(folder: Path, *files: list[dict[str, Any]], row_group_size: int | None = None) -> Path:
    """A dataset with one file for each list of notes."""
    (folder / "notes").mkdir(parents=True)
    for number, notes in enumerate(files):
        table = pa.Table.from_pylist(notes, schema=schema.NOTES)
        pq.write_table(table, folder / "notes" / f"{number}.parquet", row_group_size=row_group_size)
    return folder


def test_a_card_says_what_the_note_says(tmp_path: Path) -> None:
    when = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
    note = {
        "note_id": "a", "title": "Cold brew", "content": "18 hours", "hashtags": ["coffee", "", "home"],
        "category": "Food/Coffee", "author_id": "u1", "language": "en", "created_at": when, "exposure": 7,
        "images": [image(png("red")), image(png("blue"))],
    }  # fmt: skip
    catalogue = Catalogue.open(write(tmp_path / "d", [note, {"note_id": "b"}]))
    assert catalogue.card("a") == Card(
        "a", "Cold brew", "18 hours", 8, ("coffee", "home"), "Food/Coffee", "u1", "en", when, 7, 2
    )
    assert catalogue.card("b") == Card("b")
    assert catalogue.card("c") is None
    assert catalogue.card("") is None
    assert len(catalogue) == 2


def test_missing_columns_are_unknown(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    pq.write_table(pa.table({"note_id": [1, 2], "title": ["one", None]}), tmp_path / "notes" / "0.parquet")
    pq.write_table(pa.table({"note_id": ["3"], "content": ["three"]}), tmp_path / "notes" / "1.parquet")
    catalogue = Catalogue.open(tmp_path)
    assert [catalogue.card(i) for i in "123"] == [
        Card("1", "one"),
        Card("2"),
        Card("3", None, "three", 5),
    ]
    assert [card.note_id for card in catalogue.search("one")] == ["1"]


def test_the_newest_version_counts_and_deleted_notes_don_t(tmp_path: Path) -> None:
    old, new = (dt.datetime(2026, 1, day, tzinfo=dt.UTC) for day in (1, 2))
    catalogue = Catalogue.open(
        write(
            tmp_path / "d",
            [
                {"note_id": "a", "title": "old", "updated_at": old, "images": [image(png("red"))]},
                {"note_id": "b", "title": "gone", "deleted": True},
            ],
            [{"note_id": "x"}, {"note_id": "a", "title": "new", "updated_at": new, "images": [image(png("blue"))]}],
        )
    )
    assert catalogue.card("a") == Card("a", "new", images=1)
    assert catalogue.card("b") is None
    assert catalogue.image("a", 0) == png("blue")
    assert catalogue.search("old") == []


def test_text_is_cut_to_what_a_page_can_bear(tmp_path: Path) -> None:
    note = {"note_id": "a", "title": "t" * 5000, "content": "ö" * 100_000, "hashtags": ["h" * 500] * 200}
    card = Catalogue.open(write(tmp_path / "d", [note])).card("a")
    assert card is not None
    assert card.title == "t" * 500
    assert card.content == "ö" * MAX_CONTENT
    assert card.content_length == 100_000
    assert card.hashtags == ("h" * MAX_TAG,) * MAX_TAGS


def test_search_puts_the_closest_first(tmp_path: Path) -> None:
    titles = {
        "n1": "Notes on brewing beer",
        "n2": "Brew",
        "n3": "Homebrew diary",
        "n4": "Cold BREW at home",
        "n5": "Tea",
        "brew": "nothing alike",
    }
    notes = [{"note_id": i, "title": title} for i, title in titles.items()]
    notes.append({"note_id": "n6", "title": "Untitled", "hashtags": ["#brew"]})
    catalogue = Catalogue.open(write(tmp_path / "d", notes))

    def found(text: str, limit: int = 10) -> list[str]:
        return [card.note_id for card in catalogue.search(text, limit)]

    # Its id; the title that begins so; at the start of a word, the shorter first; inside a word.
    assert found("brew") == ["brew", "n2", "n6", "n4", "n1", "n3"]
    assert found("ＢＲＥＷ  ") == ["n2", "n6", "n4", "n1", "n3"]  # full-width letters, and not the id itself
    assert found("home cold") == ["n4"]  # all words, in any order
    assert found("#brew") == ["n6"]
    assert found("brew", 2) == ["brew", "n2"]
    assert found("brew tea") == found("") == found("  ") == found("%_.*") == []


@pytest.mark.parametrize(
    "text", ["<script>", "\u202e", "\u200b\u200d", "\ud800", "a" * 100_000, "\x00", "'; drop", "*?["]
)
def test_any_text_may_be_searched(tmp_path: Path, text: str) -> None:
    catalogue = Catalogue.open(
        write(tmp_path / "d", [{"note_id": "a", "title": f"x {text[:50]}".encode("utf-8", "replace").decode()}])
    )
    assert len(catalogue.search(text)) <= 1
    assert catalogue.card(text) is None


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6), unique=True, min_size=1),
    st.integers(1, 4),
    st.integers(1, 5),
)
def test_every_note_is_found_by_its_id_and_only_by_it(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], files: int, group: int
) -> None:
    parts = [
        [{"note_id": i, "title": f"note {i}", "images": [image(i.encode())]} for i in ids[n::files]]
        for n in range(files)
    ]
    folder = write(tmp_path_factory.mktemp("d"), *filter(None, parts), row_group_size=group)
    catalogue = Catalogue.open(folder)
    for note_id in ids:
        card = catalogue.card(note_id)
        assert card is not None and card.note_id == note_id
        assert catalogue.image(note_id, 0) == note_id.encode()
    assert catalogue.card("".join(ids) + "!") is None
    catalogue.close()


def test_ids_whose_hashes_collide_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import polars as pl

    monkeypatch.setattr(pl.Series, "hash", lambda self: pl.Series([2**64 - 1] * len(self), dtype=pl.UInt64))
    folder = write(tmp_path / "d", [{"note_id": i, "title": i} for i in "abc"])
    monkeypatch.setattr(module.Dataset, "_id_hashes", lambda self, file: __import__("numpy").arange(3, dtype="uint64"))
    catalogue = Catalogue.open(folder)
    assert [catalogue.card(i).title for i in "abc"] == ["a", "b", "c"]  # type: ignore[union-attr]
    assert catalogue.card("d") is None


def test_what_a_note_takes_of_the_memory(tmp_path: Path) -> None:
    notes = [{"note_id": f"n{i}", "content": "x" * 1000} for i in range(500)]
    catalogue = Catalogue.open(write(tmp_path / "d", notes))
    assert catalogue._hashes.nbytes + catalogue._order.nbytes == 12 * 500


def test_no_file_stays_behind_whatever_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "d", [{"note_id": "a", "title": "one"}], [{"note_id": "b", "title": "two"}])
    spool = tmp_path / "tmp"
    spool.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(spool))
    seen: list[list[Path]] = []
    original = module.Dataset.located_batches

    def watched(self: Any, *given: Any, **options: Any) -> Iterator[Any]:
        for batch in original(self, *given, **options):
            seen.append(list(spool.iterdir()))  # while it is written
            yield batch

    monkeypatch.setattr(module.Dataset, "located_batches", watched)
    catalogue = Catalogue.open(folder)
    assert seen == [[], []] and list(spool.iterdir()) == []
    assert [catalogue.card(i) for i in "ab"] == [Card("a", "one"), Card("b", "two")]
    descriptors = Path("/proc/self/fd")
    if descriptors.is_dir():
        mine = f"{spool}/"
        assert sum(str(link.readlink()).startswith(mine) for link in descriptors.iterdir() if link.is_symlink()) == 1
    catalogue.close()
    assert catalogue.card("a") is None and catalogue.search("one") == [] and len(catalogue) == 0


def test_pictures_that_can_t_be_given(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "in.png").write_bytes(png("green"))
    (tmp_path / "secret.png").write_bytes(png("red"))
    paths = ["in.png", "../secret.png", "/etc/passwd", "https://example.com/a.png"]
    folder = write(tmp_path / "d", [{"note_id": "a", "images": [image(None, path) for path in paths]}])
    without = Catalogue.open(folder)
    below = Catalogue.open(folder, image_root=tmp_path / "pictures")
    assert below.image("a", 0) == png("green")
    with pytest.raises(ImageError, match="--image-root"):
        without.image("a", 0)
    for number, reason in ((1, "outside-root"), (2, "outside-root"), (3, "url")):
        with pytest.raises(ImageError) as caught:
            below.image("a", number)
        assert caught.value.reason == reason
    for note_id, number in (("a", 4), ("a", -1), ("b", 0)):
        with pytest.raises(InputError, match="there is no picture"):
            below.image(note_id, number)


def test_a_dataset_that_changed_under_it_gives_no_wrong_picture(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", [{"note_id": "a", "images": [image(png("red"))]}])
    catalogue = Catalogue.open(folder)
    file = folder / "notes" / "0.parquet"
    other = [{"note_id": "b", "images": [image(png("blue"))]}]
    pq.write_table(pa.Table.from_pylist(other, schema=schema.NOTES), file)
    with pytest.raises(InputError, match="written to since"):
        catalogue.image("a", 0)
    file.write_bytes(b"no parquet")
    with pytest.raises(InputError, match="written to since"):
        catalogue.image("a", 0)
    file.unlink()
    with pytest.raises(InputError, match="written to since"):
        catalogue.image("a", 0)


def test_thumbnails_are_small_and_kept_in_a_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = [{"note_id": str(i), "images": [image(png("red", (900 + i, 300)))]} for i in range(5)]
    catalogue = Catalogue.open(write(tmp_path / "d", notes))
    made = Thumbnails(catalogue).get("0", 0)
    opened = Image.open(io.BytesIO(made.data))
    assert (opened.format, opened.size) == ("WEBP", (SIDES_PX["small"], 107))
    assert Image.open(io.BytesIO(Thumbnails(catalogue).get("0", 0, "large").data)).size == (SIDES_PX["large"], 267)

    reads: list[str] = []
    original = Catalogue.image
    monkeypatch.setattr(Catalogue, "image", lambda self, i, n: (reads.append(i), original(self, i, n))[1])
    room = Thumbnails(catalogue, cache_bytes=2 * len(made.data) + 40)
    for note_id in ("0", "0", "1", "0", "2", "0", "1"):  # two fit: 1 is forgotten when 2 comes
        assert room.get(note_id, 0).etag
    assert reads == ["0", "1", "2", "1"]
    assert room.get("0", 0) == made
    assert room._bytes == sum(len(kept.data) for kept in room._kept.values()) <= room._room


def test_a_picture_beyond_a_limit_has_no_thumbnail(tmp_path: Path) -> None:
    notes = [
        {
            "note_id": "a",
            "images": [
                image(png("red", (400, 400))),
                image(b"<svg onload=alert(1)>"),
                image(png("red", (90, 90))[:70]),
            ],
        }
    ]
    thumbnails = Thumbnails(Catalogue.open(write(tmp_path / "d", notes)), ImagesConfig(max_pixels=100_000))
    reasons = []
    for number in range(3):
        with pytest.raises(ImageError) as caught:
            thumbnails.get("a", number)
        reasons.append(caught.value.reason)
    assert reasons == ["too-many-pixels", "unknown-format", "corrupt"]


def test_folding() -> None:
    assert fold("  Ｃold\u00a0BREW\n straße ") == "cold brew strasse"
