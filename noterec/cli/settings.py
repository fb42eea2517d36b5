"""The command that shows every setting of a stage."""

from __future__ import annotations

from typing import Annotated

import typer

from noterec.cli.app import app

STAGES = ("sample", "images", "pairs", "split", "train", "embed", "generate", "index", "serve", "evaluate", "nightly")


@app.command()
def settings(
    stage: Annotated[str, typer.Argument(help=f"one of {', '.join(STAGES)}")],
) -> None:
    """All settings of a stage with defaults and meaning, as a YAML file for its --config.

    \b
    noterec settings train > train.yaml
    """
    from noterec import config
    from noterec.errors import InputError

    if stage not in STAGES:
        raise InputError(f"settings: there is no stage {stage!r}; expected one of {', '.join(STAGES)}")
    kind: type[config.Settings] = getattr(config, f"{stage.capitalize()}Config")
    typer.echo(kind.described())
