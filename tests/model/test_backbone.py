"""The readout equals the plain Hugging Face forward of one note at a time, and bad models are refused with a way out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel

from noterec.errors import ArtefactError, ConfigError, DependencyError, InputError
from noterec.model.backbone import Backbone, choose_device, load_backbone, resolve
from noterec.model.batching import pad, plan
from noterec.model.encoder import NoteEncoder
from tests import backbones

Folder = Callable[[str], Path]


@torch.no_grad()
def one_at_a_time(folder: Path, kind: str, notes: list[np.ndarray]) -> np.ndarray:
    """The oracle: Hugging Face's own forward over an unpadded batch of one."""
    model = AutoModel.from_pretrained(folder).eval()
    states = []
    for ids in notes:
        hidden = model(input_ids=torch.from_numpy(ids)[None], attention_mask=torch.ones(1, len(ids))).last_hidden_state
        states.append(hidden[0, -1] if kind == "causal" else hidden[0].mean(dim=0))
    return torch.stack(states).numpy()


@torch.no_grad()
def batched(backbone: Backbone, notes: list[np.ndarray], order: np.ndarray, size: int) -> np.ndarray:
    """Readouts of the notes, batch by batch in an order of their own."""
    out = np.empty((len(notes), backbone.hidden_size), dtype=np.float32)
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        out[rows] = backbone.readout(*pad([notes[row] for row in rows], backbone.tokenizer.pad_token_id)).numpy()
    return out


@pytest.mark.parametrize("architecture", backbones.ARCHITECTURES)
@settings(max_examples=8, deadline=None)
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=9), size=st.integers(1, 9), seed=st.integers(0, 999))
def test_readout_equals_the_plain_forward(
    backbone_folder: Folder, architecture: str, lengths: list[int], size: int, seed: int
) -> None:
    folder = backbone_folder(architecture)
    backbone = load_backbone(str(folder))
    assert backbone.kind == ("encoder" if architecture == "bert" else "causal")
    random = np.random.default_rng(seed)
    notes = [random.integers(5, len(backbone.tokenizer), length) for length in lengths]
    expected = one_at_a_time(folder, backbone.kind, notes)
    found = batched(backbone, notes, random.permutation(len(notes)), size)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "bert"])
def test_the_first_layers_alone(backbone_folder: Folder, architecture: str) -> None:
    folder = backbone_folder(architecture)
    whole, cut = load_backbone(str(folder)), load_backbone(str(folder), layers=1)
    ids, lengths = pad([np.arange(5, 25)], 0)
    assert cut.model.config.num_hidden_layers == 1
    with torch.no_grad():
        assert not torch.allclose(cut.readout(ids, lengths), whole.readout(ids, lengths))
        trunk = whole.model.base_model
        del (trunk.encoder.layer if architecture == "bert" else trunk.layers)[1:]
        torch.testing.assert_close(cut.readout(ids, lengths), whole.readout(ids, lengths))


def test_more_layers_than_there_are(backbone_folder: Folder) -> None:
    with pytest.raises(ConfigError, match=r"layers=9: .* has only 3 layers"):
        load_backbone(str(backbone_folder("llama")), layers=9)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_tokenizer_without_padding_gets_one(backbone_folder: Folder, architecture: str) -> None:
    tokenizer = load_backbone(str(backbone_folder(architecture))).tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./model", "../models/m", "~/m", "a/b/c"])
def test_a_path_that_is_not_there(name: str) -> None:
    with pytest.raises(InputError, match=r"no such folder; expected a Hugging Face model folder"):
        resolve(name)


def test_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no model there; expected a Hugging Face folder with config\.json"):
        load_backbone(str(tmp_path))


@pytest.mark.parametrize("name", ["somebody/some-model", "distilgpt3"])
def test_the_hub_out_of_reach_names_three_ways_out(name: str) -> None:
    started = time.perf_counter()
    with pytest.raises(DependencyError, match=r"(?s)no such folder here.*folder with config\.json.*minilm.*tiny"):
        load_backbone(name)
    assert time.perf_counter() - started < 5


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", "is_encoder_decoder": True}))
    with pytest.raises(InputError, match="t5 is an encoder-decoder"):
        load_backbone(str(tmp_path))


def test_a_vision_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(InputError, match="can't read notes with a vit model"):
        load_backbone(str(tmp_path))


def test_damaged_weights_are_said_to_be_so(backbone_folder: Folder, tmp_path: Path) -> None:
    for file in backbone_folder("llama").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ArtefactError, match="does not load"):
        load_backbone(str(tmp_path))


def test_weights_that_a_folder_lacks(backbone_folder: Folder, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    # A masked language model has no pooler: what the loader makes up for it must not make a new model of every load.
    one, two = (NoteEncoder.from_pretrained(backbone_folder("bert"), device="cpu") for _ in range(2))
    assert one.states_version == two.states_version
    for file in backbone_folder("bert").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtefactError, match=r"1 weights are missing.*encoder\.layer\.1\.output\.dense\.weight"):
        load_backbone(str(tmp_path))


def test_code_from_a_model_folder_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}})
    )
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    with pytest.raises((ArtefactError, InputError)):
        load_backbone(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="expected auto, cpu, cuda"):
        choose_device("tpu-v9")
    with pytest.raises(DependencyError, match="no such GPU"):
        choose_device("cuda:63")


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 300), max_size=80), budget=st.integers(1, 2000))
def test_batches_cover_every_note_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = plan(lengths, budget)
    assert sorted(int(row) for batch in batches for row in batch) == list(range(len(lengths)))
    padded = [len(batch) * max(lengths[row] for row in batch) for batch in batches]
    assert all(total <= budget or len(batch) == 1 for total, batch in zip(padded, batches, strict=True))
    longest = [max(lengths[row] for row in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)  # what needs most memory comes first


def test_pad_puts_the_padding_right() -> None:
    ids, lengths = pad([np.array([4, 5]), np.array([6, 7, 8])], 99)
    assert ids.tolist() == [[4, 5, 99], [6, 7, 8]]
    assert lengths.tolist() == [2, 3]
