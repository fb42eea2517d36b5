"""Random Hugging Face model folders of several architectures, each with a small tokenizer of its usual kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

TEXTS = [
    "Cold brew at home, eighteen hours in the fridge",
    'A "quoted" title: what the baker said\nand what the baker did',
    "Learned to belay on the first rope weekend #climbing #outdoors",
    "手冲咖啡的水温和研磨度 慢慢来",
    "Compress the following note, given in JSON, into one word for recommendation",
    '{"title": "", "topic": "", "content": ""}',
    "Ten films about trains, none of them short",
] * 4
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
ARCHITECTURES = ("llama", "qwen3", "gemma2", "gpt2", "bert")
CAUSAL = ARCHITECTURES[:-1]
SPECIAL = {  # what a hostile note would spell
    "llama": ["<s>", "</s>", "<unk>"],
    "qwen3": ["<|im_start|>", "<|im_end|>", "<|endoftext|>"],
    "gemma2": ["<bos>", "<eos>", "<pad>", "<start_of_turn>"],
    "gpt2": ["<|endoftext|>"],
    "bert": ["[CLS]", "[SEP]", "[PAD]", "[MASK]"],
}


def make(architecture: str, folder: Path) -> Path:
    """Write a model folder; the weights are the same at every call."""
    tokenizer = make_tokenizer(architecture)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = _model(architecture, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_tokenizer(architecture: str) -> Any:
    """A tokenizer as the family has it: byte-level or sentence-piece BPE, Unigram with its specials as pieces, WordPiece."""
    from transformers import PreTrainedTokenizerFast

    special = SPECIAL[architecture]
    if architecture == "bert":
        return PreTrainedTokenizerFast(
            tokenizer_object=_wordpiece(["[UNK]", *special]),
            pad_token="[PAD]",
            unk_token="[UNK]",
            cls_token="[CLS]",
            sep_token="[SEP]",
            mask_token="[MASK]",
        )
    if architecture == "llama":  # no padding token, as in Llama 2
        names = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>")
        return PreTrainedTokenizerFast(tokenizer_object=_unigram(special, "<s>"), **names)
    if architecture == "gemma2":
        names = dict(bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")
        # <start_of_turn> is marked special without being one of the named tokens.
        return PreTrainedTokenizerFast(tokenizer_object=_byte_level(special, "<bos>"), **names)
    if architecture == "gpt2":  # one token is beginning, end and unknown at once, and there is no padding
        only = special[0]
        names = dict(bos_token=only, eos_token=only, unk_token=only)
        return PreTrainedTokenizerFast(tokenizer_object=_byte_level(special), **names)
    return PreTrainedTokenizerFast(
        tokenizer_object=_byte_level(special), eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )


def _model(architecture: str, tokenizer: Any) -> Any:
    from transformers import (
        BertConfig,
        BertForMaskedLM,
        Gemma2Config,
        Gemma2ForCausalLM,
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    vocabulary = len(tokenizer)
    if architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, num_key_value_heads=2, **SHAPE))
    if architecture == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(vocab_size=vocabulary, num_key_value_heads=2, head_dim=8, **SHAPE))
    if architecture == "gemma2":
        config = Gemma2Config(vocab_size=vocabulary, num_key_value_heads=2, head_dim=8, sliding_window=16, **SHAPE)
        return Gemma2ForCausalLM(config)
    if architecture == "gpt2":
        return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, n_embd=32, n_layer=3, n_head=4, n_positions=512))
    return BertForMaskedLM(BertConfig(vocab_size=vocabulary, pad_token_id=tokenizer.pad_token_id, **SHAPE))


def _byte_level(special: list[str], begin: str | None = None) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    if begin is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
        )
    return tokenizer


def _unigram(special: list[str], begin: str) -> Any:
    """Sentence-piece style: the special tokens are pieces of the model itself, which its search can find in a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    characters = sorted({c for text in TEXTS for c in text if not c.isspace()} | set("<>/[]|_#\\▁"))
    words = sorted({f"▁{word}" for text in TEXTS for word in text.split()})
    pieces = [(token, 0.0) for token in special] + [(c, -8.0) for c in characters] + [(w, -10.0) for w in words]
    pieces = list({piece: (piece, score) for piece, score in reversed(pieces)}.values())[::-1]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=special.index("<unk>"), byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
    )
    return tokenizer


def _wordpiece(special: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(t, tokenizer.token_to_id(t)) for t in ("[CLS]", "[SEP]")]
    )
    return tokenizer
