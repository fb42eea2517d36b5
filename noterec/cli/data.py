"""Commands about data: demo, doctor, sample, import, validate, pairs, split."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from noterec.cli import output
from noterec.cli.app import Config, DatasetPath, Json, Out, Seed, Set, app, load


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="folder for everything the demo makes")] = Path("demo"),
    images: Annotated[
        bool, typer.Option("--images", help="the encoder sees the notes' pictures too; takes twice as long")
    ] = False,
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """The whole road on a synthetic platform, in a few minutes on a laptop.

    \b
    noterec demo
    noterec demo --images
    """
    from noterec.tour import demo as run

    run(out, images=images, seed=seed or 0, write=output.write, as_json=as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """What is installed, what was found, and what is missing for which feature.

    \b
    noterec doctor
    """
    from noterec.checkup import doctor as run

    output.summary(run(), as_json=as_json)


@app.command()
def sample(
    out: Annotated[Path, typer.Argument(help="folder of the new dataset")],
    notes: Annotated[int | None, typer.Option(help="notes")] = None,
    users: Annotated[int | None, typer.Option(help="people")] = None,
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Make a synthetic platform whose right answers are known (OUT/truth).

    \b
    noterec sample platform --notes 3000 --users 1500
    """
    from noterec.config import SampleConfig
    from noterec.notes.sample import sample as run

    settings = load(SampleConfig, config, set_, notes=notes, users=users, seed=seed)
    output.summary(run(out, settings), as_json=as_json)


@app.command("import")
def import_(
    format: Annotated[str, typer.Argument(help="csv, jsonl, parquet, movielens or notellm")],
    src: Annotated[Path, typer.Argument(help="folder with the files, or the notes' file")],
    out: Annotated[Path, typer.Argument(help="folder of the new dataset")],
    notes: Annotated[
        Path | None, typer.Option("--notes", help="the notes' file, where its name doesn't say so")
    ] = None,
    engagement: Annotated[Path | None, typer.Option("--engagement", help="the log's file, likewise")] = None,
    map_: Annotated[
        list[str] | None, typer.Option("--map", help="FIELD=COLUMN, or engagement.FIELD=COLUMN; may be repeated")
    ] = None,
    action: Annotated[str, typer.Option(help="what an event means where the log has no action")] = "click",
    hashtag_separator: Annotated[
        str | None, typer.Option(help="splits a text of hashtags; default: commas and bars")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="folder of the image files that the notes name")] = None,
    max_reject_share: Annotated[float, typer.Option(help="share of bad rows above which nothing is written")] = 0.05,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a dataset in OUT")] = False,
    as_json: Json = False,
) -> None:
    """Turn files of another maker into a dataset; bad rows go to OUT/rejects.parquet with a reason.

    \b
    noterec import csv dump/ data/mine --map note_id=item_id --map content=description --map engagement.user_id=uid
    noterec import movielens ml-posters/ data/films
    """
    from noterec.notes.importing import column_maps, import_dataset

    notes_map, engagement_map = column_maps(map_ or ())
    summary = import_dataset(
        format,
        src,
        out,
        notes_file=notes,
        engagement_file=engagement,
        notes_map=notes_map,
        engagement_map=engagement_map,
        action=action,
        hashtag_separator=hashtag_separator,
        images=images,
        max_reject_share=max_reject_share,
        overwrite=overwrite,
    )
    output.summary(summary, as_json=as_json)


@app.command()
def validate(
    dataset: DatasetPath,
    images: Annotated[bool, typer.Option("--images", help="also decode every picture of the notes")] = False,
    image_root: Annotated[
        Path | None, typer.Option(help="with --images: the only folder below which picture files are read")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="with --images: processes that decode; 0, the default = this one")
    ] = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Counts, nulls, text lengths, events per user and time span of a dataset; its pictures too if asked.

    \b
    noterec validate data/mine
    noterec validate data/mine --images --image-root photos/ --workers 4
    """
    from noterec.config import ImagesConfig
    from noterec.errors import InputError
    from noterec.notes.images.source import ImageSource
    from noterec.notes.validate import validate as run

    if not images and (image_root is not None or workers is not None or set_):
        raise InputError(
            "validate: --image-root, --workers and --set are about pictures; add --images, or leave them out"
        )
    limits = load(ImagesConfig, None, set_, workers=workers)
    source = ImageSource(image_root, limits) if images else None
    output.dataset(run(dataset, images=source, workers=limits.workers or 0), as_json=as_json)


@app.command()
def pairs(
    dataset: DatasetPath,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", metavar="<path>", help="where the pairs go; with --describe, without it they are not kept"
        ),
    ] = None,
    weighting: Annotated[str | None, typer.Option(help="notellm, count, cosine, lift, pmi, npmi or swing")] = None,
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
    memory: Annotated[str | None, typer.Option(help="bound of what counting holds, such as 1GB")] = None,
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
    from noterec.errors import InputError

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
    if out is None and not describe:
        raise InputError("pairs: --out is missing; say where the pairs go, or add --describe to look at them only")
    settings = None if existing is not None else load(PairsConfig, config, set_, **given)
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
    """
    from noterec.config import SplitConfig
    from noterec.engagement.split import split as run

    given = dict(by=by, cold=cold, valid=valid, users=users, min_support=min_support, memory=memory, seed=seed)
    settings = load(SplitConfig, config, set_, **given)
    output.summary(run(dataset, out=out, config=settings), as_json=as_json)
