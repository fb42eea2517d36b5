"""What happens between steps: looks at cold recall, and checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from noterec import progress, storage
from noterec.config import TrainConfig
from noterec.errors import ArtefactError
from noterec.training.cold_recall import ColdRecall, Look
from noterec.training.module import ContrastiveModule, moving_state


class KeepBest(Callback):
    """Looks at cold recall before the first step and every so many steps, keeps the best weights, stops when it falls.

    With several processes each looks for itself and sees the same, so that all stop together; the first one writes.
    """

    def __init__(self, recall: ColdRecall, config: TrainConfig, steps: int, best_file: Path, bar: progress.Bar) -> None:
        """Keep the best weights in `best_file`; say how it goes on `bar`."""
        self._recall, self._config, self._steps, self._file, self._bar = recall, config, steps, best_file, bar
        self.looks: list[Look] = []

    @property
    def best(self) -> Look:
        """The look with the highest cold recall, the earliest of equals."""
        return max(self.looks, key=lambda look: (look.value, -look.step))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at step 0, so that training which only harms is undone."""
        if not self.looks:
            self._look(trainer, pl_module)
        elif self._exhausted():
            trainer.should_stop = True  # the run that is being continued had already ended when it was cut off

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look, and stop when `patience` looks in a row were no better."""
        step = trainer.global_step
        note = f"loss {float(outputs['loss']):.3f}  cold recall@10 {self.looks[-1].recall_at_10:.4f}"
        self._bar.advance(0, f"{note} (best {self.best.recall_at_10:.4f})")
        if step % self._config.valid_every == 0 or step == self._steps:
            self._look(trainer, pl_module)
            # On GPUs the processes' looks may differ by rounding: they stop together or not at all.
            trainer.should_stop = trainer.strategy.reduce_boolean_decision(self._exhausted(), all=False)

    def _exhausted(self) -> bool:
        """Whether `patience` looks in a row were no better than the best."""
        return sum(1 for look in self.looks if look.step > self.best.step) >= self._config.patience

    def _look(self, trainer: pl.Trainer, module: Any) -> None:
        from safetensors.torch import save

        look = self._recall.look(module.encoder, trainer.global_step)
        self.looks.append(look)
        if self.best is look and trainer.is_global_zero:
            weights = moving_state(module.trained)
            weights["τ"] = module.logit_scale.detach().cpu().clone()
            with storage.atomic_write(self._file) as file:
                file.write(save(weights))
        metrics = {"cold_recall_10": look.recall_at_10, "cold_recall_100": look.recall_at_100}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, look.step)

    def state_dict(self) -> dict[str, Any]:
        """The looks so far, for the checkpoint."""
        return {"looks": [[look.step, look.recall_at_10, look.recall_at_100] for look in self.looks]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the looks from a checkpoint."""
        self.looks = [Look(int(step), at_10, at_100) for step, at_10, at_100 in state_dict["looks"]]


class Checkpoint(Callback):
    """Writes the whole trainer state every so many steps, aside and renamed; a killed run continues from there."""

    def __init__(self, file: Path, every: int, bar: progress.Bar) -> None:
        """Write to `file` after every `every` steps; count all steps on `bar`."""
        self._file, self._every, self._bar = file, every, bar

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save, where the step is due."""
        self._bar.advance()
        if trainer.global_step % self._every == 0:
            aside = self._file.with_suffix(".tmp")
            trainer.save_checkpoint(aside)
            if trainer.is_global_zero:
                aside.replace(self._file)


def load_best(module: ContrastiveModule, file: Path) -> None:
    """Put the best weights back into the encoder.

    Raises:
        ArtefactError: the file is missing or of another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(file)
        with torch.no_grad():
            module.logit_scale.copy_(weights.pop("τ"))
        expected = moving_state(module.trained).keys()
        if weights.keys() != expected:
            raise KeyError(f"{len(weights.keys() ^ expected)} weights differ in name")
        module.trained.load_state_dict(weights, strict=False)
    except (OSError, RuntimeError, KeyError, SafetensorError) as error:
        raise ArtefactError(f"{file}: the best weights do not load ({error}); train again with --restart") from error
    module.encoder.weights_changed()
