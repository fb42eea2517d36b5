"""What a version is made of: everything that a vector depends on, and nothing else."""

from __future__ import annotations

import hashlib

from noterec import storage
from noterec.model.backbone import Backbone, weights_hash
from noterec.model.head import Head
from noterec.model.lexicon import Lexicon
from noterec.model.prompts import Prompt
from noterec.model.vision.sight import Sight


def versions_of(
    backbone: Backbone, prompt: Prompt, head: Head | None, lexicon: Lexicon | None, sight: Sight | None = None
) -> tuple[str, str]:
    """The versions of a note's state (weights, tokenizer, prompt, limits, sight) and of its embedding (head and words too)."""
    tokenizer = backbone.tokenizer.backend_tokenizer.to_str().encode()
    made_of = {
        "weights": weights_hash(backbone.model.state_dict()),
        "tokenizer": hashlib.sha256(tokenizer).hexdigest(),
        "readout": backbone.kind,
        "prompt": prompt.signature,
    }
    if sight is not None and sight.in_states:
        made_of["sight"] = sight.version
    states = storage.value_hash(made_of)
    weights = None if head is None else weights_hash(head.state_dict())
    words = None if lexicon is None else [lexicon.words, [float(value) for value in lexicon.idf]]
    seen = [] if sight is None or sight.in_states else [sight.version]
    return states, storage.value_hash([states, weights, words, *seen])
