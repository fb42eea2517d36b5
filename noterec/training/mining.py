"""Mined hard negatives of a run: found with the encoder as it is, again every epoch."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from noterec import progress
from noterec.config import NegativesConfig
from noterec.model.encoder import NoteEncoder
from noterec.model.negatives import hard_negatives
from noterec.training.cold_recall import vectors_of
from noterec.training.gather import from_first
from noterec.training.material import Material

CHOICES = 4  # mined per note for every one that a step draws, so that epochs don't repeat themselves


class HardNegatives(Callback):
    """Keeps a table of hard negatives, and draws from it for a step.

    The table belongs to the checkpoint: it was mined with weights that are gone when a run is resumed.
    """

    def __init__(
        self, material: Material, config: NegativesConfig, *, every: int, batch_tokens: int, bf16: bool, seed: int
    ) -> None:
        """Mine before step 0 and every `every` steps."""
        self._material, self._config, self._every, self._seed = material, config, every, seed
        self._batch_tokens, self._bf16 = batch_tokens, bf16
        self._table: np.ndarray | None = None  # (train, CHOICES * hard) int64, -1 where there are fewer
        self._mined = -1

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Mine, where the step is due."""
        step = int(batch)
        if step % self._every == 0 and step != self._mined:
            self.mine(pl_module.encoder, step)

    def mine(self, encoder: NoteEncoder, step: int) -> None:
        """Find the hard negatives of every training note with the encoder as it is now."""
        data, config = self._material, self._config
        rows = np.arange(data.train)
        with progress.track("mine", data.train, "notes") as bar:
            vectors = vectors_of(encoder, data, rows, self._batch_tokens, bf16=self._bf16, bar=bar)
            self._table = hard_negatives(
                vectors,
                data.graph,
                count=CHOICES * config.hard,
                low=config.hard_from,
                high=config.hard_to,
                margin=config.hard_margin,
                contents=None if data.contents is None else data.contents[: data.train],
                seed=self._seed + step,
            )
            self._table = from_first(self._table, encoder.device)
        self._mined = step

    @property
    def share(self) -> float:
        """Share of the notes for which any was found."""
        return 0.0 if self._table is None else float((self._table[:, 0] >= 0).mean())

    def draw(self, anchors: np.ndarray, step: int) -> np.ndarray:
        """Hard negatives for the pairs of a step, `hard` for each, a random training note where none was found.

        Args:
            anchors: (P,) rows.
            step: the step's number.

        Returns:
            (P * hard,) rows, those of a pair together.
        """
        assert self._table is not None, "mined before the first step"
        random = np.random.default_rng([self._seed, step, 0x4A2D])
        wanted = self._config.hard
        drawn = random.integers(0, self._material.train, (len(anchors), wanted))
        for place, mined in enumerate(self._table[anchors]):
            found = random.permutation(mined[mined >= 0])[:wanted]
            drawn[place, : len(found)] = found
        return drawn.reshape(-1)

    def state_dict(self) -> dict[str, Any]:
        """The table, for the checkpoint."""
        return {"mined": self._mined, "table": None if self._table is None else torch.from_numpy(self._table)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the table from a checkpoint."""
        self._mined = int(state_dict["mined"])
        table = state_dict["table"]
        self._table = None if table is None else table.numpy()
