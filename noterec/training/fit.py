"""Lightning's trainer around the steps: precision, processes, loggers, checkpoints, and the weights that are kept."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

from noterec import progress, storage
from noterec.config import TrainConfig
from noterec.errors import ArtefactError, DivergenceError
from noterec.model.encoder import NoteEncoder
from noterec.model.lora import merge_adapters
from noterec.model.tasks import Tasks
from noterec.training.batches import Batches, GraphBlocks, PairBatches, Steps
from noterec.training.callbacks import Checkpoint, KeepBest, load_best
from noterec.training.cold_recall import ColdRecall, Look
from noterec.training.forecast import forecast
from noterec.training.loggers import make_loggers
from noterec.training.material import Material
from noterec.training.mining import HardNegatives
from noterec.training.module import ContrastiveModule
from noterec.training.plan import Plan

logger = logging.getLogger(__name__)


def fit(
    encoder: NoteEncoder,
    data: Material,
    recall: ColdRecall | None,
    tasks: Tasks | None,
    config: TrainConfig,
    plan: Plan,
    folder: Path,
) -> tuple[int, list[Look]]:
    """Run the steps that are left; the encoder then has the weights that are kept.

    Args:
        encoder: trained in place.
        data: the notes and their relations.
        recall: chooses the weights; None = the last ones are kept.
        tasks: what the notes write, or None.
        config: the settings.
        plan: the settings that were left open, decided.
        folder: for checkpoints and curves.

    Returns:
        How many steps were run in all, those before a resumption included, and the looks.

    Raises:
        DivergenceError: the loss is no number; the last checkpoint and the best weights stay in `folder`.
        ArtefactError: a checkpoint doesn't load.
    """
    world, seed = config.devices, config.seed
    batches: Batches = (GraphBlocks if plan.objective == "graph" else PairBatches)(
        data, plan.batch_notes, seed, world=world
    )
    if batches.notes < plan.batch_notes:
        logger.info("train: a batch holds %d notes, not %d: there are no more", batches.notes, plan.batch_notes)
    if plan.steps == 0:
        _merge(encoder, config, plan)
        return 0, [] if recall is None else [recall.look(encoder, 0)]
    negatives = config.negatives
    mined = None
    if negatives.hard:
        every = negatives.hard_every or batches.per_epoch
        mined = HardNegatives(data, negatives, every=every, batch_tokens=config.batch_tokens, bf16=plan.bf16, seed=seed)
    module = ContrastiveModule(encoder, data, batches, config, plan, tasks=tasks, mined=mined)
    progress.say(str(forecast(module, data, batches, config, plan, world=world)))
    checkpoint = folder / "last.ckpt"
    first = _first_step(checkpoint)
    best_file = folder / "best.safetensors"
    with progress.track("train", plan.steps, "steps") as bar, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")  # about workers and log intervals, which are as meant
        bar.advance(first)
        keep = None if recall is None else KeepBest(recall, config, plan.steps, best_file, bar)
        callbacks = [mined, keep, Checkpoint(checkpoint, config.checkpoint_every, bar)]
        trainer = _trainer(encoder, data, config, plan, folder, f"from-step-{first}", callbacks)
        loader = DataLoader(Steps(plan.steps, first), batch_size=None, collate_fn=_as_is)
        try:
            trainer.fit(module, loader, ckpt_path=checkpoint if first else None, weights_only=True)
        except SystemExit as stopped:  # how Lightning ends on Ctrl-C
            raise KeyboardInterrupt from stopped
        except DivergenceError as error:
            raise DivergenceError(f"{error}. {_what_is_left(checkpoint, keep)}") from error
    if keep is not None and trainer.is_global_zero:
        load_best(module, best_file)
    _merge(encoder, config, plan)
    encoder.eval()
    return trainer.global_step, [] if keep is None else keep.looks


def _merge(encoder: NoteEncoder, config: TrainConfig, plan: Plan) -> None:
    if plan.way == "lora" and not config.lora.keep:
        merge_adapters(encoder.backbone)
    encoder.weights_changed()


def _trainer(
    encoder: NoteEncoder,
    data: Material,
    config: TrainConfig,
    plan: Plan,
    folder: Path,
    version: str,
    callbacks: list[Any],
) -> lightning.Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    device = encoder.device
    several = config.devices > 1
    one: Any = [device.index or 0] if device.type == "cuda" else 1
    precision: Any = "bf16-mixed" if plan.bf16 and data.states is None else "32-true"
    return lightning.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=config.devices if several else one,
        # A language-model head and a pooler may have no part in the loss.
        strategy=DDPStrategy(find_unused_parameters=True) if several else "auto",
        precision=precision,
        max_steps=plan.steps,
        max_epochs=-1,
        logger=make_loggers(config.loggers, folder, version),
        log_every_n_steps=5,
        callbacks=[callback for callback in callbacks if callback is not None],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
    )


def _first_step(checkpoint: Path) -> int:
    """Where an unfinished run goes on."""
    if not checkpoint.is_file():
        return 0
    try:
        first = int(torch.load(checkpoint, weights_only=True, map_location="cpu", mmap=True)["global_step"])
    except Exception as error:  # whatever a damaged file makes torch raise
        raise ArtefactError(
            f"{checkpoint}: the checkpoint does not load ({error}); train again with --restart"
        ) from error
    logger.info("train: continuing at step %d", first)
    return first


def _what_is_left(checkpoint: Path, keep: KeepBest | None) -> str:
    best = "" if keep is None or not keep.looks else f"the weights of step {keep.best.step} are in best.safetensors, "
    last = f"last.ckpt is of step {_first_step(checkpoint)}" if checkpoint.is_file() else "there is no checkpoint yet"
    return (
        f"In {storage.local(checkpoint).parent}: {best}{last}. Look at those notes, lower lr and backbone_lr, or use "
        "precision=fp32, and train with --restart"
    )


def _as_is(batch: Any) -> Any:
    return batch
