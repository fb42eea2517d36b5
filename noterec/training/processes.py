"""Which of the processes of a run this one is, as `torchrun` and Lightning's launcher say it in the environment."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

from noterec.errors import ConfigError, DependencyError

if TYPE_CHECKING:
    import torch


@cache
def rank() -> int:
    """This process's number in the run; 0 where there is only one.

    Asked for before training and remembered: Lightning clears a part of the environment when it is done.
    """
    return int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0) if _launched() > 1 else 0


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return rank() == 0


def own_device(name: str, devices: int) -> torch.device:
    """The device of this process, where `devices` of them share a run.

    Raises:
        ConfigError: a launcher has started another number of processes.
        DependencyError: there are fewer GPUs than processes, or the device isn't here.
    """
    import torch

    from noterec.model.backbone import choose_device

    if _launched() not in (1, devices):
        raise ConfigError(
            f"a launcher has started {_launched()} processes (WORLD_SIZE), devices={devices}; give --set devices={_launched()}, or "
            "start one process and let it start the others"
        )
    device = choose_device(name)
    if device.type != "cuda" or devices == 1:
        return device
    if devices > torch.cuda.device_count():
        raise DependencyError(f"devices={devices}: torch finds {torch.cuda.device_count()} GPUs; lower it")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK") or 0))


@cache
def _launched() -> int:
    return int(os.environ.get("WORLD_SIZE") or 1)
