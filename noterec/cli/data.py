"""Commands about data: demo, doctor, sample, import, validate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from noterec.cli import output
from noterec.cli.app import Config, DatasetPath, Json, Seed, Set, app, load


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
