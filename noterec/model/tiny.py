"""`tiny`: a small current-style language model and its tokenizer, made from the training notes, with no download.

About a million weights of the Qwen3 architecture. It learns a platform's words from engagement alone and is what runs when
no backbone is given: on a laptop, in tests, in the demo.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from noterec.errors import InputError

PAD, BOS, END = "<|pad|>", "<|bos|>", "<|end|>"
SHAPE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 4096,
}


def tiny_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """Train a byte-level BPE tokenizer: any text in any script has ids, none is unknown.

    Raises:
        InputError: there is no text to train on.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[PAD, BOS, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for text in texts if text), trainer)
    if tokenizer.get_vocab_size() <= 3 + len(pre_tokenizers.ByteLevel.alphabet()):
        raise InputError("no text to train a tokenizer on: the training notes have no repeated words; give --backbone")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=END)


def tiny_model(tokenizer: Any, seed: int) -> Any:
    """A randomly initialised Qwen3 causal language model for this tokenizer, the same for the same seed."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **SHAPE,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config)
