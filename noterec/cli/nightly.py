"""Commands of the nightly job."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated

import typer

from noterec.cli import output
from noterec.cli.app import DefaultCommand, Json, Set, app, load

NIGHTLY_HELP = """Everything that is to be done with a platform's notes every night, from one settings file.

    \b
    noterec settings nightly > nightly.yaml       # all settings; dataset and home are the two to change
    noterec nightly nightly.yaml --dry-run
    noterec nightly nightly.yaml
    noterec nightly status nightly.yaml
    noterec nightly rollback nightly.yaml
    """


class RunByDefault(DefaultCommand):
    """`noterec nightly CONFIG` runs: what isn't the name of a command is an argument of `run`."""

    default = "run"
    argument = "A settings file"


nightly = typer.Typer(
    name="nightly",
    cls=RunByDefault,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help=NIGHTLY_HELP,
)
app.add_typer(nightly)

ConfigFile = Annotated[Path, typer.Argument(help="YAML file; `noterec settings nightly` shows all settings")]


@nightly.command()
def run(
    config: ConfigFile,
    night: Annotated[
        datetime.datetime | None, typer.Option(formats=["%Y-%m-%d"], help="the date; today (UTC) unless given")
    ] = None,
    accept: Annotated[
        list[str] | None, typer.Option(help="a gate that shall not stop this run, by name; may be repeated")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done, and do nothing")] = False,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Run a night: validate, pairs, train if due, embed, choose a model, index, evaluate, gate, publish, neighbours, collect.

    Exit codes: 0 published, or nothing to do; 2 the input is wrong; 3 a gate stopped it; 75 another night is running. Whatever it
    is, what was published before stays, and the same command goes on where it stopped.

    \b
    noterec nightly nightly.yaml
    noterec nightly nightly.yaml --accept "deleted notes"
    """
    from noterec.config import NightlyConfig

    settings = load(NightlyConfig, config, set_)
    date = None if night is None else night.date()
    if dry_run:
        from noterec.nightly.preview import preview

        lines = preview(settings, night=date)
        columns = ["stage", "would", "why"]
        output.table(columns, [[line.stage, line.would, line.why] for line in lines], as_json=as_json)
        return
    from noterec.nightly import run_nightly

    output.night(run_nightly(settings, night=date, accept=tuple(accept or ())), as_json=as_json)


@nightly.command()
def status(config: ConfigFile, set_: Set = None, as_json: Json = False) -> None:
    """List the nights: what came of each, and its figures.

    \b
    noterec nightly status nightly.yaml
    """
    import dataclasses

    from noterec.config import NightlyConfig
    from noterec.index.bundle import live_name
    from noterec.nightly import nightly_status
    from noterec.nightly.home import Home

    settings = load(NightlyConfig, config, set_)
    lines = [dataclasses.asdict(line) for line in nightly_status(settings)]
    columns = list(lines[0]) if lines else ["run"]
    output.table(columns, [list(line.values()) for line in lines], as_json=as_json)
    if not as_json:
        output.write()
        output.write(f"{live_name(Home.open(settings.home, create=False).index) or 'nothing'} is live")


@nightly.command()
def rollback(
    config: ConfigFile,
    to: Annotated[str | None, typer.Option("--to", help="the bundle; default: the one that was live before")] = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Make an earlier bundle and its neighbour tables live again, in one step; the later bundle stays, as a way forward.

    \b
    noterec nightly rollback nightly.yaml
    """
    from noterec.config import NightlyConfig
    from noterec.nightly import rollback_nightly

    output.summary(rollback_nightly(load(NightlyConfig, config, set_), to=to), as_json=as_json)


@app.command()
def forget(
    config: ConfigFile,
    note: Annotated[list[str] | None, typer.Option("--note", help="id of a note; may be repeated")] = None,
    user: Annotated[
        list[str] | None,
        typer.Option("--user", help="id of a person: their engagement, and their own notes; may be repeated"),
    ] = None,
    ids: Annotated[
        Path | None,
        typer.Option("--ids", help="a Parquet file with a column note_id, user_id, or both: what to forget"),
    ] = None,
    keep_dataset: Annotated[
        bool, typer.Option("--keep-dataset", help="leave the dataset's files alone; their owner deletes there")
    ] = False,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Delete notes and people from the published index and every table of the nightly job, the dataset included.

    The notes are out of the published index first, then out of the bytes; a command that was stopped goes on when it is run again.
    Pages and logs of earlier nights that name one are removed, and older bundles that hold one. Not reached: weights of trained
    models, caches, and pictures that are files of their own. With --keep-dataset, delete in the dataset too: until then every night
    encodes the notes again.

    \b
    noterec forget nightly.yaml --note n000042
    noterec forget nightly.yaml --user u000007 --keep-dataset
    """
    from noterec.config import NightlyConfig
    from noterec.nightly.forget import forget as run
    from noterec.nightly.forget import listed

    notes, users = listed(ids) if ids is not None else ([], [])
    summary = run(
        load(NightlyConfig, config, set_),
        notes=[*(note or ()), *notes],
        users=[*(user or ()), *users],
        keep_dataset=keep_dataset,
    )
    output.summary(summary, as_json=as_json)
    if not summary.rows and not summary.found:
        output.note("nothing names what was asked for: either it was forgotten before, or the id is another one")
