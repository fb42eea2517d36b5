"""Commands about engagement: pairs, split."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from noterec.cli import output
from noterec.cli.app import Config, DatasetPath, Json, Out, Seed, Set, app, load
from noterec.errors import InputError

LEAST_MEMORY = 1_000_000  # below it a unit was forgotten: counting would take thousands of tiny steps


@app.command()
def pairs(
    dataset: DatasetPath,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", metavar="<path>", help="where the pairs go; with --describe, without it they are not kept"
        ),
    ] = None,
    weighting: Annotated[
        str | None, typer.Option(help="cosine (the default), notellm, count, lift, pmi, npmi or swing")
    ] = None,
    min_support: Annotated[int | None, typer.Option(help="people who must share a pair")] = None,
    top: Annotated[int | None, typer.Option(help="related notes kept per anchor")] = None,
    lower: Annotated[float | None, typer.Option(help="drop scores below")] = None,
    upper: Annotated[float | None, typer.Option(help="drop scores above")] = None,
    window_days: Annotated[int | None, typer.Option(help="only the last days of the log")] = None,
    half_life_days: Annotated[
        float | None, typer.Option(help="engagement so much older than the last counts half")
    ] = None,
    per_category_pair: Annotated[
        int | None, typer.Option(help="pairs kept of each combination of two categories")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="bound of what counting holds, such as 500MB; default: 1GB")
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option("--state", help="folder that keeps the sums, so that only people of new and old days are counted"),
    ] = None,
    describe: Annotated[
        bool, typer.Option("--describe", help="also print what the pairs look like, and some of them to be read")
    ] = False,
    existing: Annotated[
        str | None,
        typer.Option("--pairs", metavar="<path>", help="with --describe: describe these pairs instead of mining"),
    ] = None,
    sample: Annotated[int | None, typer.Option(help="with --describe: notes to be read; default 10")] = None,
    config: Config = None,
    set_: Set = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="with --describe: seed of the choice of those notes")
    ] = None,
    as_json: Json = False,
) -> None:
    """Related pairs from the engagement log.

    \b
    noterec pairs split/train --out pairs.parquet
    noterec pairs data/mine --out week.parquet --weighting notellm --window-days 7
    noterec pairs data/mine --out pairs.parquet --set actions.save=2 --set actions.view=-0.1
    noterec pairs data/mine --out month.parquet --window-days 28 --state month-state
    noterec pairs data/mine --weighting lift --describe
    noterec pairs data/mine --pairs week.parquet --describe
    """
    from noterec.cli import description
    from noterec.config import PairsConfig
    from noterec.engagement.apart.window import WindowSummary, windowed_pairs
    from noterec.engagement.describing.describe import describe_pairs
    from noterec.engagement.pairs import PairsSummary
    from noterec.engagement.pairs import pairs as run

    given = dict(
        weighting=weighting,
        min_support=min_support,
        top=top,
        lower=lower,
        upper=upper,
        window_days=window_days,
        half_life_days=half_life_days,
        per_category_pair=per_category_pair,
        memory=memory,
    )
    if existing is not None:
        others = dict(out=out, **given, config=config, set=set_, state=state)
        mining = ", ".join(f"--{name.replace('_', '-')}" for name, value in others.items() if value is not None)
        if mining or not describe:
            raise InputError(
                f"pairs: --pairs was given {'with ' + mining if mining else 'without --describe'}; it describes pairs that are "
                "there: give it with --describe and no setting of mining"
            )
    if not describe and (sample is not None or seed is not None):
        raise InputError("pairs: --sample and --seed choose the notes that --describe shows; add it, or leave them out")
    for name, value in (("sample", sample), ("seed", seed)):
        if value is not None and value < 0:
            raise InputError(f"pairs: --{name} {value}; expected 0 or more")
    if out is None and not describe:
        raise InputError("pairs: --out is missing; say where the pairs go, or add --describe to look at them only")
    settings = None if existing is not None else load(PairsConfig, config, set_, **given)
    if settings is not None:
        _check_memory("pairs", settings.memory)
    if out is not None:
        _check_target(out, dataset)
    with tempfile.TemporaryDirectory(prefix="noterec-pairs-") as folder:
        table = existing or out or str(Path(folder) / "pairs.parquet")
        summary: PairsSummary | WindowSummary | None = None
        if settings is not None and state is not None:
            summary = windowed_pairs(dataset, state=state, out=table, config=settings)
        elif settings is not None:
            summary = run(dataset, out=table, config=settings)
        if describe:
            found = describe_pairs(dataset, table, sample=10 if sample is None else sample, seed=seed or 0)
            description.show(found, summary, as_json=as_json)
        else:
            output.summary(summary, as_json=as_json)


@app.command()
def split(
    dataset: DatasetPath,
    out: Out,
    by: Annotated[
        str | None,
        typer.Option(
            help="random, time: the last created notes are new, or user: judged by people whom training never saw"
        ),
    ] = None,
    cold: Annotated[float | None, typer.Option(help="share of notes held out as new for test")] = None,
    valid: Annotated[float | None, typer.Option(help="share held out as new for model choice")] = None,
    users: Annotated[float | None, typer.Option(help="by user: share of the people held out")] = None,
    min_support: Annotated[int | None, typer.Option(help="people who must share a relevant pair")] = None,
    memory: Annotated[
        str | None, typer.Option(help="bound of what counting holds, such as 500MB; default: 1GB")
    ] = None,
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Hold notes out as new: OUT/train without them and their engagement, and what is relevant to them.

    \b
    noterec split data/mine --out split
    noterec split data/mine --by time --out split
    noterec split data/mine --by user --users 0.3 --out split
    """
    from noterec.config import SplitConfig
    from noterec.engagement.split import split as run

    given = dict(by=by, cold=cold, valid=valid, users=users, min_support=min_support, memory=memory, seed=seed)
    settings = load(SplitConfig, config, set_, **given)
    if users is not None and settings.by != "user":  # the setting itself may stand in a file beside another `by`
        raise InputError(
            f"split: --users {users} is for --by user, and by is {settings.by}; give it too, or leave --users out"
        )
    _check_memory("split", settings.memory)
    output.summary(run(dataset, out=out, config=settings), as_json=as_json)


def _check_memory(command: str, memory: int) -> None:
    if memory < LEAST_MEMORY:
        raise InputError(
            f"{command}: memory is {memory:,} bytes; expected 1MB or more, with its unit, such as 500MB or 2GB"
        )


def _check_target(out: str, dataset: str) -> None:
    """Before anything is counted: `out` is no folder, and none of the dataset's own files.

    Raises:
        InputError: it is.
    """
    from noterec.storage import place

    target, data = place(out), place(dataset)
    if not isinstance(target, Path):
        return
    if target.is_dir():
        raise InputError(
            f"pairs: --out {out} is a folder; expected the file to write, such as {target / 'pairs.parquet'}"
        )
    tables = [data.resolve() / name for name in ("notes", "engagement")] if isinstance(data, Path) else []
    if set(tables) & set(target.resolve().parents):
        raise InputError(
            f"pairs: --out {out} is among the tables of the dataset; give another place, such as pairs.parquet"
        )
