"""Speed and memory of a training step against a plain loop with the same backbone, notes, batch and losses.

    python benchmarks/training.py DATASET PAIRS --backbone smollm2 --layers 6

The plain loop is written as the method's reference does it: notes padded to the longest in the order in which they come, the
language-model head on every position, every layer's states kept. Speed: both take the same steps in turns, in one process. Memory:
each case has a process of its own, and its peak is counted beyond what was resident before the first step (Linux).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from noterec.config import TrainConfig, load
from noterec.engagement.table import load_pairs
from noterec.model.losses import contrastive_loss
from noterec.notes.dataset import Dataset
from noterec.training import start
from noterec.training.batches import PairBatches
from noterec.training.module import ContrastiveModule
from noterec.training.notes import train_notes
from noterec.training.plan import Plan


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--batch-notes", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--large", type=int, default=2050, help="notes of the large batch: 2,048 negatives per anchor")
    parser.add_argument("--chunk", type=int, default=32, help="notes of a chunk of the gradient cache")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--speed-only", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--case", help=argparse.SUPPRESS
    )  # "plain:128" or "ours:2050:32": one memory case, in a process of its own
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.case:
        print(json.dumps(memory_case(options)))
        return
    speed(options)
    if options.speed_only:
        return
    cases = [
        f"plain:{options.batch_notes}",
        f"ours:{options.batch_notes}",
        f"ours:{options.large}:{options.chunk}",
    ]
    found = {case: in_process(case) for case in cases}
    base = found[cases[0]]
    for case, mebibytes in found.items():
        print(f"peak beyond the start, {case}: {mebibytes:,.0f} MiB, {mebibytes / base:.2f} of the plain loop's")


def speed(options: argparse.Namespace) -> None:
    """Pairs per second of both, in turns."""
    ours, plain = Ours(options, options.batch_notes, None), Plain(options, options.batch_notes)
    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    for turn in range(options.rounds + 1):
        for name, loop in (("ours", ours), ("plain", plain)) if turn % 2 else (("plain", plain), ("ours", ours)):
            began = time.perf_counter()
            loss = loop.step(turn)
            if turn:  # the first one pays for starting up
                seconds[name].append(time.perf_counter() - began)
            print(f"step {turn} {name}: loss {loss:.4f}", flush=True)
    pairs = options.batch_notes // 2
    for name, values in seconds.items():
        print(f"{name}: {pairs / statistics.median(values):.2f} pairs/s (median of {len(values)})")
    ratios = [b / a for a, b in zip(seconds["ours"], seconds["plain"], strict=True)]
    print(f"ours / plain: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f} over the rounds)")


def memory_case(options: argparse.Namespace) -> float:
    """Peak resident memory of two steps, in MiB beyond what was resident before them."""
    kind, notes, *chunk = options.case.split(":")
    loop = (
        Plain(options, int(notes)) if kind == "plain" else Ours(options, int(notes), int(chunk[0]) if chunk else None)
    )
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = resident("VmRSS")
    for step in range(2):
        loop.step(step)
    return resident("VmHWM") - before


def resident(key: str) -> float:
    """A line of this process's status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024


def in_process(case: str) -> float:
    """A memory case in a process of its own."""
    done = subprocess.run([sys.executable, *sys.argv, "--case", case], capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.strip().splitlines()[-1]))


class Ours:
    """noterec's own step."""

    def __init__(self, options: argparse.Namespace, batch_notes: int, chunk: int | None) -> None:
        self.config = load(
            TrainConfig,
            None,
            [],
            backbone=str(options.backbone),
            layers=options.layers,
            way="full",
            objective="pairs",
            batch_notes=batch_notes,
            chunk_notes=chunk,
            lexicon=0,
            precision=options.precision,
            device="cpu" if not torch.cuda.is_available() else "auto",
        )
        notes = train_notes(Dataset(options.dataset))
        backbone = start.new_backbone(self.config, notes)
        self.plan = Plan.of(self.config, notes.num_rows, backbone.kind, next(backbone.model.parameters()).device)
        encoder = start.new_encoder(self.config, self.plan, backbone, notes)
        known, _ = load_pairs(options.pairs, pl.Series(notes["note_id"].to_pylist()))
        self.data = start.material(
            encoder, notes, notes.slice(0, 0), known, frozen=False, cache=None, batch_tokens=self.config.batch_tokens
        )
        self.batches = PairBatches(self.data, batch_notes, 0)
        tasks = start.new_tasks(encoder, self.plan, self.config, notes)
        self.module = ContrastiveModule(encoder, self.data, self.batches, self.config, self.plan, tasks=tasks)
        self.optimiser = torch.optim.AdamW(self.module.parameters(), lr=1e-5)
        self.module.train()

    def step(self, number: int) -> float:
        rows = self.batches.rows(number)
        requests = self.module.requests(rows, number)
        self.optimiser.zero_grad(set_to_none=True)
        with torch.autocast(self.module.encoder.device.type, torch.bfloat16, enabled=self.plan.bf16):
            loss = self.loss(rows, requests)
        loss.backward()
        self.optimiser.step()
        return float(loss.detach())

    def loss(self, rows: np.ndarray, requests: Any) -> Tensor:
        return self.module.loss(rows, np.zeros(0, dtype=np.int64), requests)[0]


class Plain(Ours):
    """The same losses, computed in the reference's style."""

    def __init__(self, options: argparse.Namespace, batch_notes: int) -> None:
        super().__init__(options, batch_notes, None)

    def loss(self, rows: np.ndarray, requests: Any) -> Tensor:
        encoder = self.module.encoder
        model: Any = encoder.model
        examples = encoder.prompt.examples(requests)
        longest = max(len(example.ids) for example in examples)
        ids = torch.full((len(examples), longest), encoder.backbone.tokenizer.pad_token_id)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for row, example in enumerate(examples):
            length = len(example.ids)
            ids[row, :length] = torch.from_numpy(example.ids)
            mask[row, :length] = 1
            labels[row, example.output : length] = ids[row, example.output : length]
        out = model(
            input_ids=ids.to(encoder.device),
            attention_mask=mask.to(encoder.device),
            output_hidden_states=True,
            use_cache=False,
        )
        readouts = torch.tensor([example.readout for example in examples])
        states = out.hidden_states[-1][torch.arange(len(examples)), readouts]  # (B, H)
        assert encoder.head is not None
        embeddings = encoder.head(states)
        hidden = (self.data.relations(rows, rows) > 0) | self.data.same(rows)
        contrastive = contrastive_loss(
            embeddings, encoder.logit_scale.exp(), torch.from_numpy(hidden).to(embeddings.device)
        )
        written = F.cross_entropy(
            out.logits[:, :-1].reshape(-1, out.logits.shape[-1]).float(),
            labels[:, 1:].reshape(-1).to(embeddings.device),
        )
        return (contrastive + self.plan.alpha * written) / (1 + self.plan.alpha)


if __name__ == "__main__":
    main()
