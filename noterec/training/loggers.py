"""Where the curves of a run go: CSV, TensorBoard, or any other logger that Lightning has, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from noterec.errors import ConfigError, DependencyError

SHORT = {"csv": "CSVLogger", "tensorboard": "TensorBoardLogger"}


def make_loggers(wanted: dict[str, dict[str, Any]], folder: Path, version: str) -> list[Any]:
    """The loggers of a run.

    Args:
        wanted: name -> arguments, as in `TrainConfig.loggers`.
        folder: where loggers that write files do so, below `logs`.
        version: of this part of the run; a resumed run begins another.

    Raises:
        ConfigError: a name that Lightning doesn't have, or arguments that the logger doesn't take.
        DependencyError: a logger whose package isn't installed.
    """
    from lightning.pytorch import loggers
    from lightning.pytorch.loggers import Logger

    made = []
    for name, arguments in wanted.items():
        kind = getattr(loggers, SHORT.get(name, name), None)
        if not (isinstance(kind, type) and issubclass(kind, Logger) and kind is not Logger):
            known = sorted(
                set(SHORT) | {entry for entry in loggers.__all__ if entry not in (*SHORT.values(), "Logger")}
            )
            raise ConfigError(f"loggers: there is no {name!r}; known are {', '.join(known)}")
        given = dict(arguments)
        if name in SHORT:
            given = {"save_dir": folder, "name": "logs", "version": version, **given}
        if name == "csv":
            given = {"flush_logs_every_n_steps": 20, **given}
        try:
            made.append(kind(**given))
        except ModuleNotFoundError as error:
            raise DependencyError(f"loggers: {name} needs a package that is not here: {error}") from error
        except TypeError as error:
            raise ConfigError(f"loggers: {name} does not take {arguments}: {error}") from error
    return made
