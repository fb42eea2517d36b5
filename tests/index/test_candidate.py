"""A bundle that waits to be published, and bundles that lose notes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from noterec import storage
from noterec.config import IndexConfig
from noterec.errors import ArtefactError, InputError
from noterec.index import Index, build_index, bundle, changing, manage, publishing
from noterec.index.lexical import LEXICAL_FILE, Lexical
from noterec.index.manage import publish_candidate, roll_back
from noterec.index.without import discard_with, publish_without

from .conftest import embeddings_table, unit, write_dataset, write_shards

IDS = [f"n{number:03d}" for number in range(60)]


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Path]:
    """Build an index of 60 notes with words; `publish` and the settings as given."""
    vectors = unit(np.random.default_rng(0).normal(size=(60, 8)))
    titles = [f"word{number % 7} only{number}" for number in range(60)]
    data = write_dataset(tmp_path / "d", a={"note_id": IDS, "title": titles})
    table = write_shards(tmp_path / "e", embeddings_table(IDS, vectors))

    def made(publish: bool = True, *, kind: Any = "flat", new: list[str] | None = None, **config: Any) -> Path:
        settings = IndexConfig(kind=kind, attributes=["title"], **config)
        build_index(
            table, out=tmp_path / "i", notes=data, new=new or IDS[:5], config=settings, publish=publish, say=print
        )
        return tmp_path / "i"

    return made


def names(index: Path) -> list[str]:
    return [folder.name for folder in bundle.bundles(index)]


def test_a_candidate_changes_nothing_until_it_is_published(build: Callable[..., Path]) -> None:
    index = build()
    build(publish=False)
    assert names(index) == ["bundle-000001"] and bundle.live_name(index) == "bundle-000001"
    assert len(Index.open(publishing.candidate(index)).ids) == 60  # it can be looked into
    change = publish_candidate(index)
    assert (change.was, change.live) == ("bundle-000001", "bundle-000002")
    assert names(index) == ["bundle-000001", "bundle-000002"] and bundle.live_name(index) == "bundle-000002"
    assert roll_back(index).live == "bundle-000001"


def test_without_a_candidate(build: Callable[..., Path]) -> None:
    index = build()
    with pytest.raises(InputError, match="publish=False"):
        publish_candidate(index)


def test_a_second_candidate_takes_the_first_ones_place(build: Callable[..., Path]) -> None:
    index = build(publish=False, new=IDS[:1])
    build(publish=False, new=IDS[:2])
    publish_candidate(index)
    assert Index.open(index).new().sum() == 2 and names(index) == ["bundle-000001"]


@pytest.mark.parametrize("moment", ["pointing", "collecting", "pruning"])
def test_a_kill_while_it_goes_live(build: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    index = build()
    build(publish=False)

    def killed(*arguments: Any, **keywords: Any) -> None:
        raise KeyboardInterrupt

    where: dict[str, tuple[Any, str]] = {
        "pointing": (publishing, "_point"), "collecting": (manage, "collect"), "pruning": (publishing, "prune")
    }  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr(*where[moment], killed)
        with pytest.raises(KeyboardInterrupt):
            publish_candidate(index)
    assert Index.open(index).ids.len() == 60  # whichever it is
    for _ in range(2):  # the same call ends it, and once more does nothing
        change = publish_candidate(index)
        assert (change.was, change.live) == ("bundle-000001", "bundle-000002")
        assert bundle.live_name(index) == "bundle-000002" and names(index) == ["bundle-000001", "bundle-000002"]


def test_after_a_rollback_it_is_not_published_again(build: Callable[..., Path]) -> None:
    index = build()
    build(publish=False)
    publish_candidate(index)
    roll_back(index)
    with pytest.raises(ArtefactError, match="bundle-000001 is live now"):
        publish_candidate(index)
    assert bundle.live_name(index) == "bundle-000001"


def test_another_bundle_went_live_meanwhile(build: Callable[..., Path]) -> None:
    index = build()
    build()
    build(publish=False)
    roll_back(index)
    with pytest.raises(ArtefactError, match="while bundle-000002 was live, and bundle-000001 is now"):
        publish_candidate(index)
    roll_back(index, to="bundle-000002")
    build()
    with pytest.raises(ArtefactError, match="bundle-000003 is now"):
        publish_candidate(index)
    assert bundle.live_name(index) == "bundle-000003"


def test_a_candidate_that_changed_is_refused(build: Callable[..., Path]) -> None:
    index = build()
    build(publish=False)
    file = publishing.candidate(index) / bundle.VECTORS_FILE
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtefactError, match="bytes changed"):
        publish_candidate(index)
    assert bundle.live_name(index) == "bundle-000001"


def test_a_running_build_is_not_disturbed(build: Callable[..., Path]) -> None:
    index = build()
    build(publish=False)
    with publishing.building(index), pytest.raises(InputError, match="another build"):
        publish_candidate(index)


def test_the_live_bundle_is_not_discarded(build: Callable[..., Path]) -> None:
    index = build()
    with pytest.raises(InputError, match="bundle-000001 is live"):
        publishing.discard(index, ["bundle-000001"])
    publishing.discard(index, ["bundle-000009"])
    assert names(index) == ["bundle-000001"]


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf-sq8"])
def test_a_copy_without_some_notes_is_otherwise_the_same(build: Callable[..., Path], kind: str) -> None:
    index = build(kind=kind, recall_target=0.5)
    before = Index.open(index)
    gone = {"n003", "n059", "nobody"}
    assert publish_without(index, gone) == "bundle-000002"
    after = Index.open(index)
    kept = [text for text in IDS if text not in gone]
    assert after.ids.to_list() == kept
    rows = [IDS.index(text) for text in kept]
    assert np.array_equal(after.vectors(np.arange(58)), before.vectors(np.array(rows)))
    assert after.attributes.equals(before.attributes.filter(pl.col("note_id").is_in(kept)))
    info = bundle.read_info(after.folder)
    assert (info.kind, info.count, info.removed, info.previous) == (kind, 58, 2, None)
    assert info.origin["copy_of"] == "bundle-000001"
    words = Lexical.open(after.folder)
    assert [len(words.terms([word])) for word in ("only3", "only59", "only30", "word3")] == [0, 0, 1, 1]
    assert publish_without(index, gone) == "bundle-000002"  # nothing to do


def test_the_words_of_a_copy_are_those_of_a_build_without_the_notes(build: Callable[..., Path], tmp_path: Path) -> None:
    index = build()
    publish_without(index, {"n003", "n010"})
    copied = (bundle.find(index) / LEXICAL_FILE).read_bytes()
    changing.remove_notes(index, ["n003", "n010"])
    build()
    assert (bundle.find(index) / LEXICAL_FILE).read_bytes() == copied


def test_bundles_that_held_a_note_go_and_others_stay(build: Callable[..., Path]) -> None:
    index = build()
    build()
    assert discard_with(index, {"nobody"}) == []
    publish_without(index, {"n003"})
    build(publish=False)
    reader = Index.open(index)
    left = index / "bundles/.building-left"
    left.mkdir()
    assert discard_with(index, {"n003"}) == ["bundle-000001", "bundle-000002"]
    assert names(index) == ["bundle-000003"] and bundle.live_name(index) == "bundle-000003"
    assert not (index / "bundles" / publishing.CANDIDATE).exists() and not left.exists()
    assert reader.search(np.ones((1, 8), np.float32), k=1) is not None  # who had it open goes on


def test_a_candidate_that_holds_a_note_goes_alone(build: Callable[..., Path]) -> None:
    index = build(publish=False)
    assert publish_without(index, {"n003"}) is None
    assert discard_with(index, {"n003"}) == []
    assert not (index / "bundles" / publishing.CANDIDATE).exists()


def test_a_bundle_that_cannot_be_read_goes_unless_it_is_live(build: Callable[..., Path]) -> None:
    index = build()
    build()
    (index / "bundles/bundle-000001" / bundle.NOTES_FILE).write_bytes(b"x")
    assert discard_with(index, {"nobody"}) == ["bundle-000001"]
    (index / "bundles/bundle-000002" / bundle.NOTES_FILE).write_bytes(b"x")
    with pytest.raises((ArtefactError, InputError)):
        publish_without(index, {"nobody"})


def test_without_any_note_left_nothing_is_live(build: Callable[..., Path]) -> None:
    index = build()
    assert publish_without(index, set(IDS)) is None and bundle.live_name(index) == "bundle-000001"
    assert discard_with(index, set(IDS)) == ["bundle-000001"]
    assert bundle.live_name(index) is None and names(index) == []


def test_vectors_of_added_notes_go_from_the_journal(build: Callable[..., Path]) -> None:
    index = build()
    fresh = embeddings_table(["secret"], unit([np.arange(1, 9)])).select(["note_id", "embedding"])
    changing.add_notes(index, fresh.append_column("title", pa.array(["a secret title"])), model_version="m1")
    changing.remove_notes(index, ["secret"])
    assert publish_without(index, {"secret"}) == "bundle-000001"
    discard_with(index, {"secret"})
    table = storage.read_table(index / bundle.CHANGES)
    assert table["embedding"].null_count == table.num_rows == 1 and "a secret title" not in str(table.to_pylist())
    assert len(list((index / bundle.CHANGES).glob("*.parquet"))) == 1


def test_notes_are_kept_out_of_a_first_bundle(build: Callable[..., Path], tmp_path: Path) -> None:
    changing.keep_out(tmp_path / "i", ["n003"])
    assert "n003" not in set(Index.open(build()).ids)
