"""What a run will cost, said before it begins: measured on a few notes, not guessed from a table of models.

Memory is what gradients, optimiser and activations will add to the process. Activations are counted exactly: one small pass is
made, and what it keeps for the way back is added up.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noterec.config import TrainConfig
from noterec.training.batches import Batches
from noterec.training.forward import Forward
from noterec.training.material import Material
from noterec.training.module import ContrastiveModule
from noterec.training.plan import Plan

PROBE_NOTES = 8
PROBE_STEPS = 3  # batches that are looked at for their length and their negatives
OPTIMISER_BYTES = 12  # per weight that moves: gradient and AdamW's two moments, float32


@dataclasses.dataclass(frozen=True)
class Forecast:
    """The cost of a run."""

    steps: int
    notes_per_step: int  # over all processes
    negatives: float  # mean per anchor, after masking
    tokens_per_step: int  # over all processes, without padding
    memory_bytes: int  # of one process, beyond what it holds already
    seconds: float  # without the looks at cold recall

    def __str__(self) -> str:
        minutes = self.seconds / 60
        lasting = f"{minutes:.1f} min" if minutes >= 1 else f"{self.seconds:.0f} s"
        tokens = f", {self.tokens_per_step:,} tokens" if self.tokens_per_step else " (cached states)"
        return (
            f"{self.steps:,} steps of {self.notes_per_step:,} notes{tokens}; {self.negatives:,.0f} effective negatives per anchor; "
            f"about {self.memory_bytes / 2**20:,.0f} MiB more memory; about {lasting} without the looks at cold recall"
        )


def forecast(
    module: ContrastiveModule, material: Material, batches: Batches, config: TrainConfig, plan: Plan, *, world: int = 1
) -> Forecast:
    """Look at the first batches and make one small pass; nothing is changed, no random number is used up.

    Args:
        module: what will be trained.
        material: the notes.
        batches: which notes a step sees.
        config: the settings.
        plan: the settings that were left open, decided.
        world: processes that share a batch.
    """
    negatives, tokens = [], []
    forward = Forward(module.encoder, material, chunk_notes=None, batch_tokens=plan.pass_tokens)
    for step in range(min(PROBE_STEPS, max(1, plan.steps))):
        rows = batches.rows(step)
        out = material.same(rows)
        if config.negatives.mask_related or plan.objective == "graph":
            out = out | (material.relations(rows, rows) > 0)
        extra = config.negatives.hard * (len(rows) // 2)
        negatives.append(len(rows) - out.sum(axis=1).mean() + extra)
        if material.states is None:
            mean = np.mean([len(material.inputs.tokens[row]) for row in rows])
            tokens.append(sum(len(e.ids) for e in forward.examples(rows, module.requests(rows, step))) + mean * extra)
    notes = len(rows) + extra
    with torch.random.fork_rng(devices=[module.encoder.device] if module.encoder.device.type == "cuda" else []):
        saved, seconds, probed = _probe(module, forward, rows, plan, frozen=material.states is not None)
    moving = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    if material.states is not None:
        return Forecast(
            plan.steps, notes, float(np.mean(negatives)), 0, moving * OPTIMISER_BYTES + saved, plan.steps * seconds
        )
    per_step = float(np.mean(tokens))
    held = per_step / world if config.chunk_notes is None else per_step * min(1.0, config.chunk_notes / notes)
    passes = 4 / 3 if config.chunk_notes is not None else 1.0  # a chunk's forward pass is made twice
    return Forecast(
        steps=plan.steps,
        notes_per_step=notes,
        negatives=float(np.mean(negatives)),
        tokens_per_step=round(per_step),
        memory_bytes=int(moving * OPTIMISER_BYTES + saved / probed * held),
        seconds=plan.steps * per_step / world / probed * seconds * passes,
    )


def _probe(
    module: ContrastiveModule, forward: Forward, rows: np.ndarray, plan: Plan, *, frozen: bool
) -> tuple[int, float, int]:
    """Bytes kept for the way back, seconds there and back, and tokens, of one small pass (the whole step for cached states)."""
    some = rows[:PROBE_NOTES]
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    was_training = module.encoder.training
    module.encoder.train()
    requests = None if frozen else module.requests(rows, 0)
    seconds, tokens = 0.0, 0
    for _ in range(2):  # the first one pays for starting up
        kept.clear()
        started = time.perf_counter()
        with (
            torch.autocast(module.encoder.device.type, torch.bfloat16, enabled=plan.bf16 and not frozen),
            torch.autograd.graph.saved_tensors_hooks(pack, _as_is),
        ):
            if frozen:
                loss, _ = module.loss(rows, np.zeros(0, dtype=np.int64), None)
            else:
                made = None if requests is None else requests[: len(some)]
                embeddings, written, _ = forward(some, made)
                loss = embeddings.sum() + written
                tokens = sum(len(example.ids) for example in forward.examples(some, made))
        torch.autograd.grad(loss, parameters, allow_unused=True)
        if module.encoder.device.type == "cuda":
            torch.cuda.synchronize(module.encoder.device)
        seconds = time.perf_counter() - started
    module.encoder.train(was_training)
    return sum(kept.values()), seconds, max(1, tokens)


def _as_is(value: Any) -> Any:
    return value
