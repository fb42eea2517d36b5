"""Two processes that share a batch have the loss and the gradients of one process with the whole of it."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from noterec.model.losses import contrastive_loss, generation_loss, joint_loss, matryoshka_loss
from noterec.training.chunks import in_chunks
from noterec.training.gather import gather_rows, global_mean, rank, world

WORLD = 2
ROWS, EXTRA, WIDTH, TOKENS = 12, 5, 6, 9
CPU = torch.device("cpu")
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "mask, log q, mined": {"mask": True, "log_q": True, "extra": True},
    "matryoshka": {"extra": True, "lengths": [2, 4, 8]},
    "writing": {"alpha": 0.5},
    "one process writes nothing": {"alpha": 0.5, "silent": True},
    "nobody writes": {"alpha": 0.5, "mute": True},
    "all, in chunks": {
        "mask": True,
        "log_q": True,
        "extra": True,
        "lengths": [2, 8],
        "alpha": 0.5,
        "chunk": 2,
    },
}


class Learner(nn.Module):
    """An encoder, a writing head and a logit scale, and the loss of a global batch of which a process holds a part."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.settings = settings
        self.encoder = nn.Sequential(nn.Linear(WIDTH, 16), nn.GELU(), nn.Linear(16, 8))
        self.writer = nn.Linear(8, TOKENS)
        self.logit_scale = nn.Parameter(torch.tensor(1.2))

    def forward(self, notes: Tensor, mined: Tensor, targets: list[Tensor]) -> Tensor:
        """The loss of what all processes hold."""
        settings = self.settings
        inputs = torch.cat([notes, mined])

        def some(part: slice) -> tuple[Tensor, ...]:
            states = self.encoder(inputs[part])
            if "alpha" not in settings:
                return (states,)
            written = [(place, t) for place, ts in enumerate(targets[part]) for t in ts]
            where = torch.tensor([place for place, _ in written], dtype=torch.int64)
            total, count = generation_loss(
                self.writer(states[where]), torch.tensor([t for _, t in written], dtype=torch.int64)
            )
            return states, total, count

        states, *generation = in_chunks(some, len(inputs), settings.get("chunk"), device=CPU)
        rows = F.normalize(states, dim=1)
        everything = torch.cat([gather_rows(rows[: len(notes)]), gather_rows(rows[len(notes) :])])
        random = np.random.default_rng(2)
        related = torch.zeros(ROWS, len(everything), dtype=torch.bool)
        if settings.get("mask"):
            related = torch.from_numpy(random.random(related.shape) < 0.3)
        log_q = torch.from_numpy(-6 * random.random(len(everything))).float() if settings.get("log_q") else None

        def loss(part: Tensor) -> Tensor:
            return contrastive_loss(part[:ROWS], self.logit_scale.exp(), related, log_q=log_q, extra=part[ROWS:])

        contrastive = (
            matryoshka_loss(everything, settings["lengths"], loss) if "lengths" in settings else loss(everything)
        )
        if not generation:
            return contrastive + 0.0 * self.writer.weight.sum() + 0.0 * self.writer.bias.sum()
        return joint_loss(contrastive, global_mean(*generation), settings["alpha"])


def part_of(settings: dict[str, Any], process: int, processes: int) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The notes, mined notes and targets of a process."""
    random = torch.Generator().manual_seed(1)
    notes = torch.randn(ROWS, WIDTH, generator=random)
    mined = torch.randn(EXTRA if settings.get("extra") else 0, WIDTH, generator=random)
    targets = [torch.randint(0, TOKENS, (row % 4,), generator=random) for row in range(ROWS)]
    if settings.get("silent"):
        targets = targets[: ROWS // 2] + [t[:0] for t in targets[ROWS // 2 :]]
    if settings.get("mute"):
        targets = [t[:0] for t in targets]

    def mine(total: int) -> slice:  # five mined notes are two and three
        return slice(process * total // processes, (process + 1) * total // processes)

    own = mine(len(mined))
    return notes[mine(ROWS)], mined[own], targets[mine(ROWS)] + [targets[0][:0]] * (own.stop - own.start)


def step(settings: dict[str, Any], process: int, processes: int) -> dict[str, Tensor]:
    """The loss and every gradient."""
    learner = Learner(settings)
    whole = DistributedDataParallel(learner) if processes > 1 else learner
    loss = whole(*part_of(settings, process, processes))
    loss.backward()
    gradients = {name: weight.grad for name, weight in learner.named_parameters()}
    return {"loss": loss.detach(), **gradients}


def work(process: int, folder: str) -> None:
    """What each of the two processes does."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", f"file://{folder}/meet", timedelta(minutes=1), rank=process, world_size=WORLD)
    found: dict[str, Any] = {name: step(settings, process, WORLD) for name, settings in SETTINGS.items()}
    found["place"] = (rank(), world())
    numbers = torch.arange(4.0).view(2, 2) + 10 * process
    found["rows"] = gather_rows(numbers)
    found["uneven"] = gather_rows(torch.full((process, 3), 7.0))
    dist.destroy_process_group()
    torch.save(found, Path(folder) / f"{process}.pt")


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process found."""
    folder = tmp_path_factory.mktemp("gather")
    torch.multiprocessing.spawn(work, (str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{process}.pt", weights_only=False) for process in range(WORLD)]


@pytest.mark.parametrize("name", SETTINGS)
def test_two_processes_are_one(together: list[dict[str, Any]], name: str) -> None:
    alone = step(SETTINGS[name], 0, 1)
    # Where something is written a process's loss is W times its share of it: the mean over processes is the loss.
    torch.testing.assert_close(
        sum(found[name]["loss"] for found in together) / WORLD, alone.pop("loss"), atol=1e-6, rtol=0
    )
    for key, gradient in alone.items():
        for found in together:
            torch.testing.assert_close(found[name][key], gradient, atol=1e-6, rtol=1e-6)
    assert float(alone["logit_scale"].abs()) > 1e-3
    assert float(alone["encoder.0.weight"].abs().max()) > 1e-3


def test_without_writing_every_process_has_the_whole_loss(together: list[dict[str, Any]]) -> None:
    for name in ("plain", "mask, log q, mined", "matryoshka"):
        assert float(together[0][name]["loss"]) == float(together[1][name]["loss"])


def test_rows_come_in_rank_order(together: list[dict[str, Any]]) -> None:
    for process, found in enumerate(together):
        assert found["place"] == (process, WORLD)
        assert found["rows"].tolist() == [[0, 1], [2, 3], [10, 11], [12, 13]]
        assert found["uneven"].tolist() == [[7.0, 7.0, 7.0]]  # none of the first process, one of the second


def test_a_single_process_gathers_nothing() -> None:
    rows = torch.ones(3, 2)
    assert (rank(), world()) == (0, 1)
    assert gather_rows(rows) is rows


def test_global_mean_of_one_process_by_hand() -> None:
    assert float(global_mean(torch.tensor(6.0), torch.tensor(4))) == 1.5
    assert float(global_mean(torch.tensor(0.0), torch.tensor(0))) == 0.0
