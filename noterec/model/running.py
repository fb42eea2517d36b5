"""How prepared notes go through an encoder: which are computed together, what of them, and in which order results come back."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from noterec.model.batching import Meter, default_tokens, pad, plan, widths
from noterec.model.inputs import Inputs

if TYPE_CHECKING:
    from noterec.model.core import EncoderCore

Part = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Run:
    """One pass of B prepared notes through an encoder; `EncoderCore.run` says what the fields mean.

    In float32 it hardly matters what a note is padded to: its vector moves in the seventh digit. Where numbers are rounded, such a
    move can decide on which side of a step one falls, and later layers make that larger. So an encoder that was accelerated to
    fewer bits pads a note to a width that depends on the note alone.
    """

    encoder: EncoderCore
    inputs: Inputs
    batch_tokens: int | None
    project: bool
    bf16: bool
    image_word: bool
    meter: Meter

    def parts(self) -> Iterator[Part]:
        """Batch by batch: positions (b,) int64 and vectors (b, D or H) float32."""
        waiting: deque[tuple[np.ndarray, Tensor]] = deque()
        ahead = int(self.encoder.device.type == "cuda")  # a GPU gets its next batch before the last one is waited for
        for batch, width, prefix in self._batches():
            waiting.append((batch, self._vectors(batch, width, prefix)))
            if len(waiting) > ahead:
                yield _fetched(*waiting.popleft())
        while waiting:
            yield _fetched(*waiting.popleft())

    def _batches(self) -> Iterator[tuple[np.ndarray, int, Any]]:
        """Positions (b,) that are computed together, their width, and the cache of the prefix that is left out of them or None."""
        encoder, tokens, pictures = self.encoder, self.inputs.tokens, self.inputs.pictures
        rounded = encoder.precision not in (None, "fp32")
        begins, cache = np.zeros(len(tokens), dtype=bool), None
        if not self.image_word:
            begins = encoder.prefix.begins(tokens)
            with self._autocast():
                cache = encoder.prefix.cache(int(begins.sum()))
        begins &= cache is not None
        budget = self.batch_tokens or default_tokens(encoder.device)
        for chosen, prefix in ((np.flatnonzero(~begins), None), (np.flatnonzero(begins), cache)):
            skipped = self._skipped(prefix)
            lengths = np.array([len(tokens[position]) - skipped for position in chosen], dtype=np.int64)
            padded = widths(lengths, encoder.prompt.max_tokens - skipped) if rounded else lengths
            costs = encoder.costs(padded, None if pictures is None else pictures.take(chosen))
            groups = [np.flatnonzero(padded == width) for width in np.unique(padded)[::-1]]
            for alike in groups if rounded else [np.arange(len(chosen))]:
                for places in plan(costs[alike], budget):
                    yield chosen[alike[places]], int(padded[alike[places]].max()), prefix

    def _skipped(self, prefix: Any) -> int:
        return 0 if prefix is None else len(self.encoder.prefix.ids)

    def _vectors(self, batch: np.ndarray, width: int, prefix: Any) -> Tensor:
        """One batch: (b, D or H) float32 on the device."""
        encoder, inputs, device = self.encoder, self.inputs, self.encoder.device
        tokens = [inputs.tokens[position][self._skipped(prefix) :] for position in batch]
        ids, lengths = pad(tokens, encoder.backbone.tokenizer.pad_token_id, width)  # (b, T), (b,)
        self.meter.count(ids, lengths)
        readouts = None
        if self.image_word:
            assert inputs.pictures is not None, "an image word needs pictures"
            places = [[encoder.prompt.image_word(int(count))] for count in inputs.pictures.counts[batch]]
            readouts = torch.tensor(places, device=device)  # (b, 1)
        if device.type == "cuda":
            ids, lengths = ids.pin_memory(), lengths.pin_memory()
        ids, lengths = ids.to(device, non_blocking=True), lengths.to(device, non_blocking=True)
        with self._autocast():
            read = encoder.read(ids, lengths, readouts, inputs.seen(batch, device), prefix=prefix)
        vectors = read.states[:, 0]  # (b, H)
        if self.project:
            words = None if inputs.words is None or self.image_word else inputs.words[batch]
            images = (None, None) if read.glimpse is None else read.glimpse[1:]
            vectors = encoder.project(vectors, words, *images)  # (b, D)
        return vectors.float()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.encoder.device.type, torch.bfloat16, enabled=self.bf16)


def _fetched(batch: np.ndarray, vectors: Tensor) -> Part:
    return batch, vectors.cpu().numpy()
