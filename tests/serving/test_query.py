"""Neighbours of one note, by id and by content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from noterec.config import EmbedConfig
from noterec.embedding.engine import embed
from noterec.errors import ArtefactError, InputError
from noterec.index.build import build_index
from noterec.index.search import Index
from noterec.index.selection import Selection, find
from noterec.model.encoder import NoteEncoder
from noterec.notes.dataset import Dataset
from noterec.serving.query import query


@pytest.fixture(scope="module")
def index(platform: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("query")
    embed(platform / "data", model=trained, out=folder / "embeddings", config=EmbedConfig(device="cpu"))
    build_index(folder / "embeddings", notes=platform / "data", out=folder / "index")
    return folder / "index"


def test_by_id_it_is_brute_force_over_the_others(index: Path, platform: Path) -> None:
    opened = Index.open(index)
    note_id = opened.ids[17]
    vectors = opened.vectors(np.arange(len(opened)))
    cosines = vectors @ vectors[17]
    cosines[17] = -1
    expected = [opened.ids[int(row)] for row in np.argsort(-cosines)[:5]]
    table = query(index, note_id=note_id, k=5)
    assert table["note_id"].to_list() == expected
    assert table["rank"].to_list() == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(table["score"].to_numpy(), np.sort(cosines)[::-1][:5], atol=1e-5)
    titles = dict(Dataset(platform / "data").notes(["title"]).select("note_id", "title").iter_rows())
    assert table["title"].to_list() == [titles[i] for i in expected]


def test_by_content_a_note_finds_itself(index: Path, platform: Path, trained: Path) -> None:
    row = Dataset(platform / "data").notes(["title", "content", "hashtags"]).to_dicts()[5]
    encoder = NoteEncoder.from_pretrained(trained, device="cpu")
    fields = dict(title=row["title"], content=row["content"], hashtags=row["hashtags"])
    first = query(Index.open(index), **fields, model=encoder, k=3).to_dicts()[0]
    assert first["note_id"] == row["note_id"]
    assert first["score"] == pytest.approx(1, abs=1e-5)
    tags = (tag for tag in row["hashtags"])  # an iterator is read once
    again = query(index, title=row["title"], content=row["content"], hashtags=tags, model=trained, k=1)
    assert again.to_dicts()[0]["note_id"] == row["note_id"]
    only_tags = query(index, hashtags=(tag for tag in ["coffee"]), model=encoder, k=1)
    np.testing.assert_allclose(
        only_tags["score"].to_numpy(), query(index, hashtags=["coffee"], model=encoder, k=1)["score"].to_numpy()
    )


def test_by_vector_it_is_the_note_with_that_vector(index: Path) -> None:
    opened = Index.open(index)
    vector = opened.vectors([17])[0]
    table = query(opened, vector=(3 * vector).tolist(), k=4)  # normalised
    assert table["note_id"][0] == opened.ids[17]
    assert table["note_id"].to_list()[1:] == query(opened, note_id=opened.ids[17], k=3)["note_id"].to_list()


def test_every_choice_reaches_the_search(index: Path) -> None:
    opened = Index.open(index)
    first = query(opened, note_id=opened.ids[3], k=8)
    category = first["category"][0]
    left_out = first["note_id"].to_list()[:2]
    given = dict(
        where={"category": {"under": category}}, exclude=left_out, per_author=1, duplicates=0.999, diversity=0.3
    )
    table = query(opened, note_id=opened.ids[3], k=8, **given)  # type: ignore[arg-type]
    selection = Selection(**given)  # type: ignore[arg-type]
    _, rows = find(opened, opened.vectors([3]), 8, selection, exclude=np.array([3]))
    assert table["note_id"].to_list() == [opened.ids[int(row)] for row in rows[0] if row >= 0]
    assert table.height
    assert not {*left_out, opened.ids[3]} & set(table["note_id"])
    assert set(table["category"]) == {category}
    authors = opened.attributes.filter(opened.attributes["note_id"].is_in(table["note_id"].implode()))["author_id"]
    assert authors.drop_nulls().is_unique().all()


def test_fusion_reads_words_from_the_index_and_from_the_text(index: Path, platform: Path, trained: Path) -> None:
    opened = Index.open(index)
    row = opened.row(Dataset(platform / "data").notes(["title"])["note_id"][5])
    note = Dataset(platform / "data").notes(["title", "content", "hashtags"]).to_dicts()[5]
    fields = dict(title=note["title"], content=note["content"], hashtags=note["hashtags"])
    by_id = query(opened, note_id=note["note_id"], k=20, fuse=True)
    by_text = query(opened, **fields, model=trained, k=21, fuse=True, exclude=[note["note_id"]])
    assert by_id["note_id"].to_list() == by_text["note_id"].to_list()[:20]
    assert by_id["note_id"].to_list() != query(opened, note_id=note["note_id"], k=20)["note_id"].to_list()
    cosines = opened.vectors([opened.row(found) for found in by_id["note_id"]]) @ opened.vectors([row])[0]
    np.testing.assert_allclose(by_id["score"].to_numpy(), cosines, atol=1e-5)


def test_nothing_found_is_an_empty_table_with_its_columns(index: Path) -> None:
    opened = Index.open(index)
    for options in ({"where": {"exposure": -1}}, {"candidates": []}, {"exclude": opened.ids}):
        table = query(opened, note_id=opened.ids[0], **options)  # type: ignore[arg-type]
        assert table.height == 0
        assert table.columns == ["rank", "note_id", "score", "title", "category"]
    everything = query(opened, note_id=opened.ids[0], k=10**12)
    assert everything.height == len(opened) - 1


def test_what_is_refused(index: Path, backbone_folder: object) -> None:
    known = Index.open(index).ids[0]
    with pytest.raises(InputError, match="expected either a note_id of the index, or the title"):
        query(index)
    with pytest.raises(InputError, match="expected either a note_id of the index, or the title"):
        query(index, note_id=known, title="a")
    with pytest.raises(InputError, match="give the index's model"):
        query(index, title="a")
    for vector, message in (
        (np.full(Index.open(index).dimension, np.nan), "NaN"),
        ([1.0, 2.0], "shape"),
        (["x"], "no list"),
    ):
        with pytest.raises(InputError, match=message):
            query(index, vector=vector)
    with pytest.raises(InputError, match="2 query vectors; expected one"):
        query(index, vector=Index.open(index).vectors([0, 1]))
    with pytest.raises(InputError, match="fuse: a vector has no words"):
        query(index, vector=Index.open(index).vectors([0]), fuse=True)
    with pytest.raises(InputError, match="expected either a note_id of the index, or"):
        query(index, note_id=known, vector=[1.0])
    for k in (0, 2.5):
        with pytest.raises(InputError, match="expected a whole number of at least 1"):
            query(index, note_id=known, k=k)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="nobody"):
        query(index, note_id="nobody")


def test_images_are_refused_by_a_model_of_text(index: Path, trained: Path) -> None:
    with pytest.raises(InputError, match="images were given and this model reads text alone"):
        query(index, title="a", images=[b"\x89PNG"], model=trained)


def test_another_model_is_refused(index: Path, backbone_folder: object) -> None:
    assert callable(backbone_folder)
    with pytest.raises(ArtefactError, match="model"):
        query(index, title="a", model=NoteEncoder.from_pretrained(backbone_folder("llama"), device="cpu"))


def test_a_note_without_text_is_refused(index: Path, trained: Path) -> None:
    with pytest.raises(InputError, match="nothing to read"):
        query(index, title=" ", model=trained)
