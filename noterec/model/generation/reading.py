"""Prompts that a language model has read, from whose end it goes on: its keys and values are kept, no token is read twice.

Prompts are padded on the left, so that the tokens of a note and its answer stand in one piece: a sliding window then covers the
same tokens as it would without padding, and positions count from the note's first token. The cache keeps all tokens of every layer,
windows included (the mask does the windowing): a cache that forgets what left the window could not go back.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor

from noterec.errors import ArtefactError, InputError
from noterec.model.backbone import Backbone


class Reading:
    """B prompts as a causal model has read them.

    Attributes:
        next: (B, V) float32, scores of the token behind each prompt.
    """

    def __init__(self, backbone: Backbone, cache: Any, mask: Tensor, next_scores: Tensor) -> None:
        """Most callers want `read`."""
        self._backbone, self._cache, self._mask = backbone, cache, mask
        self.next = next_scores

    @classmethod
    def read(
        cls, backbone: Backbone, prompts: Sequence[np.ndarray], device: torch.device, visual: Tensor | None = None
    ) -> Self:
        """Read B prompts.

        Args:
            backbone: a causal model.
            prompts: (T_b,) int64 ids each, negative in M slots.
            device: where it is.
            visual: (M, H) visual tokens for the slots, prompt by prompt; None where there are none.

        Raises:
            InputError: the model keeps a running state in place of keys and values, so it can't go back to the prompt's end.
        """
        from transformers import DynamicCache

        if getattr(backbone.model, "_is_stateful", False):
            raise InputError(
                f"{type(backbone.model).__name__} keeps a running state, which can't go back to where an answer begins; "
                "expected a language model with attention, such as Llama, Qwen, Gemma or GPT-2"
            )
        longest = max(map(len, prompts))
        ids = torch.full((len(prompts), longest), backbone.tokenizer.pad_token_id, dtype=torch.int64)
        mask = torch.zeros((len(prompts), longest), dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.from_numpy(prompt)
            mask[row, longest - len(prompt) :] = 1
        reading = cls(backbone, DynamicCache(), mask[:, :0].to(device), torch.empty(0))
        states = reading._run(ids.to(device), mask.to(device), visual)  # (B, T, H)
        reading.next = reading._score(states[:, -1])  # (B, V)
        return reading

    def __len__(self) -> int:
        return len(self._mask)

    def peek(self, paths: Sequence[Sequence[int]]) -> Tensor:
        """Scores behind each prompt and a path of ids, (B, V) float32; the reading stays where it is."""
        longest = max(map(len, paths))
        ids = torch.full((len(paths), longest), self._backbone.tokenizer.pad_token_id, dtype=torch.int64)
        for row, path in enumerate(paths):
            ids[row, : len(path)] = torch.tensor(path)  # padding behind the path is seen by nothing that is read
        before = self._mask
        states = self._run(ids.to(before.device), torch.ones_like(ids, device=before.device))  # (B, L, H)
        self._cache.crop(-longest)
        self._mask = before
        last = torch.tensor([len(path) - 1 for path in paths], device=before.device)
        return self._score(states[torch.arange(len(paths), device=before.device), last])  # (B, V)

    def extend(self, tokens: Tensor) -> None:
        """Go on by one token a row: (B,) int64."""
        states = self._run(tokens[:, None], torch.ones_like(tokens[:, None]))  # (B, 1, H)
        self.next = self._score(states[:, -1])

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all rows but these; row i is then what row rows[i] was."""
        places = torch.tensor(rows, dtype=torch.int64, device=self._mask.device)
        self._cache.batch_select_indices(places)
        self._mask, self.next = self._mask[places], self.next[places]

    def fork(self, rows: Sequence[int]) -> Reading:
        """A reading of its own with these rows, in this order and as often as they are named."""
        cache = copy.copy(self._cache)
        cache.layers = [copy.copy(layer) for layer in self._cache.layers]  # tensors are replaced, never written into
        other = Reading(self._backbone, cache, self._mask, self.next)
        other.keep(rows)
        return other

    def _run(self, ids: Tensor, mask: Tensor, visual: Tensor | None = None) -> Tensor:
        """Read (B, L) more ids whose (B, L) mask is 0 for padding; (B, L, H) states of the last layer."""
        read = self._mask.sum(dim=1, keepdim=True)  # (B, 1)
        positions = (read + mask.cumsum(dim=1) - 1).clamp(min=0)  # (B, L)
        self._mask = torch.cat([self._mask, mask], dim=1)
        trunk: Any = getattr(self._backbone.model, "base_model", self._backbone.model)
        given: dict[str, Any] = {"position_ids": positions} if "position_ids" in _parameters(trunk) else {}
        given |= {"input_ids": ids} if visual is None else {"inputs_embeds": self._backbone.spliced(ids, visual)}
        output = trunk(attention_mask=self._mask, past_key_values=self._cache, use_cache=True, **given)
        return cast(Tensor, output.last_hidden_state)

    def _score(self, states: Tensor) -> Tensor:
        scores = self._backbone.logits(states)  # (B, V)
        if not bool(torch.isfinite(scores).all()):
            raise ArtefactError(
                "the model's scores are not finite (NaN or infinity); its weights are damaged, or need precision=fp32"
            )
        return scores


def _parameters(trunk: Any) -> frozenset[str]:
    return frozenset(inspect.signature(trunk.forward).parameters)
