"""The prompt's fixed beginning, read once: its keys and values are shared by all notes of all batches.

In a causal model what comes first depends on nothing that comes later, so the keys and values of the ids with which every note
begins are the same for all notes. They are computed with one row, and each layer puts them before a batch's own.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from noterec.model.backbone import Backbone
from noterec.model.prompts import Prompt, Text

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4  # of a state's length; in float32 both ways agree within about 1e-6
MIN_NOTES = 8  # for fewer at once, reading the prefix by itself isn't worth it
# A made-up note, and one that is longer than any limit, for models that see only so far back.
SHORT: Text = ("Cold brew at home", ["coffee"], "Eighteen hours in the fridge, then a filter.")
LONG: Text = ("one more word " * 4096, ["tag"] * 4096, "and then another " * 4096)


class SharedLayer(DynamicLayer):
    """A layer's keys and values of the prefix. It gives them with a batch's own, and keeps nothing of the batch."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        """Take the keys and values (1, heads, P, D) of a layer."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values, self.is_initialized = keys, values, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """A batch's (B, heads, T, D) keys and values behind the prefix's: (B, heads, P + T, D) each."""
        assert self.keys is not None and self.values is not None
        rows = len(key_states)
        return (
            torch.cat([self.keys.expand(rows, -1, -1, -1), key_states], dim=-2),
            torch.cat([self.values.expand(rows, -1, -1, -1), value_states], dim=-2),
        )


class SharedPrefix:
    """The prefix of an encoder's notes: whether it can be shared, and what is shared, computed when it is asked for.

    Attributes:
        ids: (P,) int64.
    """

    def __init__(self, backbone: Backbone, prompt: Prompt, *, usable: bool | None = None) -> None:
        """Nothing is computed yet.

        Args:
            backbone: whose trunk reads it.
            prompt: what it is the beginning of.
            usable: whether it can be shared, where that is known; None = to be found out at the first use.
        """
        self.ids = np.asarray(prompt.prefix, dtype=np.int64)
        self._backbone, self._prompt, self._usable = backbone, prompt, usable
        self._kept: tuple[Any, Cache] | None = None
        self._held = False

    def forget(self) -> None:
        """Compute everything anew when it is next asked for: the weights changed."""
        self._kept = None

    def hold(self) -> None:
        """Compute it now, and use that for any number of notes, whatever becomes of the weights.

        For a copy whose layers are about to be replaced: once for all notes, the prefix can be read as exactly as at all. That is
        worth something: in many models a first token has much larger states than others, and rounding those costs most.
        """
        self._kept = (None, _read(self._backbone, self.ids)) if self.usable else None
        self._held = True

    def cast(self, dtype: torch.dtype) -> None:
        """Give what is held to a trunk of another dtype."""
        assert self._held, "held before"
        for layer in () if self._kept is None else self._kept[1].layers:
            assert isinstance(layer, SharedLayer) and layer.keys is not None and layer.values is not None
            layer.keys, layer.values = layer.keys.to(dtype), layer.values.to(dtype)

    def begins(self, tokens: list[np.ndarray]) -> np.ndarray:
        """Which of B notes (T_b,) begin with it and go on: (B,) bool. One that shows images first doesn't."""
        size = len(self.ids)
        return np.array([len(ids) > size and np.array_equal(ids[:size], self.ids) for ids in tokens], dtype=bool)

    def cache(self, notes: int) -> Cache | None:
        """What goes into `Backbone.hidden` for notes that begin with the prefix; None where they are better computed whole.

        The same object is given again as long as weights and autocast are as they were.

        Args:
            notes: how many are about to be computed.
        """
        if self._held:
            return self._kept[1] if notes and self._kept is not None else None
        state = self._state()
        if self._kept is not None and self._kept[0] == state:
            return self._kept[1]
        if notes < MIN_NOTES or not self.usable:
            return None
        self._kept = (state, _read(self._backbone, self.ids))
        return self._kept[1]

    @property
    def usable(self) -> bool:
        """Whether sharing is exact for this backbone: by its structure, and by a made-up note that is computed both ways."""
        if self._usable is None:
            self._usable = self._tried()
        return self._usable

    def _state(self) -> tuple[Any, ...]:
        """Changes with the weights, in whatever way they are changed, where they are, and what matrices are multiplied in."""
        device = next(self._backbone.trunk.parameters()).device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        return (autocast, *((p.data_ptr(), _version(p)) for p in self._backbone.trunk.parameters()))

    @torch.no_grad()
    def _tried(self) -> bool:
        windows = _windows(self._backbone) if len(self.ids) else None
        if windows is None:
            return False
        texts = [SHORT, LONG] if any(window < self._prompt.max_tokens for window in windows) else [SHORT]
        device = next(self._backbone.trunk.parameters()).device
        try:
            with torch.autocast(device.type, enabled=False):
                cache = _read(self._backbone, self.ids)
                apart = max(self._apart(ids, cache, device) for ids in self._prompt.encode(texts))
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:  # as a model's code may
            self._refused(f"its code refuses ({error})")
            return False
        if not apart <= TOLERANCE:
            self._refused(f"a made-up note's states differ by {apart:.1e} of their length")
            return False
        return True

    def _apart(self, ids: np.ndarray, cache: Cache, device: torch.device) -> float:
        """How much a note's states differ between both ways, as a share of their length."""
        row = torch.from_numpy(ids).to(device)[None]  # (1, T)
        size = len(self.ids)
        whole = self._backbone.hidden(row, torch.tensor([row.shape[1]]))[0, size:]  # (T - P, H)
        shared = self._backbone.hidden(row[:, size:], torch.tensor([row.shape[1] - size]), prefix=cache)[0]
        return float(((whole - shared).norm(dim=-1) / whole.norm(dim=-1)).max())

    def _refused(self, reason: str) -> None:
        logger.warning(
            "%s: the prompt's first %d tokens can't be computed once for all notes: %s. Every note is computed whole, which is "
            "slower and as exact",
            type(self._backbone.trunk).__name__,
            len(self.ids),
            reason,
        )


def _windows(backbone: Backbone) -> list[int] | None:
    """How far back each layer with a window sees, in tokens; None where not every layer keeps one key and value a token.

    Also None where the rotation of a key depends on how long its note is (dynamic and longrope).
    """
    trunk: Any = backbone.trunk
    if backbone.kind != "causal" or getattr(trunk, "_is_stateful", False):
        return None
    if "past_key_values" not in inspect.signature(trunk.forward).parameters:
        return None
    rotations = _rope_types(getattr(trunk.config.get_text_config(), "rope_parameters", None))
    if any("dynamic" in kind or kind == "longrope" for kind in rotations):
        return None
    layers = DynamicCache(config=trunk.config).layers
    if not layers or any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers):
        return None
    return [layer.sliding_window for layer in layers if isinstance(layer, DynamicSlidingWindowLayer)]


def _rope_types(parameters: Any) -> Iterator[str]:
    """The kinds of rotation that a config names, one for all layers or one for each type of layer."""
    if isinstance(parameters, dict):
        if isinstance(parameters.get("rope_type"), str):
            yield parameters["rope_type"]
        for value in parameters.values():
            yield from _rope_types(value)


def _read(backbone: Backbone, ids: np.ndarray) -> Cache:
    """The keys and values of the prefix in every layer: all of them, for the mask does the windowing."""
    trunk: Any = backbone.trunk
    device = next(trunk.parameters()).device
    cache = DynamicCache()
    with torch.no_grad():
        trunk(input_ids=torch.from_numpy(ids).to(device)[None], past_key_values=cache, use_cache=True)
    found = [(layer.keys, layer.values) for layer in cache.layers if isinstance(layer, DynamicLayer)]
    layers = [SharedLayer(keys, values) for keys, values in found if keys is not None and values is not None]
    if len(layers) != len(DynamicCache(config=trunk.config).layers):
        raise ValueError(f"{len(layers)} layers keep keys and values of the prefix")
    return Cache(layers=list(layers))


def _version(parameter: Tensor) -> int:
    """Counts changes in place; a parameter that was made in inference mode can't be changed outside it."""
    return -1 if parameter.is_inference() else parameter._version
