"""A saved encoder as a model of sentence-transformers, so that whatever works with those works with noterec's vectors.

    from noterec.model.sentence import as_sentence_transformer
    model = as_sentence_transformer("model")
    model.encode(["a note's content", {"title": "Cold brew", "hashtags": ["coffee"], "content": "eighteen hours"}])

A string is the content of a note without title and hashtags, also where it looks like JSON: what a stranger writes must not become
another field. A dict or a `noterec.Note` is a note. The vectors are those of `NoteEncoder.encode`.

`SentenceTransformer("model", trust_remote_code=True)` gives the same: the folder's modules.json names the class below. From
version 6 on sentence-transformers wants that argument for every class that isn't its own, also for one of an installed package;
nothing in the folder is run as code. Without modules.json it would take the folder for a bare backbone and return other vectors
without a word.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import torch
from torch import Tensor, nn

from noterec.errors import DependencyError, InputError
from noterec.model.batching import pad
from noterec.model.encoder import NoteEncoder
from noterec.notes import note


class SentenceModule(nn.Module):
    """The one module of a SentenceTransformer: reads notes, gives embeddings.

    It has the methods that sentence-transformers asks its modules for, and imports nothing from there.
    """

    save_in_root = True  # the folder is the encoder's own

    def __init__(self, encoder: NoteEncoder) -> None:
        """Take an encoder; its weights are shared, not copied."""
        super().__init__()
        self.encoder = encoder

    @property
    def tokenizer(self) -> Any:
        """The backbone's tokenizer."""
        return self.encoder.backbone.tokenizer

    @property
    def max_seq_length(self) -> int:
        """Tokens of the longest note, prompt included. It can't be set: each field has its own limit, fixed in training."""
        return self.encoder.prompt.max_tokens

    def get_embedding_dimension(self) -> int:
        """D."""
        return self.encoder.dimension

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Token ids of notes.

        Args:
            inputs: B strings, dicts or `noterec.Note`.
            prompt: must be empty: the encoder has its own.
            kwargs: what sentence-transformers says of the call ("task"); a note is read the same as query and as document.

        Returns:
            input_ids (B, T) int64, right-padded; attention_mask (B, T) int64; words, the lexicon's CSR matrix (B, V) or None.

        Raises:
            InputError: a prompt, an input that is no note, or a note without text.
        """
        if prompt:
            raise InputError(f"prompt {prompt!r}: a note stands in the encoder's own prompt; encode without one")
        table = note.as_table([{"content": item} if isinstance(item, str) else item for item in inputs])
        empty = ~note.has_text(table)
        if empty.any():
            first = table["note_id"].filter(pa.array(empty)).to_pylist()[0]
            raise InputError(f"{int(empty.sum())} of {len(inputs)} inputs have no text, the first is note {first!r}")
        found = self.encoder.prepare(table)
        ids, lengths = pad(found.tokens, self.tokenizer.pad_token_id)  # (B, T), (B,)
        mask = (torch.arange(ids.shape[1])[None, :] < lengths[:, None]).long()  # (B, T)
        return {"input_ids": ids, "attention_mask": mask, "words": found.words}

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Add `sentence_embedding`, (B, D) float32 with unit-norm rows, to what `preprocess` gave."""
        lengths: Tensor = features["attention_mask"].sum(dim=1)  # (B,)
        features["sentence_embedding"] = self.encoder(features["input_ids"], lengths, features["words"])
        return features

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write the encoder's folder; called by `SentenceTransformer.save_pretrained`."""
        self.encoder.weights_changed()  # it may have been trained in the meantime
        self.encoder.save_pretrained(output_path)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Load what `save` wrote, from a folder or the hub; called by `SentenceTransformer`, which then chooses the device.

        Raises:
            InputError: model, processor or config arguments, or a backend, which the encoder can't heed.
        """
        unheeded = [name for name in ("model_kwargs", "processor_kwargs", "config_kwargs") if kwargs.get(name)]
        if kwargs.get("backend", "torch") != "torch":
            unheeded.append("backend")
        if unheeded:
            raise InputError(
                f"{model_name_or_path}: {', '.join(unheeded)} given; a noterec model is loaded as it was saved"
            )
        folder = Path(model_name_or_path)
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            found = snapshot_download(
                model_name_or_path,
                revision=revision,
                token=token,
                cache_dir=cache_folder,
                local_files_only=local_files_only,
            )
            folder = Path(found)
        return cls(NoteEncoder.from_pretrained(folder / subfolder, device="cpu"))


def as_sentence_transformer(model: NoteEncoder | str | os.PathLike[str], *, device: str = "auto") -> Any:
    """A `sentence_transformers.SentenceTransformer` around an encoder; needs no `trust_remote_code`.

    Args:
        model: a saved model's folder or hub id, or an encoder, whose weights are then shared.
        device: where a model that is named goes; an encoder stays where it is.

    Raises:
        DependencyError: sentence-transformers is not installed, or there is no such model.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise DependencyError("needs `pip install sentence-transformers` (version 6 or later)") from error
    encoder = model if isinstance(model, NoteEncoder) else NoteEncoder.from_pretrained(model, device=device)
    return SentenceTransformer(modules=[SentenceModule(encoder)], device=str(encoder.device))
