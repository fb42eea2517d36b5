"""What a version is made of: everything that a vector depends on, and nothing else."""

from __future__ import annotations

import hashlib

from noterec import storage
from noterec.model.backbone import Backbone, weights_hash
from noterec.model.head import Head
from noterec.model.lexicon import Lexicon
from noterec.model.prompts import Prompt


def versions_of(backbone: Backbone, prompt: Prompt, head: Head | None, lexicon: Lexicon | None) -> tuple[str, str]:
    """The versions of a note's state (weights, tokenizer, prompt, limits) and of its embedding (head and words too)."""
    tokenizer = backbone.tokenizer.backend_tokenizer.to_str().encode()
    states = storage.value_hash(
        {
            "weights": weights_hash(backbone.model.state_dict()),
            "tokenizer": hashlib.sha256(tokenizer).hexdigest(),
            "readout": backbone.kind,
            "prompt": prompt.signature,
        }
    )
    weights = None if head is None else weights_hash(head.state_dict())
    words = None if lexicon is None else [lexicon.words, [float(value) for value in lexicon.idf]]
    return states, storage.value_hash([states, weights, words])
