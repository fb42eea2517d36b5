"""The shared prefix: where it is used, that it is right, that a wrong one is noticed, and that it follows the weights."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from noterec.config import PromptConfig
from noterec.model import prefix as module
from noterec.model.backbone import Backbone
from noterec.model.batching import Meter
from noterec.model.encoder import NoteEncoder
from noterec.notes.note import Note, as_table
from tests import backbones

Folder = Callable[[str], Path]
LIMITS = PromptConfig(title_tokens=12, hashtags_tokens=12, content_tokens=24)
NOTES = [Note(title=f"Note {i}", content="cold brew " * (1 + i % 7), hashtags=["a", "b"][: i % 3]) for i in range(12)]
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}


def causal(kind: str) -> Any:
    """A random causal model of one of the ways in which positions and memory are kept."""
    import transformers as hf

    tokenizer = backbones.make_tokenizer("qwen3")
    small = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **SMALL}
    grouped = {**small, "num_key_value_heads": 2}
    made: dict[str, Callable[[], Any]] = {
        "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**grouped)),
        "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**grouped)),
        "mistral, window 16": lambda: hf.MistralForCausalLM(hf.MistralConfig(**grouped, sliding_window=16)),
        "gemma3, window 16": lambda: hf.Gemma3ForCausalLM(
            hf.Gemma3TextConfig(
                **grouped, head_dim=8, sliding_window=16, layer_types=["sliding_attention", "full_attention"]
            )
        ),
        "opt": lambda: hf.OPTForCausalLM(hf.OPTConfig(**small, ffn_dim=64, word_embed_proj_dim=32)),
        "bloom": lambda: hf.BloomForCausalLM(
            hf.BloomConfig(vocab_size=len(tokenizer), hidden_size=32, n_layer=2, n_head=4)
        ),
        "gpt-neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**small)),
        "mamba": lambda: hf.MambaForCausalLM(
            hf.MambaConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, state_size=4)
        ),
        "dynamic rope": lambda: hf.LlamaForCausalLM(
            hf.LlamaConfig(**grouped, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0})
        ),
    }
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = made[kind]()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.2)  # so that attention isn't uniform and positions matter
    return NoteEncoder(Backbone(model.eval(), tokenizer, "causal"), prompt=LIMITS).eval()


def vectors(encoder: NoteEncoder, notes: list[Note] = NOTES, **options: Any) -> np.ndarray:
    inputs = encoder.prepare(as_table(notes))
    found = np.empty((len(notes), encoder.dimension), dtype=np.float32)
    for batch, part in encoder.run(inputs, **options):
        found[batch] = part
    return found


def plain(encoder: NoteEncoder, notes: list[Note] = NOTES) -> np.ndarray:
    """Each note by itself, by Hugging Face's own forward, without a cache."""
    rows = []
    for ids in encoder.prepare(as_table(notes)).tokens:
        with torch.no_grad():
            state = encoder.backbone.trunk(input_ids=torch.from_numpy(ids)[None], use_cache=False).last_hidden_state[
                0, -1
            ]
        rows.append((state / state.norm()).numpy())
    return np.stack(rows)


SHARED = ("llama", "qwen2", "mistral, window 16", "gemma3, window 16", "opt", "bloom", "gpt-neox")


@pytest.mark.parametrize("kind", SHARED)
def test_every_way_of_keeping_positions_is_shared_exactly(kind: str) -> None:
    encoder = causal(kind)
    meter = Meter()
    found = vectors(encoder, batch_tokens=200, meter=meter)
    assert encoder.prefix.usable
    lengths = [len(ids) for ids in encoder.prepare(as_table(NOTES)).tokens]
    assert meter.tokens == sum(lengths) - len(NOTES) * len(encoder.prompt.prefix)
    assert meter.notes == len(NOTES) and meter.tokens <= meter.padded
    np.testing.assert_allclose(found, plain(encoder), atol=2e-5)


@pytest.mark.parametrize("kind", ["mamba", "dynamic rope"])
def test_what_keeps_no_key_for_a_token_is_computed_whole(kind: str) -> None:
    encoder = causal(kind)
    meter = Meter()
    found = vectors(encoder, meter=meter)
    assert not encoder.prefix.usable
    assert meter.tokens == sum(len(ids) for ids in encoder.prepare(as_table(NOTES)).tokens)
    np.testing.assert_allclose(found, plain(encoder), atol=2e-5)


def test_an_encoder_has_no_prefix(backbone_folder: Folder) -> None:
    assert not NoteEncoder.from_pretrained(backbone_folder("bert"), device="cpu").prefix.usable


def test_wrong_positions_are_noticed_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module.SharedLayer, "get_seq_length", lambda self: 0)
    encoder = causal("opt")  # its positions are learned: a note would begin at the first of them again
    with caplog.at_level(logging.WARNING):
        found = vectors(encoder)
    assert not encoder.prefix.usable
    assert "can't be computed once for all notes" in caplog.text
    np.testing.assert_allclose(found, plain(encoder), atol=2e-5)


def test_a_model_that_refuses_a_cache_is_computed_whole(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("no such cache")

    monkeypatch.setattr(module.SharedLayer, "update", refuse)
    encoder = causal("llama")
    with caplog.at_level(logging.WARNING):
        found = vectors(encoder)
    assert "no such cache" in caplog.text
    np.testing.assert_allclose(found, plain(encoder), atol=2e-5)


@pytest.mark.parametrize("told", [True, False])
def test_it_follows_the_weights(told: bool) -> None:
    encoder = causal("llama")
    before = vectors(encoder)
    optimiser = torch.optim.AdamW(encoder.model.parameters(), lr=0.05)
    ids = torch.arange(5, 25)[None]
    encoder.backbone.hidden(ids, torch.tensor([20])).square().sum().backward()
    optimiser.step()
    if told:
        encoder.weights_changed()
    after = vectors(encoder)
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(after, plain(encoder), atol=2e-5)


def test_bfloat16_has_a_prefix_of_its_own() -> None:
    encoder = causal("llama")
    exact = vectors(encoder)
    rough = vectors(encoder, bf16=True)
    assert 1e-5 < np.abs(rough - exact).max() < 0.1
    np.testing.assert_array_equal(vectors(encoder), exact)


def test_a_note_that_is_the_prefix_and_nothing_else_is_computed_whole() -> None:
    encoder = causal("llama")
    begin = np.asarray(encoder.prompt.prefix, dtype=np.int64)
    longer, other = np.append(begin, 7), np.append(begin[::-1], 7)
    assert encoder.prefix.begins([begin, longer, other]).tolist() == [False, True, False]
