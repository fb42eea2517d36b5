"""Which of the processes of a run this one is, as `torchrun` and Lightning's launcher say it in the environment."""

from __future__ import annotations

import os


def rank() -> int:
    """This process's number in the run; 0 where there is only one."""
    return int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0)


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return rank() == 0
