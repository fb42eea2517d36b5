"""The Lightning side of training: one step, the optimiser, the looks at cold recall, the checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from noterec import progress, storage
from noterec.config import TrainConfig
from noterec.errors import ArtefactError
from noterec.model.batching import pad
from noterec.model.encoder import NoteEncoder
from noterec.model.losses import contrastive_loss, graph_loss
from noterec.training.cold_recall import ColdRecall, Look
from noterec.training.material import Batch, Material
from noterec.training.start import Plan


class ContrastiveModule(pl.LightningModule):
    """Trains an encoder's weights, or its head alone where the states are given; a frozen backbone is not part of it."""

    def __init__(self, encoder: NoteEncoder, material: Material, config: TrainConfig, plan: Plan) -> None:
        """Take the encoder whose weights are trained in place."""
        super().__init__()
        self._held = (encoder,)  # in a tuple: unregistered, so that a frozen backbone stays out of the checkpoints
        self._material, self._config, self._plan = material, config, plan
        self.logit_scale = encoder.logit_scale
        self.trained: nn.Module = encoder if material.states is None else _head(encoder)

    @property
    def encoder(self) -> NoteEncoder:
        """The encoder that is being trained."""
        return self._held[0]

    def training_step(self, batch: tuple[int, Batch], batch_idx: int) -> Tensor:
        """The loss of one batch; dropout is seeded by the step, so that a resumed run draws the same."""
        step, part = batch
        torch.manual_seed(self._config.seed * 1_000_003 + step)
        embeddings = self._embed(part)
        weights = torch.from_numpy(part.weights).to(embeddings.device)
        same = torch.from_numpy(part.same).to(embeddings.device)
        scale = self.logit_scale.exp()
        if self._plan.objective == "graph":
            loss = graph_loss(embeddings, scale, weights, same)
        else:
            loss = contrastive_loss(embeddings, scale, (weights > 0) | same)
        self.log_dict({"loss": loss, "logit_scale": scale}, batch_size=len(part.rows))
        return loss

    def _embed(self, part: Batch) -> Tensor:
        material, encoder = self._material, self.encoder
        words = None if material.inputs.words is None else material.inputs.words[part.rows]
        if material.states is not None:
            return encoder.project(torch.from_numpy(material.states[part.rows]).to(self.device), words)
        ids, lengths = pad([material.inputs.tokens[row] for row in part.rows], encoder.backbone.tokenizer.pad_token_id)
        return encoder.project(encoder.states(ids.to(self.device), lengths.to(self.device)), words)

    def configure_optimizers(self) -> Any:
        """AdamW with a learning rate per part, linear warm-up, then a cosine to a tenth."""
        config = self._config
        head = self.encoder.head
        words = [] if head is None or not head.lexicon else [head.words.weight]
        pretrained = (
            [] if config.backbone == "tiny" or self._material.states is not None else [*self.encoder.model.parameters()]
        )
        special = {id(parameter) for parameter in [*words, *pretrained, self.logit_scale]}
        rest = [parameter for parameter in self.trained.parameters() if id(parameter) not in special]
        groups = [
            {"params": rest, "lr": self._plan.lr},
            {"params": words, "lr": self._plan.words_lr},
            {"params": pretrained, "lr": config.backbone_lr},
            {"params": [self.logit_scale], "lr": self._plan.lr, "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=config.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _warm_then_cosine(self._plan.steps, config.warmup))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _head(encoder: NoteEncoder) -> nn.Module:
    assert encoder.head is not None, "a frozen backbone is trained through its head"
    return encoder.head


def _warm_then_cosine(steps: int, warmup: float) -> Callable[[int], float]:
    rising = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        done = min(1.0, (step - rising) / max(1, steps - rising))
        return 0.1 + 0.45 * (1 + math.cos(math.pi * done))

    return factor


class KeepBest(Callback):
    """Looks at cold recall before the first step and every so many steps, keeps the best weights, stops when it falls."""

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
        self._bar.advance(1, f"{note} (best {self.best.recall_at_10:.4f})")
        if step % self._config.valid_every == 0 or step == self._steps:
            self._look(trainer, pl_module)
            if self._exhausted():
                trainer.should_stop = True

    def _exhausted(self) -> bool:
        """Whether `patience` looks in a row were no better than the best."""
        return sum(1 for look in self.looks if look.step > self.best.step) >= self._config.patience

    def _look(self, trainer: pl.Trainer, module: Any) -> None:
        from safetensors.torch import save

        look = self._recall.look(module.encoder, trainer.global_step)
        self.looks.append(look)
        if self.best is look:
            weights = {
                key: value.detach().cpu().contiguous().clone() for key, value in module.trained.state_dict().items()
            }
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

    def __init__(self, file: Path, every: int) -> None:
        """Write to `file` after every `every` steps."""
        self._file, self._every = file, every

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save, where the step is due."""
        if trainer.global_step % self._every == 0:
            aside = self._file.with_suffix(".tmp")
            trainer.save_checkpoint(aside)
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
        module.trained.load_state_dict(weights)
    except (OSError, RuntimeError, KeyError, SafetensorError) as error:
        raise ArtefactError(f"{file}: the best weights do not load ({error}); train again with --restart") from error
    module.encoder.weights_changed()
