"""Random language models as encoders, and what they say by their own full forward, without cache or padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from noterec.model.encoder import NoteEncoder
from tests import backbones

Encoders = Callable[[str], NoteEncoder]

ARCHITECTURES = (*backbones.CAUSAL, "tied")


@pytest.fixture(scope="session")
def encoder_of(backbone_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Encoders:
    """Give an architecture's name, get an encoder; `tied` is a Qwen3 whose head is its table of embeddings."""
    made: dict[str, NoteEncoder] = {}

    def encoder(architecture: str) -> NoteEncoder:
        if architecture not in made:
            folder = tied(tmp_path_factory.mktemp("tied")) if architecture == "tied" else backbone_folder(architecture)
            made[architecture] = NoteEncoder.from_pretrained(folder, device="cpu")
            if architecture != "bert":
                sharpen(made[architecture])
        return made[architecture]

    return encoder


def tied(folder: Path) -> Path:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = backbones.make_tokenizer("qwen3")
    shape = dict(num_key_value_heads=2, head_dim=8, tie_word_embeddings=True, **backbones.SHAPE)
    with torch.random.fork_rng():
        torch.manual_seed(8)
        # More rows than the tokenizer has tokens, as many published models have.
        Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer) + 40, **shape)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def sharpen(encoder: NoteEncoder) -> None:
    """Random models are all but indifferent, whatever they read: larger weights make them choosy."""
    with torch.no_grad():
        for name, weights in encoder.model.named_parameters():
            if weights.ndim == 2 and "wpe" not in name:
                weights.mul_(4.0)


@torch.inference_mode()
def full_scores(encoder: NoteEncoder, ids: Sequence[int] | np.ndarray) -> np.ndarray:
    """(V,) scores behind ids, by the model's own forward of all of them."""
    return encoder.model(input_ids=torch.tensor(np.asarray(ids))[None], use_cache=False).logits[0, -1].double().numpy()
