"""Commands about models: train, embed, generate, modalities."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from noterec.cli import output
from noterec.cli.app import Cache, Config, DatasetPath, ImageRoot, Json, Out, Seed, Set, app, load


@app.command()
def train(
    dataset: DatasetPath,
    pairs: Annotated[Path, typer.Option("--pairs", help="related pairs among the notes")],
    out: Out,
    valid_pairs: Annotated[Path | None, typer.Option(help="relevant notes of cold queries, for early stopping")] = None,
    valid_notes: Annotated[Path | None, typer.Option(help="dataset that holds the notes of the valid pairs")] = None,
    backbone: Annotated[str | None, typer.Option(help="tiny, minilm, a Hugging Face folder or a hub id")] = None,
    layers: Annotated[int | None, typer.Option(help="keep only the backbone's first layers")] = None,
    way: Annotated[str | None, typer.Option(help="auto, full, lora or frozen")] = None,
    vision: Annotated[
        str | None,
        typer.Option(help="vision encoder, so that images count too: tiny, a folder or a hub id; default: none"),
    ] = None,
    image_root: ImageRoot = None,
    steps: Annotated[int | None, typer.Option(help="optimiser steps at most; 0 = the start, untrained")] = None,
    dimension: Annotated[int | None, typer.Option(help="length of an embedding")] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="root of all caches: states of a frozen backbone, and image features up to images.cache_gib (0: none); default: "
            "$NOTEREC_CACHE or ~/.cache/noterec"
        ),
    ] = None,
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
    noterec train split/train --pairs pairs.parquet --backbone SmolLM2-135M --vision clip-vit-base-patch16 --out model \\
        --image-root photos/
    """
    from noterec.config import TrainConfig
    from noterec.training import processes
    from noterec.training.train import train as run

    given = dict(backbone=backbone, layers=layers, way=way, steps=steps, dimension=dimension, seed=seed)
    settings = load(TrainConfig, config, [*(set_ or []), *([f"vision.encoder={vision}"] if vision else [])], **given)
    summary = run(
        dataset,
        pairs=pairs,
        out=out,
        valid_pairs=valid_pairs,
        valid_notes=valid_notes,
        config=settings,
        cache=cache,
        image_root=image_root,
        restart=restart,
    )
    if processes.is_first():
        output.summary(summary, as_json=as_json)


@app.command()
def embed(
    dataset: DatasetPath,
    model: Annotated[
        str, typer.Option("--model", help="a trained model; or minilm, a folder or hub id for its zero-shot states")
    ],
    out: Out,
    cache: Cache = None,
    image_root: ImageRoot = None,
    full: Annotated[bool, typer.Option("--full", help="encode every note again")] = False,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16, fp16 or int8; see `noterec calibrate`")] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda:1; several, a process each: all, or cuda:0,cuda:1")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="local, or ray for several machines")] = None,
    address: Annotated[str | None, typer.Option(help="of the Ray cluster; default: one is started here")] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="say what would be encoded, how long the notes are and how long it would take"),
    ] = False,
    config: Config = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Encode the notes that are new or changed, and withdraw those that are gone.

    Stopped at any moment, it goes on where its last shard ended when the same command is given again.

    \b
    noterec embed data/mine --model model --out embeddings --dry-run
    noterec embed data/mine --model model --out embeddings
    noterec embed data/mine --model model --out embeddings --image-root photos/
    noterec embed data/today --model model --out embeddings --set source=delta
    noterec embed data/mine --model model --out embeddings-int8 --precision int8
    noterec embed data/mine --model model --out embeddings --device cuda:0,cuda:1
    noterec embed s3://notes/all --model model --out s3://vectors/v7 --engine ray --address ray://head:10001
    noterec embed data/mine --model model --out by-image --set view=image --cache cache/
    """
    from noterec.config import EmbedConfig

    given = dict(full=full or None, precision=precision, device=device, engine=engine, address=address)
    settings = load(EmbedConfig, config, set_, **given)
    if dry_run:
        from noterec.embedding.forecast import embed_forecast

        output.summary(
            embed_forecast(dataset, model=model, out=out, config=settings, image_root=image_root), as_json=as_json
        )
        return
    from noterec.embedding.engine import embed as run

    output.summary(
        run(dataset, model=model, out=out, config=settings, cache=cache, image_root=image_root), as_json=as_json
    )


@app.command()
def generate(
    dataset: DatasetPath,
    model: Annotated[
        str, typer.Option("--model", help="a trained model; or a causal language model's folder or hub id, as it is")
    ],
    task: Annotated[str, typer.Option("--task", help="category or hashtags")],
    out: Out,
    categories: Annotated[
        Path | None,
        typer.Option(
            help="closed set: a file with one name a line, a JSON list or a dataset; default: the model's own"
        ),
    ] = None,
    decoding: Annotated[
        str | None,
        typer.Option(help="of categories: constrained to the closed set, or free to measure how often it is left"),
    ] = None,
    n: Annotated[int | None, typer.Option("--n", help="hashtags per note")] = None,
    image_root: ImageRoot = None,
    samples: Annotated[
        int | None, typer.Option(help="answers sampled per note at most, for a confidence; 0 = none")
    ] = None,
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Write a category or hashtags for the notes that are new or changed.

    \b
    noterec generate data/mine --model model --task category --out categories
    noterec generate data/mine --model model --task hashtags --n 5 --samples 20 --out hashtags
    noterec generate data/mine --model SmolLM2-135M --task category --categories names.txt --decoding free --out free
    noterec generate data/mine --model model --task category --out categories --image-root photos/
    """
    from noterec.config import GenerateConfig
    from noterec.embedding.generate import generate as run

    given = dict(decoding=decoding, n=n, samples=samples, seed=seed)
    settings = load(GenerateConfig, config, set_, **given)
    summary = run(
        dataset,
        model=model,
        task=task,  # type: ignore[arg-type]
        out=out,
        categories=categories,
        config=settings,
        image_root=image_root,
    )
    output.summary(summary, as_json=as_json)


@app.command()
def modalities(
    dataset: DatasetPath,
    model: Annotated[str, typer.Option("--model", help="a model that was trained with images")],
    out: Out,
    cache: Cache = None,
    image_root: ImageRoot = None,
    config: Config = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Encode the notes by text and images, by either alone, and with the images shuffled, for `evaluate --modalities`.

    \b
    noterec modalities data/mine --model model --out modalities
    noterec modalities data/mine --model model --out modalities --image-root photos/ --cache cache/
    """
    from noterec.config import EmbedConfig
    from noterec.embedding.modalities import modalities as run

    settings = load(EmbedConfig, config, set_)
    summary = run(dataset, model=model, out=out, config=settings, cache=cache, image_root=image_root)
    output.summary(summary, as_json=as_json)
