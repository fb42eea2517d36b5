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


def test_what_is_refused(index: Path, backbone_folder: object) -> None:
    known = Index.open(index).ids[0]
    with pytest.raises(InputError, match="expected either a note_id of the index, or the title"):
        query(index)
    with pytest.raises(InputError, match="expected either a note_id of the index, or the title"):
        query(index, note_id=known, title="a")
    with pytest.raises(InputError, match="give the index's model"):
        query(index, title="a")
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
