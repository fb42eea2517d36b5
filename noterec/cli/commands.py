"""The commands, in the order of the road. Heavy libraries load inside them, so that `noterec --help` answers at once."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from noterec.cli import output

app = typer.Typer(
    name="noterec",
    help="From notes to neighbours: embeddings of notes trained on co-engagement, for items that nobody has engaged with yet.",
    epilog="Start with `noterec demo`. The road: sample or import, validate, split, pairs, train, embed, index, query, evaluate.",
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)

Config = Annotated[Path | None, typer.Option("--config", help="YAML file with settings of this command")]
Set = Annotated[list[str] | None, typer.Option("--set", help="one setting, KEY=VALUE; may be repeated")]
Seed = Annotated[int | None, typer.Option("--seed", help="seed of everything random")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Out = Annotated[Path, typer.Option("--out", help="where the result goes")]
DatasetPath = Annotated[Path, typer.Argument(help="dataset: a folder with notes/*.parquet and engagement/*.parquet")]


@app.callback()
def _root(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="log every stage's counts, seconds and memory")
    ] = False,
) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s" if verbose else "%(levelname)s: %(message)s",
    )
    if verbose:
        logging.getLogger("httpx").setLevel(logging.WARNING)


def _load(kind: Any, config: Path | None, overrides: list[str] | None, **given: Any) -> Any:
    from noterec.config import load

    return load(kind, config, tuple(overrides or ()), **given)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="folder for everything the demo makes")] = Path("demo"),
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """The whole road on a synthetic platform, in a few minutes on a laptop.

    \b
    noterec demo
    """
    from noterec.tour import demo as run

    run(out, seed=seed or 0, write=output.write, as_json=as_json)


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

    settings = _load(SampleConfig, config, set_, notes=notes, users=users, seed=seed)
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
def validate(dataset: DatasetPath, as_json: Json = False) -> None:
    """Counts, nulls, text lengths, events per user and time span of a dataset.

    \b
    noterec validate data/mine
    """
    from noterec.notes.validate import validate as run

    output.summary(run(dataset), as_json=as_json)


@app.command()
def pairs(
    dataset: DatasetPath,
    out: Out,
    weighting: Annotated[str | None, typer.Option(help="notellm, count, cosine or lift")] = None,
    min_support: Annotated[int | None, typer.Option(help="people who must share a pair")] = None,
    top: Annotated[int | None, typer.Option(help="related notes kept per anchor")] = None,
    lower: Annotated[float | None, typer.Option(help="drop scores below")] = None,
    upper: Annotated[float | None, typer.Option(help="drop scores above")] = None,
    window_days: Annotated[float | None, typer.Option(help="only the last days of the log")] = None,
    config: Config = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Related pairs from the engagement log.

    \b
    noterec pairs split/train --out pairs.parquet
    noterec pairs data/mine --out week.parquet --weighting notellm --window-days 7
    """
    from noterec.config import PairsConfig
    from noterec.engagement.pairs import pairs as run

    given = dict(
        weighting=weighting, min_support=min_support, top=top, lower=lower, upper=upper, window_days=window_days
    )
    output.summary(run(dataset, out=out, config=_load(PairsConfig, config, set_, **given)), as_json=as_json)


@app.command()
def split(
    dataset: DatasetPath,
    out: Out,
    by: Annotated[str | None, typer.Option(help="random, or time: the last created notes are new")] = None,
    cold: Annotated[float | None, typer.Option(help="share of notes held out as new for test")] = None,
    valid: Annotated[float | None, typer.Option(help="share held out as new for model choice")] = None,
    min_support: Annotated[int | None, typer.Option(help="people who must share a relevant pair")] = None,
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Hold notes out as new: OUT/train without them and their engagement, and what is relevant to them.

    \b
    noterec split data/mine --out split
    """
    from noterec.config import SplitConfig
    from noterec.engagement.split import split as run

    settings = _load(SplitConfig, config, set_, by=by, cold=cold, valid=valid, min_support=min_support, seed=seed)
    output.summary(run(dataset, out=out, config=settings), as_json=as_json)


@app.command()
def train(
    dataset: DatasetPath,
    pairs: Annotated[Path, typer.Option("--pairs", help="related pairs among the notes")],
    out: Out,
    valid_pairs: Annotated[Path | None, typer.Option(help="relevant notes of cold queries, for early stopping")] = None,
    valid_notes: Annotated[Path | None, typer.Option(help="dataset that holds the notes of the valid pairs")] = None,
    backbone: Annotated[str | None, typer.Option(help="tiny, minilm, a Hugging Face folder or a hub id")] = None,
    layers: Annotated[int | None, typer.Option(help="keep only the backbone's first layers")] = None,
    way: Annotated[str | None, typer.Option(help="auto, full or frozen")] = None,
    steps: Annotated[int | None, typer.Option(help="optimiser steps at most; 0 = the start, untrained")] = None,
    dimension: Annotated[int | None, typer.Option(help="length of an embedding")] = None,
    cache: Annotated[Path | None, typer.Option(help="folder of cached states of frozen backbones")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="throw away what is in OUT")] = False,
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Train an encoder; a run that was stopped is continued by the same command.

    \b
    noterec train split/train --pairs pairs.parquet --out model
    noterec train split/train --pairs pairs.parquet --valid-pairs split/valid-pairs.parquet --valid-notes data/mine \\
        --backbone minilm --out model
    """
    from noterec.config import TrainConfig
    from noterec.training.train import train as run

    given = dict(backbone=backbone, layers=layers, way=way, steps=steps, dimension=dimension, seed=seed)
    summary = run(
        dataset,
        pairs=pairs,
        out=out,
        valid_pairs=valid_pairs,
        valid_notes=valid_notes,
        config=_load(TrainConfig, config, set_, **given),
        cache=cache,
        restart=restart,
    )
    output.summary(summary, as_json=as_json)


@app.command()
def embed(
    dataset: DatasetPath,
    model: Annotated[
        str, typer.Option("--model", help="a trained model; or minilm, a folder or hub id for its zero-shot states")
    ],
    out: Out,
    cache: Annotated[
        Path | None, typer.Option(help="folder of cached states, for models with a frozen backbone")
    ] = None,
    config: Config = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Encode the notes that are new or changed.

    \b
    noterec embed data/mine --model model --out embeddings
    """
    from noterec.config import EmbedConfig
    from noterec.embedding.engine import embed as run

    output.summary(
        run(dataset, model=model, out=out, config=_load(EmbedConfig, config, set_), cache=cache), as_json=as_json
    )


@app.command()
def index(
    embeddings: Annotated[Path, typer.Argument(help="embeddings table")],
    out: Out,
    notes: Annotated[Path | None, typer.Option("--notes", help="dataset, for attributes to read and filter")] = None,
    new: Annotated[Path | None, typer.Option("--new", help="table of the note_ids that are new")] = None,
    config: Config = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Build a FAISS index bundle and make it the live one.

    \b
    noterec index embeddings --notes data/mine --out index
    """
    from noterec.config import IndexConfig
    from noterec.index.build import build_index

    settings = _load(IndexConfig, config, set_)
    output.summary(build_index(embeddings, notes=notes, new=new, out=out, config=settings), as_json=as_json)


@app.command()
def query(
    index: Annotated[Path, typer.Argument(help="index")],
    note_id: Annotated[str | None, typer.Option(help="a note of the index")] = None,
    title: Annotated[str | None, typer.Option(help="of a note that the index doesn't have")] = None,
    content: Annotated[str | None, typer.Option(help="its text")] = None,
    hashtag: Annotated[list[str] | None, typer.Option(help="its hashtag; may be repeated")] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="the model of the index, to encode an unseen note")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="neighbours")] = 10,
    candidates: Annotated[str, typer.Option(help="all, or new: only new notes may be found")] = "all",
    where: Annotated[
        list[str] | None, typer.Option(help="COLUMN=VALUE that a neighbour must have; may be repeated")
    ] = None,
    as_json: Json = False,
) -> None:
    """The nearest notes of a note, by its id or by its content.

    \b
    noterec query index --note-id n000042 -k 5
    noterec query index --model model --title "Cold brew at home" --content "18 hours in the fridge" --hashtag coffee
    """
    from noterec.errors import InputError
    from noterec.serving.query import query as run

    filters: dict[str, Any] = {}
    for entry in where or ():
        column, sign, value = entry.partition("=")
        if not sign:
            raise InputError(f"--where {entry}: expected COLUMN=VALUE")
        filters[column] = value
    found = run(
        index,
        note_id=note_id,
        title=title,
        content=content,
        hashtags=hashtag or (),
        model=model,
        k=k,
        candidates=candidates,
        where=filters or None,
    )
    output.table(found.columns, found.rows(), as_json=as_json)


@app.command()
def neighbours(
    index: Annotated[Path, typer.Argument(help="index")],
    out: Out,
    queries: Annotated[str, typer.Option(help="all, new, warm, or a table of ids or vectors")] = "all",
    candidates: Annotated[str, typer.Option(help="all or new")] = "all",
    k: Annotated[int, typer.Option("-k", help="neighbours per query")] = 100,
    as_json: Json = False,
) -> None:
    """A table of neighbours: new -> all describes new notes, warm -> new delivers them.

    \b
    noterec neighbours index --queries new --candidates all --out new-to-all.parquet
    noterec neighbours index --queries warm --candidates new --out warm-to-new.parquet -k 20
    """
    from noterec.index.neighbours import neighbours as run

    found = run(index, out=out, queries=queries, candidates=candidates, k=k)  # type: ignore[arg-type]
    output.summary(found, as_json=as_json)


@app.command()
def evaluate(
    out: Out,
    arm: Annotated[list[str] | None, typer.Option("--arm", help="NAME=EMBEDDINGS; may be repeated")] = None,
    split: Annotated[Path | None, typer.Option(help="folder of `noterec split`: gives pairs and engagement")] = None,
    pairs: Annotated[Path | None, typer.Option("--pairs", help="relevant notes of the test queries")] = None,
    notes: Annotated[Path | None, typer.Option("--notes", help="dataset with all notes")] = None,
    engagement: Annotated[Path | None, typer.Option(help="training dataset, for popularity")] = None,
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Who finds the related notes of new notes, with 95 % intervals, beside random, popularity, BM25 and fusions.

    \b
    noterec evaluate --split split --notes data/mine --arm mine=embeddings --out report
    """
    from noterec.config import EvaluateConfig
    from noterec.errors import InputError
    from noterec.evaluation.evaluate import evaluate as run

    arms: dict[str, Path] = {}
    for entry in arm or ():
        name, sign, path = entry.partition("=")
        if not sign or not name:
            raise InputError(f"--arm {entry}: expected NAME=EMBEDDINGS")
        arms[name] = Path(path)
    if notes is None:
        raise InputError("--notes: no dataset given; expected the dataset that holds all notes, new ones included")
    settings = _load(EvaluateConfig, config, set_, seed=seed)
    report = run(arms, notes=notes, split=split, pairs=pairs, engagement=engagement, out=out, config=settings)
    output.report(report, as_json=as_json)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="a report")],
    second: Annotated[Path, typer.Argument(help="another report on the same test queries")],
    as_json: Json = False,
) -> None:
    """Is the second report better than the first, worse, or can't one tell? (Paired bootstrap over the common queries.)

    \b
    noterec compare report-yesterday report-today
    """
    from noterec.evaluation.compare import compare as run

    output.comparison(run(first, second), as_json=as_json)
