"""One forward pass of training: notes to embeddings, and what they write to its loss.

Notes are taken in order of length, a few thousand tokens at a time, pictures counted too, so that little is computed on padding;
the language-model head is applied only where something is written. The order of the rows that come out is that of the rows that
went in.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noterec.model.batching import pad
from noterec.model.encoder import NoteEncoder
from noterec.model.inputs import Seen
from noterec.model.losses import generation_loss
from noterec.model.prompts import Example, Request
from noterec.model.vision.augment import augment
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
            batch_tokens: tokens of one pass through the backbone, padding and what pictures cost included.
        """
        self._encoder, self._material = encoder, material
        self._chunk, self._batch_tokens = chunk_notes, batch_tokens
        self._augment = encoder.sight is not None and encoder.sight.config.augment

    def __call__(self, rows: np.ndarray, requests: list[Request] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Embed notes, and score what they write.

        Args:
            rows: (b,) int64, rows of notes.
            requests: what each of the first len(requests) writes; the others are only embedded.

        Returns:
            embeddings (b, W, D) float32, unit-norm: the note's, and with an image word (W = 2) the image's, which says nothing
            where a note has no picture; () float32, the summed cross-entropy of all written tokens in nats; () float32, how
            many tokens were written.
        """
        data = self._material
        if data.states is not None:
            states = torch.from_numpy(data.states[rows]).to(self._encoder.device)
            images = (None, None) if data.visual is None else data.visual.take(rows).on(states.device)
            nothing = states.new_zeros(())
            return self._project(states, self._words(rows), *images)[:, None], nothing, nothing
        examples = self.examples(rows, requests)
        pictures = data.inputs.pictures
        lengths = [len(example.ids) for example in examples]
        costs = self._encoder.costs(lengths, None if pictures is None else pictures.take(rows))
        order = np.argsort(-costs, kind="stable")

        def some(part: slice) -> tuple[Tensor, ...]:
            return self._pass([examples[place] for place in order[part]], rows[order[part]], costs[order[part]])

        embeddings, loss, count = in_chunks(some, len(order), self._chunk, device=self._encoder.device)  # (b, W, D)
        back = torch.from_numpy(np.argsort(order)).to(embeddings.device)
        return embeddings[back], loss, count

    def _words(self, rows: np.ndarray) -> Any:
        return None if self._material.inputs.words is None else self._material.inputs.words[rows]

    def _project(self, states: Tensor, words: Any, summary: Tensor | None = None, seen: Tensor | None = None) -> Tensor:
        # The head is small and decides the cosines: it is multiplied in float32, whatever the backbone is.
        with torch.autocast(states.device.type, enabled=False):
            return self._encoder.project(states.float(), words, summary, seen)

    def examples(self, rows: np.ndarray, requests: list[Request] | None) -> list[Example]:
        """The notes as ids, with what they write."""
        prompt, inputs = self._encoder.prompt, self._material.inputs
        shown = np.zeros(len(rows), dtype=np.int64)
        if inputs.pictures is not None and prompt.slots is not None:
            shown = np.array([len(inputs.pictures.rows[row]) for row in rows])
        asked = requests or []
        made = prompt.examples(
            [dataclasses.replace(request, images=int(k)) for request, k in zip(asked, shown, strict=False)]
        )
        for row, count in list(zip(rows, shown, strict=True))[len(made) :]:
            ids = inputs.tokens[row]
            last, word = len(ids) - 1, prompt.image_word(int(count))
            made.append(Example(ids, last, len(ids), last if word is None else word))
        return made

    def _pass(self, examples: list[Example], rows: np.ndarray, costs: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings (c, W, D), summed loss and count of written tokens, for examples in descending order of cost."""
        parts = []
        start = 0
        while start < len(examples):
            take = max(1, self._batch_tokens // int(costs[start]))
            parts.append(self._padded(examples[start : start + take], rows[start : start + take]))
            start += take
        embeddings, losses, counts = zip(*parts, strict=True)
        return torch.cat(embeddings), torch.stack(losses).sum(), torch.stack(counts).sum()

    def _padded(self, examples: list[Example], notes: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        backbone = self._encoder.backbone
        device = self._encoder.device
        ids, lengths = pad([example.ids for example in examples], backbone.tokenizer.pad_token_id)
        ids, lengths = ids.to(device), lengths.to(device)  # (c, T), (c,)
        nothing = torch.zeros((), device=device)
        slots = self._encoder.prompt.slots
        places = [
            [example.readout, example.word] if slots is not None and slots.word else [example.readout]
            for example in examples
        ]
        read = self._encoder.read(ids, lengths, torch.tensor(places, device=device), self._seen(notes))
        images = (None, None) if read.glimpse is None else read.glimpse[1:]
        words = self._words(notes)
        # An image's word is the image's alone: no word of the note's lexicon goes with it.
        embeddings = torch.stack(
            [
                self._project(state, words if place == 0 else None, *images)
                for place, state in enumerate(read.states.unbind(1))
            ],
            dim=1,
        )  # (c, W, D)
        # The token at each position is predicted from the state before it.
        who = [row for row, example in enumerate(examples) for _ in range(example.output, len(example.ids))]
        where = [place for example in examples for place in range(example.output, len(example.ids))]
        if not who:
            return embeddings, nothing, nothing
        writer = torch.tensor(who, device=device)
        place = torch.tensor(where, device=device)
        logits = backbone.logits(read.hidden[writer, place - 1])  # (M, V)
        loss, count = generation_loss(logits, ids[writer, place])
        return embeddings, loss, count.to(loss.dtype)

    def _seen(self, notes: np.ndarray) -> Seen | None:
        seen = self._material.inputs.seen(notes, self._encoder.device)
        if seen is None or not self._augment or not self._encoder.training:
            return seen
        return dataclasses.replace(seen, values=augment(seen.values, seed=torch.initial_seed()))
