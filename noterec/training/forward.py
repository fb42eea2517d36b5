"""One forward pass of training: notes to embeddings, and what they write to its loss.

Notes are taken in order of length, a few thousand tokens at a time, so that little is computed on padding; the language-model head
is applied only where something is written. The order of the rows that come out is that of the rows that went in.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from noterec.model.batching import pad
from noterec.model.encoder import NoteEncoder
from noterec.model.losses import generation_loss
from noterec.model.prompts import Example, Request
from noterec.training.chunks import in_chunks
from noterec.training.material import Material


class Forward:
    """Embeds the notes of a step, with gradient."""

    def __init__(self, encoder: NoteEncoder, material: Material, *, chunk_notes: int | None, batch_tokens: int) -> None:
        """Take the encoder that is trained and the notes.

        Args:
            encoder: its weights move, or its head alone where `material` has states.
            material: the notes.
            chunk_notes: gradient cache: notes whose activations are held at a time; None = those of the whole step.
            batch_tokens: tokens of one pass through the backbone, padding included.
        """
        self._encoder, self._material = encoder, material
        self._chunk, self._batch_tokens = chunk_notes, batch_tokens

    def __call__(self, rows: np.ndarray, requests: list[Request] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Embed notes, and score what they write.

        Args:
            rows: (b,) int64, rows of notes.
            requests: what each of the first len(requests) writes; the others are only embedded.

        Returns:
            embeddings (b, D) float32, unit-norm; () float32, the summed cross-entropy of all written tokens in nats; () float32,
            how many tokens were written.
        """
        words = None if self._material.inputs.words is None else self._material.inputs.words[rows]
        if self._material.states is not None:
            states = torch.from_numpy(self._material.states[rows]).to(self._encoder.device)
            nothing = states.new_zeros(())
            return self._project(states, words), nothing, nothing
        examples = self.examples(rows, requests)
        order = np.argsort([-len(example.ids) for example in examples], kind="stable")

        def some(part: slice) -> tuple[Tensor, ...]:
            return self._pass([examples[place] for place in order[part]])

        states, loss, count = in_chunks(some, len(order), self._chunk, device=self._encoder.device)  # (b, H)
        back = torch.from_numpy(np.argsort(order)).to(states.device)
        return self._project(states[back], words), loss, count

    def _project(self, states: Tensor, words: Any) -> Tensor:
        # The head is small and decides the cosines: it is multiplied in float32, whatever the backbone is.
        with torch.autocast(states.device.type, enabled=False):
            return self._encoder.project(states.float(), words)

    def examples(self, rows: np.ndarray, requests: list[Request] | None) -> list[Example]:
        """The notes as ids, with what they write."""
        prompt = self._encoder.prompt
        made = [] if requests is None else prompt.examples(requests)
        tokens = [self._material.inputs.tokens[row] for row in rows[len(made) :]]
        return made + [Example(ids, len(ids) - 1, len(ids)) for ids in tokens]

    def _pass(self, examples: list[Example]) -> tuple[Tensor, Tensor, Tensor]:
        """Readout states (c, H), summed loss and count of written tokens, for examples in descending order of length."""
        states, losses, counts = [], [], []
        start = 0
        while start < len(examples):
            take = max(1, self._batch_tokens // len(examples[start].ids))
            part = examples[start : start + take]
            start += take
            state, loss, count = self._padded(part)
            states.append(state)
            losses.append(loss)
            counts.append(count)
        return torch.cat(states), torch.stack(losses).sum(), torch.stack(counts).sum()

    def _padded(self, examples: list[Example]) -> tuple[Tensor, Tensor, Tensor]:
        backbone = self._encoder.backbone
        device = self._encoder.device
        ids, lengths = pad([example.ids for example in examples], backbone.tokenizer.pad_token_id)
        ids, lengths = ids.to(device), lengths.to(device)  # (c, T), (c,)
        nothing = torch.zeros((), device=device)
        if backbone.kind == "encoder":
            return backbone.readout(ids, lengths), nothing, nothing
        hidden = backbone.hidden(ids, lengths)  # (c, T, H)
        rows = torch.arange(len(examples), device=device)
        readouts = torch.tensor([example.readout for example in examples], device=device)
        states = hidden[rows, readouts]  # (c, H)
        # The token at each position is predicted from the state before it.
        who = [row for row, example in enumerate(examples) for _ in range(example.output, len(example.ids))]
        where = [place for example in examples for place in range(example.output, len(example.ids))]
        if not who:
            return states, nothing, nothing
        writer = torch.tensor(who, device=device)
        place = torch.tensor(where, device=device)
        logits = backbone.logits(hidden[writer, place - 1])  # (M, V)
        loss, count = generation_loss(logits, ids[writer, place])
        return states, loss, count.to(loss.dtype)
