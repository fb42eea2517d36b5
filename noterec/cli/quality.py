"""Commands about quality: evaluate, compare, calibrate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from noterec.cli import output
from noterec.cli.app import Config, DatasetPath, ImageRoot, Json, Out, Seed, Set, app, load


@app.command()
def evaluate(
    out: Out,
    arm: Annotated[list[str] | None, typer.Option("--arm", help="NAME=EMBEDDINGS; may be repeated")] = None,
    split: Annotated[Path | None, typer.Option(help="folder of `noterec split`: gives pairs and engagement")] = None,
    pairs: Annotated[Path | None, typer.Option("--pairs", help="relevant notes of the test queries")] = None,
    notes: Annotated[Path | None, typer.Option("--notes", help="dataset with all notes")] = None,
    engagement: Annotated[
        Path | None, typer.Option(help="training dataset, for popularity and known categories")
    ] = None,
    generated: Annotated[
        list[str] | None,
        typer.Option(
            "--generated", help="NAME=TABLE of `noterec generate`; may be repeated; without --arm, nothing is ranked"
        ),
    ] = None,
    categories: Annotated[
        Path | None,
        typer.Option(
            help="closed set: a file with one name a line, a JSON list or a dataset; default: those of the training notes"
        ),
    ] = None,
    modalities: Annotated[
        list[str] | None,
        typer.Option("--modalities", help="NAME=FOLDER of `noterec modalities`: what the images give; may be repeated"),
    ] = None,
    sums: Annotated[
        list[str] | None,
        typer.Option("--sum", help="A+B: also the sum of the cosines of arms A and B; may be repeated"),
    ] = None,
    html: Annotated[
        bool, typer.Option("--html", help="also write report.html: plots, and queries to be read, in one file")
    ] = False,
    image_root: ImageRoot = None,
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Who finds the related notes of new notes, with 95 % intervals, beside random, popularity, BM25 and fusions.

    And how good the categories or hashtags are that were generated for new notes.

    \b
    noterec evaluate --split split --notes data/mine --arm mine=embeddings --out report
    noterec evaluate --split split --notes data/mine --arm mine=embeddings --out report --html --image-root photos/
    noterec evaluate --split split --notes data/mine --generated mine=categories --out report
    noterec evaluate --split split --notes data/mine --modalities mine=modalities --out report
    """
    from noterec.config import EvaluateConfig
    from noterec.errors import InputError
    from noterec.evaluation.evaluate import evaluate as run

    arms, tables = _named("--arm", arm, "EMBEDDINGS"), _named("--generated", generated, "TABLE")
    views = _named("--modalities", modalities, "FOLDER")
    if notes is None:
        raise InputError("--notes: no dataset given; expected the dataset that holds all notes, new ones included")
    settings = load(EvaluateConfig, config, set_, seed=seed, sums=sums, html=html or None)
    report = run(
        arms,
        notes=notes,
        split=split,
        pairs=pairs,
        engagement=engagement,
        generated=tables,
        categories=categories,
        modalities=views,
        image_root=image_root,
        out=out,
        config=settings,
    )
    output.report(report, as_json=as_json)


def _named(option: str, entries: list[str] | None, what: str) -> dict[str, Path]:
    """NAME=PATH options as a mapping."""
    from noterec.errors import InputError

    found: dict[str, Path] = {}
    for entry in entries or ():
        name, sign, path = entry.partition("=")
        if not sign or not name.strip() or not path:
            raise InputError(f"{option} {entry}: expected NAME={what}")
        if name in found:
            raise InputError(f"{option} {entry}: {name} is given twice; give each a name of its own")
        found[name] = Path(path)
    return found


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


@app.command()
def calibrate(
    dataset: DatasetPath,
    model: Annotated[
        str, typer.Option("--model", help="a trained model; or minilm, a folder or hub id for its zero-shot states")
    ],
    precision: Annotated[
        str, typer.Option(help="what float32 is compared with: bf16, int8, or fp16 on a GPU")
    ] = "int8",
    pairs: Annotated[
        Path | None, typer.Option("--pairs", help="related notes, such as test-pairs.parquet: what recall is lost")
    ] = None,
    notes: Annotated[int, typer.Option(help="how many are encoded, those of pairs first")] = 2000,
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """What a precision costs before you embed in it: cosines to float32, neighbours kept, recall lost; and its speed.

    --config and --set take the settings of `noterec embed`: device, dimension, batch_tokens.

    \b
    noterec calibrate data/mine --model model --precision int8 --pairs split/test-pairs.parquet
    noterec calibrate data/mine --model minilm --precision bf16 --notes 500
    """
    from noterec.config import EmbedConfig
    from noterec.evaluation.calibration import calibrate as run

    found = run(
        dataset,
        model=model,
        precision=precision,  # type: ignore[arg-type]
        notes=notes,
        pairs=pairs,
        config=load(EmbedConfig, config, set_),
        seed=seed or 0,
    )
    output.summary(found, as_json=as_json)
