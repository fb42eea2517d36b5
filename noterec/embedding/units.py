"""What an encoder is handed at a time, and what it does with it: tokenise, encode, write a shard. Every engine runs these lines.

A unit is a shard's worth of notes that are due. It is sorted by length as a whole, which leaves next to no padding, and written as
one shard, which is what a killed job loses.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from noterec import progress, schema, storage
from noterec.config import EmbedConfig
from noterec.embedding.intake import cache_folder
from noterec.embedding.states import StateCache
from noterec.errors import ArtefactError, InputError
from noterec.model.batching import Meter, default_tokens
from noterec.model.encoder import NoteEncoder
from noterec.model.inputs import Inputs, Packed, Pictures
from noterec.notes import note

logger = logging.getLogger(__name__)

Advance = Callable[[int, Meter], None]  # notes that were done just now, and the work so far


@dataclasses.dataclass(frozen=True)
class Unit:
    """B notes that are due.

    Attributes:
        number: of the unit, from 0.
        table: B rows with note_id, the text that is encoded and content_hash.
        pictures: theirs; packed for another process, None for text alone.
        places: (k,) int64, rows whose content stands in the output already, under another id.
        vectors: (k, D) float32, theirs, as they stand there.
    """

    number: int
    table: pa.Table
    pictures: Pictures | Packed | None
    places: np.ndarray
    vectors: np.ndarray


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a process needs to know to encode units of one run.

    Attributes:
        model: the model's folder or hub id; None where the encoder is handed over itself.
        out, origin: where shards go, and what they say about where they come from.
        version: what must be found in the model.
        config: of the run.
        cache: the root of all caches; None = readout states aren't kept.
    """

    model: str | None
    out: str
    origin: dict[str, Any]
    version: str
    config: EmbedConfig
    cache: str | None = None

    def encoder(self, device: str) -> NoteEncoder:
        """The model on a device, made fast.

        Raises:
            ArtefactError: it isn't the model that the run began with.
        """
        assert self.model is not None, "an encoder that was handed over"
        encoder = NoteEncoder.from_pretrained(self.model, device=device, dimension=self.config.dimension)
        found = version_of(encoder, self.config)
        if found != self.version:
            raise ArtefactError(
                f"{self.model}: is version {found} here and {self.version} where the run began; give all machines the same model"
            )
        return encoder.accelerated(self.config.precision)


@dataclasses.dataclass
class Work:
    """What was done: counts and seconds, of one unit or of many.

    Attributes:
        notes: rows written.
        distinct: contents that were computed, or found among the states.
        copied: rows whose vector stood in the output already.
        found: contents whose state was found in the cache.
        tokens: that were computed.
        padded: computed tokens with padding.
        seconds: of preparing, encoding and writing; these overlap.
    """

    notes: int = 0
    distinct: int = 0
    copied: int = 0
    found: int = 0
    tokens: int = 0
    padded: int = 0
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    def add(self, other: Work) -> None:
        """Count another one's in."""
        for name in ("notes", "distinct", "copied", "found", "tokens", "padded"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name, value in other.seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value


@dataclasses.dataclass(frozen=True)
class Written:
    """A unit's shard, written and not yet named in the manifest: what has to be told about it."""

    number: int
    record: dict[str, Any]
    work: Work


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A unit, tokenised: its distinct contents, and where in the unit they go.

    Attributes:
        unit: the notes.
        due: (b,) int64, rows that have to be computed.
        inputs: of the d distinct contents among them.
        keys: (d,) uint64, what their states are kept under.
        inverse: (b,) int64, the content of each due row.
    """

    unit: Unit
    due: np.ndarray
    inputs: Inputs | None
    keys: np.ndarray
    inverse: np.ndarray
    seconds: float


class Coder:
    """Encodes units of one run on one device."""

    def __init__(self, encoder: NoteEncoder, recipe: Recipe, *, advance: Advance | None = None) -> None:
        """Take an encoder, already made fast, and open the cache of states where there is one.

        Args:
            encoder: of the recipe's model.
            recipe: of the run.
            advance: called after every batch.
        """
        self.encoder, self._recipe, self._config = encoder, recipe, recipe.config
        self._advance = advance or (lambda notes, meter: None)
        self._batch_tokens = recipe.config.batch_tokens
        self._states: StateCache | None = None
        if recipe.cache is not None and self._config.view in ("both", "text", "image"):
            folder = cache_folder(recipe.cache, "states")
            self._states = StateCache(folder, encoder, precision=self._config.precision)

    def prepare(self, unit: Unit) -> Prepared:
        """Tokenise what has to be computed of a unit, equal contents once."""
        started = time.perf_counter()
        due = np.setdiff1d(np.arange(unit.table.num_rows), unit.places)
        hashes = unit.table["content_hash"].to_numpy()[due]
        # Shuffled, two notes of equal content have different pictures.
        contents = np.arange(len(due)) if self._config.view == "shuffled" else hashes
        _, first, inverse = np.unique(contents, return_index=True, return_inverse=True)
        some = unit.table.take(due[first])
        inputs, keys = None, hashes[first]
        if len(first):
            pictures = None
            if unit.pictures is not None:
                assert self.encoder.sight is not None, "pictures for an encoder that sees"
                pictures = unit.pictures.opened(self.encoder.sight.tower).take(due[first])
            inputs = self.encoder.prepare(some, pictures)
            # Of the pictures that were seen, not of those that the note names: which can be used depends on limits and servers.
            if inputs.pictures is not None and self.encoder.sight is not None and self.encoder.sight.in_states:
                keys = note.content_hashes(some, inputs.pictures.stamps())
        return Prepared(unit, due, inputs, keys, inverse, time.perf_counter() - started)

    def encode(self, prepared: Prepared) -> tuple[np.ndarray, Work]:
        """The vectors of a unit.

        Returns:
            (B, D) float32, unit-norm rows in the unit's order, and what was done.

        Raises:
            InputError: a vector isn't finite.
        """
        started = time.perf_counter()
        unit, inputs, meter = prepared.unit, prepared.inputs, Meter()
        work = Work(notes=unit.table.num_rows, copied=len(unit.places))
        vectors = np.empty((unit.table.num_rows, self.encoder.dimension), dtype=np.float32)
        vectors[unit.places] = unit.vectors
        if inputs is not None:
            self._advance(unit.table.num_rows - len(inputs), meter)
            found = self._from_states(prepared, meter) if self._states is not None else self._computed(inputs, meter)
            self._check(found, prepared)
            vectors[prepared.due] = found[prepared.inverse]
            work.distinct, work.tokens, work.padded = len(inputs), meter.tokens, meter.padded
            work.found = len(inputs) - meter.notes if self._states is not None else 0
        else:
            self._advance(unit.table.num_rows, meter)
        work.seconds = {"prepare": prepared.seconds, "encode": time.perf_counter() - started}
        return vectors, work

    def write(self, unit: Unit, vectors: np.ndarray, work: Work) -> Written:
        """Write a unit's shard; it counts once the manifest names it."""
        started = time.perf_counter()
        dtype = pa.float16() if self._config.dtype == "float16" else pa.float32()
        flat = pa.array(vectors.astype(self._config.dtype, copy=False).reshape(-1), type=dtype)
        shard = pa.table(
            {
                "note_id": unit.table["note_id"],
                "embedding": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
                "content_hash": unit.table["content_hash"],
                "model_version": pa.array([self._recipe.version] * len(vectors)),
            },
            schema=schema.embeddings_schema(vectors.shape[1], dtype),
        )
        record = storage.write_shard(self._recipe.out, shard, origin=self._recipe.origin)
        work.seconds["write"] = time.perf_counter() - started
        return Written(unit.number, record, work)

    def _computed(self, inputs: Inputs, meter: Meter) -> np.ndarray:
        """(d, D) float32 of d contents; where a GPU's memory doesn't hold a batch, the next ones are half as large."""
        vectors = np.empty((len(inputs), self.encoder.dimension), dtype=np.float32)
        left = np.arange(len(inputs))
        while len(left):
            done = np.zeros(len(left), dtype=bool)
            run = self.encoder.run(
                inputs.take(left) if len(left) < len(inputs) else inputs,
                batch_tokens=self._batch_tokens,
                image_word=self._config.view == "visual",
                meter=meter,
            )
            full = False
            try:
                for batch, part in run:
                    vectors[left[batch]] = part
                    done[batch] = True
                    self._advance(len(batch), meter)
            except torch.OutOfMemoryError:
                if not self._halve(max(len(inputs.tokens[place]) for place in left[~done])):
                    raise
                full = True
            left = left[~done]
            if full:
                torch.cuda.empty_cache()  # only here: while the error was being handled, it held on to the batch
        return vectors

    def _halve(self, longest: int) -> bool:
        """Make batches half as large from here on; False where the longest note fills one alone."""
        budget = self._batch_tokens or default_tokens(self.encoder.device)
        if budget <= longest:
            return False
        self._batch_tokens = budget // 2
        logger.warning("the GPU's memory holds no batch of %d tokens; going on with %d", budget, budget // 2)
        return True

    def _from_states(self, prepared: Prepared, meter: Meter) -> np.ndarray:
        """(d, D) float32 through the cache of states."""
        inputs = prepared.inputs
        assert self._states is not None and inputs is not None

        def advance(notes: int) -> None:
            self._advance(notes, meter)

        states, _ = self._states.states_of(
            self.encoder, inputs, prepared.keys, batch_tokens=self._batch_tokens, advance=advance, meter=meter
        )
        visual = None
        if inputs.pictures is not None and self.encoder.head is not None and self.encoder.head.visual:
            visual = inputs.pictures.visual()
        return self.encoder.project_states(states, inputs.words, visual)

    def _check(self, vectors: np.ndarray, prepared: Prepared) -> None:
        """Refuse what can't be searched: NaN and infinity, from weights or a precision that overflows."""
        sound = np.isfinite(vectors).all(axis=1)
        if sound.all():
            return
        rows = prepared.due[~sound[prepared.inverse]]
        ids = prepared.unit.table["note_id"].take(pa.array(rows[:1])).to_pylist()
        why = "The model's weights are damaged, or the text drives it beyond its numbers' range: look at that note"
        if self._config.precision != "fp32":
            why = f"With precision={self._config.precision} the model's numbers may overflow: try fp32"
        raise InputError(
            f"{len(rows)} of {len(prepared.due)} vectors are not finite, the first is of note {ids[0]!r}; this shard was not "
            f"written. {why}"
        )


def version_of(encoder: NoteEncoder, config: EmbedConfig) -> str:
    """The version of the vectors that an encoder makes with these settings."""
    if config.view == "both":
        return encoder.model_version
    return storage.value_hash(
        [encoder.model_version, config.view]
    )  # for comparisons, not to be mixed with the model's own


def tracked(bar: progress.Bar, stop: threading.Event) -> Advance:
    """Advance a bar, with tokens per second and the share of padding behind it; once `stop` is set, end what is being encoded."""
    started = time.perf_counter()

    def advance(notes: int, meter: Meter) -> None:
        if stop.is_set():
            raise RuntimeError("the run was stopped")  # nobody waits for this unit any more
        bar.advance(notes, note=rates(meter.tokens, meter.padded, time.perf_counter() - started))

    return advance


def rates(tokens: int, padded: int, seconds: float) -> str:
    """Tokens per second and the share of padding, in words."""
    if not tokens or seconds <= 0:
        return ""
    return f"{tokens / seconds:,.0f} tokens/s, {100 * (1 - tokens / padded):.1f} % padding"
