"""A saved encoder as a model of sentence-transformers, so that whatever works with those works with noterec's vectors.

    from noterec.model.sentence import as_sentence_transformer
    model = as_sentence_transformer("model")
    model.encode(["a note's content", {"title": "Cold brew", "hashtags": ["coffee"], "content": "eighteen hours"}])

A string is the content of a note without title and hashtags, also where it looks like JSON: what a stranger writes must not become
another field. A dict or a `noterec.Note` is a note, with its images for a model that sees. The vectors are those of
`NoteEncoder.encode`.

`SentenceTransformer("model", trust_remote_code=True)` gives the same: the folder's modules.json names the class below. From
version 6 on sentence-transformers wants that argument for every class that isn't its own, also for one of an installed package;
nothing in the folder is run as code. Without modules.json it would take the folder for a bare backbone and return other vectors
without a word.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from noterec import storage
from noterec.config import ImagesConfig
from noterec.errors import ConfigError, DependencyError, InputError
from noterec.model.batching import pad
from noterec.model.encoder import NoteEncoder
from noterec.model.inputs import Pictures, Seen, attach
from noterec.model.vision.gallery import Gallery
from noterec.notes import note
from noterec.notes.images.source import ImageSource

logger = logging.getLogger(__name__)


class SentenceModule(nn.Module):
    """The one module of a SentenceTransformer: reads notes, gives embeddings.

    It has the methods that sentence-transformers asks its modules for, and imports nothing from there.
    """

    save_in_root = True  # the folder is the encoder's own

    def __init__(self, encoder: NoteEncoder, source: ImageSource | None = None) -> None:
        """Take an encoder; its weights are shared, not copied.

        Args:
            encoder: the encoder.
            source: where pictures are read from, and what they may be; None = pictures that are given by path are left out.

        Raises:
            ConfigError: a folder of pictures for an encoder that reads text alone.
        """
        super().__init__()
        self.encoder = encoder
        self.source = source or ImageSource()
        if encoder.sight is None and self.source.root is not None:
            raise ConfigError("image_root is given and this model reads text alone; leave it out")

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
        """Token ids of notes, and the pixels of their pictures for an encoder that sees.

        A picture that can't be used is left out with a warning, as in `NoteEncoder.encode`.

        Args:
            inputs: B strings, dicts or `noterec.Note`.
            prompt: must be empty: the encoder has its own.
            kwargs: what sentence-transformers says of the call ("task"); a note is read the same as query and as document.

        Returns:
            input_ids (B, T) int64, right-padded; attention_mask (B, T) int64; words, the lexicon's CSR matrix (B, V) or None. For
            an encoder that sees also pixels (B, K, 3, h, w) uint8, K the most pictures of a note, and pictures (B,) int64, how
            many of them are the note's.

        Raises:
            InputError: a prompt, an input that is no note, or a note with neither text nor, for an encoder that sees, a usable
                picture.
        """
        if prompt:
            raise InputError(f"prompt {prompt!r}: a note stands in the encoder's own prompt; encode without one")
        table = note.as_table([{"content": item} if isinstance(item, str) else item for item in inputs])
        pictures = self._pictures(table)
        empty = ~note.has_text(table)
        if pictures is not None:
            empty &= pictures.counts == 0
        if empty.any():
            first = table["note_id"].filter(pa.array(empty)).to_pylist()[0]
            or_picture = "" if pictures is None else " and no usable picture"
            raise InputError(
                f"{int(empty.sum())} of {len(inputs)} inputs have no text{or_picture}, the first is note {first!r}"
            )
        found = self.encoder.prepare(table, pictures)
        ids, lengths = pad(found.tokens, self.tokenizer.pad_token_id)  # (B, T), (B,)
        mask = (torch.arange(ids.shape[1])[None, :] < lengths[:, None]).long()  # (B, T)
        features = {"input_ids": ids, "attention_mask": mask, "words": found.words}
        return features if pictures is None else {**features, **_by_note(pictures)}

    def _pictures(self, table: pa.Table) -> Pictures | None:
        """The pictures of notes as pixels: the vision tower runs in `forward`, on the device and with the gradient of the rest."""
        sight = self.encoder.sight
        if sight is None:
            return None
        # Processes that decode would take longer to start than a batch takes without them.
        gallery = Gallery(
            sight.tower,
            self.source,
            frozen=False,
            images=sight.config.images,
            config=self.source.limits,
            workers_default=0,
        )
        with gallery:
            pictures, unseen = attach(table, gallery)
        for entry in unseen:
            logger.warning("image %d of note %r is left out: %s", entry.image, entry.note_id, entry.message)
        return pictures

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Add `sentence_embedding`, (B, D) float32 with unit-norm rows, to what `preprocess` gave."""
        lengths: Tensor = features["attention_mask"].sum(dim=1)  # (B,)
        ids, seen = features["input_ids"], self._seen(features)
        features["sentence_embedding"] = self.encoder(ids, lengths, features["words"], seen)
        return features

    def _seen(self, features: dict[str, Any]) -> Seen | None:
        """The pictures of a batch; None where it has none."""
        if self.encoder.sight is None or not bool(features["pictures"].any()):
            return None
        pixels, counts = features["pixels"], features["pictures"]
        there = torch.arange(pixels.shape[1], device=pixels.device)[None, :] < counts[:, None]  # (B, K)
        values, tower = pixels[there], self.encoder.sight.tower  # (I, 3, h, w)
        moving = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in tower.parameters())
        if not moving:
            tower.eval()
            with torch.no_grad():
                values = tower(values).to(torch.float16)  # (I, 1+S, V), rounded as a gallery rounds them
        return Seen(values, there.nonzero()[:, 0], len(counts))

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


def _by_note(pictures: Pictures) -> dict[str, Tensor]:
    """The pictures of B notes, with a row for every note: pixels (B, K, 3, h, w) uint8 and pictures (B,) int64."""
    counts, shape = pictures.counts, pictures.gallery.shape
    pixels = np.zeros((len(counts), max(counts), *shape), dtype=np.uint8)  # (B, K, 3, h, w)
    for row, places in enumerate(pictures.rows):
        pixels[row, : len(places)] = pictures.gallery.take(places)
    return {"pixels": torch.from_numpy(pixels), "pictures": torch.from_numpy(counts)}


def as_sentence_transformer(
    model: NoteEncoder | str | os.PathLike[str],
    *,
    device: str = "auto",
    image_root: str | os.PathLike[str] | None = None,
    images: ImagesConfig = ImagesConfig(),
) -> Any:
    """A `sentence_transformers.SentenceTransformer` around an encoder; needs no `trust_remote_code`.

    Args:
        model: a saved model's folder or hub id, or an encoder, whose weights are then shared.
        device: where a model that is named goes; an encoder stays where it is.
        image_root: the folder below which pictures that are given by path are read; for a model that sees.
        images: how pictures are read, and what they may be.

    Raises:
        ConfigError: an image root for a model that reads text alone.
        DependencyError: sentence-transformers is not installed, or there is no such model.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise DependencyError("needs `pip install sentence-transformers` (version 6 or later)") from error
    encoder = model if isinstance(model, NoteEncoder) else NoteEncoder.from_pretrained(model, device=device)
    source = ImageSource(None if image_root is None else storage.local(image_root), images)
    return SentenceTransformer(modules=[SentenceModule(encoder, source)], device=str(encoder.device))
