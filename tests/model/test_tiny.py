"""The model that needs no download: any text has ids, and the same seed makes the same weights."""

from __future__ import annotations

import pytest
import torch

from noterec.errors import InputError
from noterec.model.tiny import tiny_model, tiny_tokenizer
from tests.backbones import TEXTS


def test_any_text_comes_back_from_its_ids() -> None:
    tokenizer = tiny_tokenizer(TEXTS, 400)
    for text in ("Cold brew", "手冲咖啡 😀", "\x00\x7f", "never seen: Ω"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert len(tokenizer) <= 400
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id


def test_the_seed_decides_the_weights_and_nothing_else_moves() -> None:
    tokenizer = tiny_tokenizer(TEXTS, 400)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    models = [tiny_model(tokenizer, seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), before)
    first, again, other = (model.get_input_embeddings().weight for model in models)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_nothing_to_learn_words_from() -> None:
    with pytest.raises(InputError, match="no text to train a tokenizer on"):
        tiny_tokenizer(["", "a"], 400)
