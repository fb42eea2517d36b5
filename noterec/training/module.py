"""The Lightning side of training: one step, and the optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn

from noterec.config import TrainConfig
from noterec.errors import DivergenceError, InputError
from noterec.model.encoder import NoteEncoder
from noterec.model.losses import contrastive_loss, graph_loss, joint_loss, matryoshka_loss, weighted_loss
from noterec.model.negatives import log_q
from noterec.model.prompts import Request
from noterec.model.tasks import Tasks
from noterec.training.batches import Batches
from noterec.training.forward import Forward
from noterec.training.gather import from_first, gather_rows, global_mean
from noterec.training.material import Material
from noterec.training.mining import HardNegatives
from noterec.training.plan import Plan

IMAGE_LR_SHARE = 0.1
NAMED_NOTES = 10  # of a batch that went wrong, in the message


class ContrastiveModule(pl.LightningModule):
    """Trains an encoder's weights, or its head alone where the states are given; a frozen backbone is not part of it."""

    def __init__(
        self,
        encoder: NoteEncoder,
        material: Material,
        batches: Batches,
        config: TrainConfig,
        plan: Plan,
        *,
        tasks: Tasks | None = None,
        mined: HardNegatives | None = None,
    ) -> None:
        """Take the encoder whose weights are trained in place.

        Args:
            encoder: the encoder.
            material: the notes and their relations.
            batches: which notes a step sees.
            config: the settings.
            plan: the settings that were left open, decided.
            tasks: what the notes write; None = nothing.
            mined: hard negatives; None = the batch alone.
        """
        super().__init__()
        self._held = (encoder,)  # in a tuple: unregistered, so that a frozen backbone stays out of the checkpoints
        self._material, self._batches, self._config, self._plan = material, batches, config, plan
        self._tasks, self._mined = tasks, mined
        self._forward = Forward(encoder, material, chunk_notes=config.chunk_notes, batch_tokens=plan.pass_tokens)
        self._log_q = config.negatives.logq * log_q(material.appearances) if config.negatives.logq else None
        self.logit_scale = encoder.logit_scale
        self.trained: nn.Module = encoder if material.states is None else _head(encoder)
        self.strict_loading = False  # weights that don't move are not in the checkpoints

    @property
    def encoder(self) -> NoteEncoder:
        """The encoder that is being trained."""
        return self._held[0]

    def on_train_start(self) -> None:
        """See that all processes have the same notes and pictures: each has read, and perhaps fetched, them for itself.

        Raises:
            InputError: this one has others than the first.
        """
        own = np.array([self._material.signature])
        if from_first(own.copy(), self.encoder.device)[0] != own[0]:
            raise InputError(
                f"process {self.global_rank} could use other notes or pictures than process 0, most often because one of them "
                "could not fetch a picture in time; start again, or store the pictures' bytes in the notes"
            )

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        """The loss of one step; dropout is seeded by the step, so that a resumed run draws the same.

        Raises:
            DivergenceError: the loss is no number.
        """
        step = int(batch)
        torch.manual_seed(self._config.seed * 1_000_003 + step + self.global_rank * 7919)
        rows = self._batches.rows(step)
        requests = self.requests(rows, step)
        extra = np.zeros(0, dtype=np.int64) if self._mined is None else self._mined.draw(rows[::2], step)
        loss, parts = self.loss(rows, extra, requests)
        if not bool(torch.isfinite(loss)):
            raise DivergenceError(self._diverged(step, np.concatenate([rows, extra]), parts))
        self.log_dict(
            {"loss": loss.detach(), "logit_scale": self.logit_scale.exp().detach(), **parts}, batch_size=len(rows)
        )
        return loss

    def requests(self, rows: np.ndarray, step: int) -> list[Request] | None:
        """What the notes of a step write, or None."""
        return None if self._tasks is None else self._tasks.draw(rows, step)

    def loss(
        self, rows: np.ndarray, extra: np.ndarray, requests: list[Request] | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a global batch, of which this process embeds its part (arXiv:2403.01744, eq. 4).

        Args:
            rows: (b,) notes of the batch.
            extra: (E,) hard negatives.
            requests: what each of the b notes writes, or None.

        Returns:
            () float32, and its parts by name.
        """
        mine, mine_extra = self._share(len(rows)), self._share(len(extra))
        local = np.concatenate([rows[mine], extra[mine_extra]])
        embeddings, written, count = self._forward(local, None if requests is None else requests[mine])
        own = mine.stop - mine.start
        everything = gather_rows(embeddings[:own])  # (b, W, D)
        if len(extra):
            everything = torch.cat([everything, gather_rows(embeddings[own:])])  # (b + E, W, D)
        contrastive = self._contrastive(everything[:, 0], rows, extra)
        parts = {"contrastive": contrastive.detach()}
        if everything.shape[1] == 2:
            contrastive = self._with_images(contrastive, everything[:, 1], rows, extra, parts)
        if requests is None:
            return contrastive, parts
        generation = global_mean(written, count)
        parts["generation"] = generation.detach()
        return joint_loss(contrastive, generation, self._plan.alpha), parts

    def _with_images(
        self, contrastive: Tensor, embeddings: Tensor, rows: np.ndarray, extra: np.ndarray, parts: dict[str, Tensor]
    ) -> Tensor:
        """`(w_m L_m + w_v L_v) / (w_m + w_v)`, L_v over the image words of notes that have a picture (arXiv:2405.16789 §4.2).

        Args:
            contrastive: () L_m.
            embeddings: (b + E, D), the image words'.
            rows, extra: the notes.
            parts: L_v is written down there.
        """
        kept = self._material.pictured[rows]
        if self._plan.objective != "graph":
            kept = np.repeat(kept[::2] & kept[1::2], 2)  # pairs both of whose notes can be seen
        pictured = rows[kept]
        enough = len(pictured) >= 4
        if self._plan.objective == "graph" and enough:
            relations = self._material.relations(pictured, pictured)
            enough = bool((relations * ~self._material.same_images(pictured, pictured)).any())
        if not enough:
            return contrastive
        kept_extra = self._material.pictured[extra]
        places = np.flatnonzero(np.concatenate([kept, kept_extra]))
        chosen = embeddings[torch.from_numpy(places).to(embeddings.device)]
        visual = self._contrastive(chosen, pictured, extra[kept_extra], by_image=True)
        parts["visual"] = visual.detach()
        return weighted_loss(contrastive, visual, self._config.vision.visual_weight)

    def _contrastive(
        self, embeddings: Tensor, rows: np.ndarray, extra: np.ndarray, *, by_image: bool = False
    ) -> Tensor:
        """The loss of embeddings (b + E, D); `by_image`: notes that show the same pictures can't be told apart."""
        columns = np.concatenate([rows, extra])
        device, config, scale = embeddings.device, self._config, self.logit_scale.exp()
        relations = torch.from_numpy(self._material.relations(rows, columns)).to(device)  # (b, b + E)
        alike = self._material.same_images if by_image else self._material.same
        same = torch.from_numpy(alike(rows, columns)).to(device)  # (b, b + E)
        if self._plan.objective == "graph":
            return self._nested(embeddings, lambda part: graph_loss(part, scale, relations, same))
        partner = torch.arange(len(rows), device=device) ^ 1  # (b,)
        hidden = same | same[partner]  # a copy of the anchor's partner is no negative either
        if config.negatives.mask_related:
            hidden = hidden | (relations > 0)
        drawn = None if self._log_q is None else torch.from_numpy(self._log_q[columns]).to(device)
        count = len(rows)

        def loss(part: Tensor) -> Tensor:
            return contrastive_loss(
                part[:count], scale, hidden, log_q=drawn, extra=part[count:] if len(extra) else None
            )

        return self._nested(embeddings, loss)

    def _nested(self, embeddings: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
        if not self._config.matryoshka:
            return loss(embeddings)
        return matryoshka_loss(embeddings, sorted({*self._config.matryoshka, embeddings.shape[1]}), loss)

    def _share(self, total: int) -> slice:
        """This process's part of a global batch."""
        world = self._world
        return slice(self.global_rank * total // world, (self.global_rank + 1) * total // world)

    @property
    def _world(self) -> int:
        return int(self.trainer.world_size) if self._trainer is not None else 1

    def _diverged(self, step: int, rows: np.ndarray, parts: dict[str, Tensor]) -> str:
        names = [str(name) for name in self._material.ids[rows]]
        shown = ", ".join(repr(name) for name in names[:NAMED_NOTES])
        values = ", ".join(f"{name} {float(value)}" for name, value in parts.items())
        return (
            f"step {step}: the loss is no number ({values}); the batch's notes are {shown}"
            f"{f' and {len(names) - NAMED_NOTES} more' if len(names) > NAMED_NOTES else ''}"
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what moves: the weights of a backbone under adapters are on disk already."""
        moving = {f"trained.{key}" for key in moving_state(self.trained)} | {"logit_scale"}
        checkpoint["state_dict"] = {key: value for key, value in checkpoint["state_dict"].items() if key in moving}

    def configure_optimizers(self) -> Any:
        """AdamW with a learning rate per part, linear warm-up, then a cosine to a tenth."""
        config = self._config
        head = self.encoder.head
        words = [] if head is None or not head.lexicon else [head.words.weight]
        sight = self.encoder.sight
        pretrained: list[nn.Parameter] = []
        if config.backbone != "tiny" and self._material.states is None:
            pretrained = [*self.encoder.model.parameters()]
        tower: list[nn.Parameter] = []
        if sight is not None and config.vision.encoder != "tiny":
            tower = [*sight.tower.parameters()]
        # A map of a thousand features of a tower that stands still: at the head's rate it learns few training notes by heart.
        image = [] if head is None or self._material.visual is None else [head.image.weight]
        special = {id(parameter) for parameter in [*words, *pretrained, *tower, *image, self.logit_scale]}
        rest = [parameter for parameter in self.trained.parameters() if id(parameter) not in special]
        groups: list[dict[str, Any]] = [
            {"params": rest, "lr": self._plan.lr},
            {"params": words, "lr": self._plan.words_lr},
            {"params": image, "lr": IMAGE_LR_SHARE * self._plan.lr},
            {"params": pretrained, "lr": self._plan.backbone_lr},
            {"params": tower, "lr": self._plan.tower_lr},
            {"params": [self.logit_scale], "lr": self._plan.lr, "weight_decay": 0.0},
        ]
        for group in groups:
            group["params"] = [parameter for parameter in group["params"] if parameter.requires_grad]
        optimiser = torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=config.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _warm_then_cosine(self._plan.steps, config.warmup))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def moving_state(module: nn.Module) -> dict[str, Tensor]:
    """Copies on the CPU of the weights that training changes, buffers included, by name; what is frozen is left out."""
    still = {name for name, parameter in module.named_parameters(remove_duplicate=False) if not parameter.requires_grad}
    return {
        key: value.detach().cpu().contiguous().clone() for key, value in module.state_dict().items() if key not in still
    }


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
