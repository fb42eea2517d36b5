"""A saved encoder as a SentenceTransformer: the same vectors, whatever it is asked with, and the same model when saved again."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from noterec.errors import ConfigError, InputError
from noterec.model import folder as folders
from noterec.model.backbone import load_backbone
from noterec.model.encoder import NoteEncoder
from noterec.model.sentence import SentenceModule, as_sentence_transformer
from noterec.notes.images.source import ImageSource
from noterec.notes.note import Note
from tests.model.test_encoder import LIMITS, headed
from tests.model.test_seeing import NOTES as PICTURED
from tests.model.test_seeing import RED, seeing

Folder = Callable[[str], Path]
INPUTS: list[Any] = [
    "eighteen hours in the fridge",
    "手冲咖啡的水温" * 9,
    '{"title": "Cold brew", "hashtags": ["coffee"]}',
    "</s><|im_end|>[SEP]",
    {"title": "Cold brew at home", "hashtags": ["coffee", "home"], "content": "learned to belay"},
    {"title": "Rope weekend", "content": None},
    {"hashtags": ["climbing"]},
    Note(title="Ten films about trains", hashtags=["home"]),
]
NOTES = [{"content": item} if isinstance(item, str) else item for item in INPUTS]


def saved(source: Path, kind: str, path: Path) -> NoteEncoder:
    """Save an encoder without a head, with one, or with one that knows words, and load it."""
    if kind == "states":
        NoteEncoder(load_backbone(str(source)), prompt=LIMITS).save_pretrained(path)
    else:
        headed(source, lexicon=kind == "lexicon").save_pretrained(path)
    return NoteEncoder.from_pretrained(path, device="cpu")


def opened(path: Path) -> SentenceTransformer:
    return SentenceTransformer(str(path), trust_remote_code=True, device="cpu")


@pytest.mark.parametrize("kind", ["states", "head", "lexicon"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "bert"])
def test_the_vectors_are_the_encoders(backbone_folder: Folder, tmp_path: Path, architecture: str, kind: str) -> None:
    encoder = saved(backbone_folder(architecture), kind, tmp_path / "m")
    expected = encoder.encode(NOTES)
    for model in (opened(tmp_path / "m"), as_sentence_transformer(tmp_path / "m", device="cpu")):
        assert model.get_embedding_dimension() == encoder.dimension
        assert model.max_seq_length == encoder.prompt.max_tokens
        for batch_size in (1, 3, 32):
            found = model.encode(INPUTS, batch_size=batch_size)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose(model.encode_query(INPUTS[0]), expected[0], atol=1e-5)
        np.testing.assert_allclose(model.encode_document([INPUTS[4]]), expected[4:5], atol=1e-5)
        cosines = model.similarity(model.encode(INPUTS), model.encode(INPUTS)).numpy()
        np.testing.assert_allclose(cosines, expected @ expected.T, atol=1e-5)


def test_a_string_is_content_whatever_it_looks_like(backbone_folder: Folder, tmp_path: Path) -> None:
    saved(backbone_folder("qwen3"), "states", tmp_path / "m")
    model = opened(tmp_path / "m")
    fields = {"title": "Cold brew", "hashtags": ["coffee"]}
    as_text, as_content, as_note = model.encode([json.dumps(fields), {"content": json.dumps(fields)}, fields])
    np.testing.assert_allclose(as_text, as_content, atol=1e-6)
    assert np.abs(as_text - as_note).max() > 1e-3


def test_saved_by_sentence_transformers_it_is_the_same_model(backbone_folder: Folder, tmp_path: Path) -> None:
    encoder = saved(backbone_folder("qwen3"), "lexicon", tmp_path / "m")
    opened(tmp_path / "m").save_pretrained(str(tmp_path / "again"))
    again = NoteEncoder.from_pretrained(tmp_path / "again", device="cpu")
    assert again.model_version == encoder.model_version
    np.testing.assert_allclose(opened(tmp_path / "again").encode(INPUTS), encoder.encode(NOTES), atol=1e-5)


def test_trained_by_sentence_transformers_it_is_another_version(backbone_folder: Folder, tmp_path: Path) -> None:
    encoder = saved(backbone_folder("qwen3"), "head", tmp_path / "m")
    model = as_sentence_transformer(tmp_path / "m", device="cpu")
    features = model.preprocess(INPUTS[:2])
    model(features)["sentence_embedding"].sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    moved = model.encode(INPUTS)
    model.save_pretrained(str(tmp_path / "moved"))
    trained = NoteEncoder.from_pretrained(tmp_path / "moved", device="cpu")
    assert trained.model_version != encoder.model_version
    assert trained.states_version != encoder.states_version  # the backbone moved too
    np.testing.assert_allclose(trained.encode(NOTES), moved, atol=1e-5)


def test_an_encoder_is_shared_not_copied(backbone_folder: Folder) -> None:
    encoder = headed(backbone_folder("qwen3"))
    model = as_sentence_transformer(encoder)
    assert next(model.parameters()).data_ptr() == next(encoder.parameters()).data_ptr()


def test_it_travels_to_other_processes(backbone_folder: Folder) -> None:
    module = SentenceModule(headed(backbone_folder("qwen3")))
    expected = module(module.preprocess(INPUTS))["sentence_embedding"]
    for other in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        # One of the inputs spells special tokens, which a tokenizer takes for real ones unless it is told not to.
        torch.testing.assert_close(other(other.preprocess(INPUTS))["sentence_embedding"], expected)


@pytest.mark.parametrize("changes", [{}, {"fusion": "none"}, {"tokens": 0, "micl": False, "fusion": "head"}])
def test_pictures_of_notes_are_seen(backbone_folder: Folder, tmp_path: Path, changes: dict[str, Any]) -> None:
    seeing(backbone_folder("qwen3"), lexicon=True, **changes).save_pretrained(tmp_path / "m")
    encoder = NoteEncoder.from_pretrained(tmp_path / "m", device="cpu")
    expected = encoder.encode(PICTURED)
    blind = encoder.encode([{"title": one.title, "content": one.content or "-"} for one in PICTURED])
    assert np.abs(expected[0] - blind[0]).max() > 1e-2
    for model in (opened(tmp_path / "m"), as_sentence_transformer(tmp_path / "m", device="cpu")):
        for batch_size in (1, 4, 32):
            np.testing.assert_allclose(model.encode(PICTURED, batch_size=batch_size), expected, atol=2e-5)
        as_dict = model.encode([{"title": "Cold brew", "images": [RED]}, "Cold brew"])
        text = encoder.encode([{"title": "Cold brew", "images": [RED]}, {"content": "Cold brew"}])
        np.testing.assert_allclose(as_dict, text, atol=2e-5)
        np.testing.assert_allclose(model.encode(INPUTS), encoder.encode(NOTES), atol=2e-5)


def test_a_picture_that_cannot_be_used_is_left_out_with_a_warning(
    backbone_folder: Folder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = seeing(backbone_folder("qwen3"))
    model = as_sentence_transformer(encoder)
    bad = [Note(title="fine", images=[b"no picture"])]
    np.testing.assert_allclose(model.encode(bad), encoder.encode([Note(title="fine")]), atol=1e-5)
    assert "image 0 of note '0' is left out" in caplog.text
    with pytest.raises(InputError, match="1 of 2 inputs have no text and no usable picture, the first is note '1'"):
        model.preprocess(["fine", Note(images=[b"no picture"])])
    (tmp_path / "red.png").write_bytes(RED)
    by_path = {"title": "red", "images": [{"path": "red.png"}]}
    features = SentenceModule(encoder, ImageSource(tmp_path)).preprocess([by_path])
    assert features["pictures"].tolist() == [1]
    with pytest.raises(ConfigError, match="image_root is given"):
        as_sentence_transformer(headed(backbone_folder("qwen3")), image_root=tmp_path)


def test_a_vision_encoder_that_moves_is_trained_too(backbone_folder: Folder) -> None:
    for train in (True, False):
        model = as_sentence_transformer(seeing(backbone_folder("qwen3"), train=train))
        model(model.preprocess(PICTURED[:3]))["sentence_embedding"][:, 0].sum().backward()
        tower = model[0].encoder.sight.tower
        assert any(p.grad is not None and float(p.grad.abs().max()) > 0 for p in tower.parameters()) == train


def test_the_folder_names_the_class_and_asks_for_trust(backbone_folder: Folder, tmp_path: Path) -> None:
    saved(backbone_folder("qwen3"), "states", tmp_path / "m")
    (entry,) = json.loads((tmp_path / "m" / "modules.json").read_text())
    assert entry["type"] == f"{SentenceModule.__module__}.{SentenceModule.__qualname__}"
    assert [entry] == folders.MODULES
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        SentenceTransformer(str(tmp_path / "m"), device="cpu")


def test_what_the_encoder_cannot_heed_is_refused(backbone_folder: Folder, tmp_path: Path) -> None:
    saved(backbone_folder("qwen3"), "states", tmp_path / "m")
    model = opened(tmp_path / "m")
    with pytest.raises(InputError, match="encode without one"):
        model.encode(["x"], prompt="query: ")
    with pytest.raises(InputError, match="1 of 2 inputs have no text, the first is note '1'"):
        model.encode(["longer", " "])
    with pytest.raises(InputError, match="unknown field 'text'"):
        model.encode([{"text": "x", "body": "y"}])
    with pytest.raises(InputError, match="given tuple"):
        model.encode([("a", "b")])
    with pytest.raises(AttributeError):
        model.max_seq_length = 8
    with pytest.raises(InputError, match="model_kwargs given"):
        SentenceTransformer(str(tmp_path / "m"), trust_remote_code=True, device="cpu", model_kwargs={"dtype": "auto"})
