"""A cache of readout states on disk: a frozen backbone reads a note once, however many heads are trained or applied.

One folder of Parquet shards per version of the states (weights, tokenizer, prompt, limits), keyed by content hash. States are
kept in float32, so that an embedding made through the cache is the one made without it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from noterec import storage
from noterec.model.batching import Meter
from noterec.model.encoder import NoteEncoder
from noterec.model.inputs import Inputs

PART_NOTES = 4096


class StateCache:
    """States of one backbone by content hash; all that it holds is in memory while it is open."""

    def __init__(self, folder: str | os.PathLike[str], encoder: NoteEncoder, *, precision: str = "fp32") -> None:
        """Open the cache of this encoder's states below `folder`, creating it where there is none.

        Args:
            folder: where caches live.
            encoder: whose states they are.
            precision: that they are computed in; those of each are kept apart.
        """
        self.hidden_size = encoder.backbone.hidden_size
        version = encoder.states_version + ("" if precision == "fp32" else f"-{precision}")
        self._shards = storage.ShardFolder(
            storage.local(folder) / version,
            origin={"kind": "states", "states_version": version, "hidden_size": self.hidden_size},
        )
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []  # (b,) ascending hashes and (b, H) states
        for file in self._shards.files():
            table = storage.read_table(file)
            self._remember(table["content_hash"].to_numpy(), _matrix(table["state"], self.hidden_size))

    def __len__(self) -> int:
        return sum(len(hashes) for hashes, _ in self._parts)

    def lookup(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find states.

        Args:
            hashes: (B,) uint64 content hashes.

        Returns:
            (B,) bool, which are here; (B, H) float32, their states, undefined where they aren't.
        """
        found = np.zeros(len(hashes), dtype=bool)
        states = np.empty((len(hashes), self.hidden_size), dtype=np.float32)
        for known, values in self._parts:
            places = np.searchsorted(known, hashes).clip(max=len(known) - 1)
            here = known[places] == hashes
            states[here] = values[places[here]]
            found |= here
        return found, states

    def add(self, hashes: np.ndarray, states: np.ndarray) -> None:
        """Write one more shard: (B,) uint64 distinct hashes not yet here and their (B, H) float32 states."""
        if len(hashes):
            flat = pa.array(np.ascontiguousarray(states, dtype=np.float32).reshape(-1))
            column = pa.FixedSizeListArray.from_arrays(flat, self.hidden_size)
            self._shards.append(pa.table({"content_hash": pa.array(hashes), "state": column}))
            self._remember(hashes, states)

    def states_of(
        self,
        encoder: NoteEncoder,
        inputs: Inputs,
        hashes: np.ndarray,
        *,
        batch_tokens: int | None,
        advance: Callable[[int], None],
        bf16: bool = False,
        meter: Meter | None = None,
    ) -> tuple[np.ndarray, int]:
        """States of notes, from here or computed and added, equal contents once.

        Args:
            encoder: the encoder that the cache was opened for.
            inputs: B notes.
            hashes: (B,) uint64, their content hashes.
            batch_tokens: tokens of a batch, padding included.
            advance: called with numbers of notes that are done, B in all.
            bf16: compute them under autocast to bfloat16.
            meter: counts what is computed.

        Returns:
            (B, H) float32, and how many of the notes were found.
        """
        distinct, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
        found, states = self.lookup(distinct)
        missing = np.flatnonzero(~found)
        for start in range(0, len(missing), PART_NOTES):  # part by part: a killed run keeps the parts that are done
            part = missing[start : start + PART_NOTES]
            some = dataclasses.replace(inputs.take(first[part]), words=None)
            if encoder.sight is not None and not encoder.sight.in_states:  # the head takes the pictures in, later
                some = dataclasses.replace(some, pictures=None)
            run = encoder.run(some, batch_tokens=batch_tokens, project=False, bf16=bf16, meter=meter)
            for batch, values in run:
                states[part[batch]] = values
                advance(len(batch))
            self.add(distinct[part], states[part])
        advance(len(hashes) - len(missing))
        return states[inverse], int(found[inverse].sum())

    def _remember(self, hashes: np.ndarray, states: np.ndarray) -> None:
        order = np.argsort(hashes, kind="stable")
        self._parts.append((hashes[order], states[order]))


def _matrix(column: pa.ChunkedArray, width: int) -> np.ndarray:
    flat = column.combine_chunks().flatten().to_numpy()
    return np.asarray(flat, dtype=np.float32).reshape(-1, width)
