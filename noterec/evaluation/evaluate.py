"""`noterec evaluate`: every arm on the same queries and candidates, each figure with its interval.

evaluate({"mine": "embeddings"}, split="split", notes="dataset", out="report", generated={"mine": "categories"})
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from noterec import progress, storage
from noterec.config import EvaluateConfig
from noterec.embedding.modalities import Views, load_views
from noterec.engagement.counting.keys import DatasetNotes
from noterec.engagement.reach import people_per_note
from noterec.errors import ConfigError, InputError
from noterec.evaluation.arms import EmbeddingArm, FusionArm, check_names
from noterec.evaluation.compact import compacted
from noterec.evaluation.examples import Examples, examples
from noterec.evaluation.generation import measure_generated
from noterec.evaluation.html import write_html
from noterec.evaluation.lineup import lineup
from noterec.evaluation.markdown import markdown
from noterec.evaluation.measure import Measured, measure, metric_names, per_query
from noterec.evaluation.modalities import check_one_model, with_views
from noterec.evaluation.protocol import (
    MAIN,
    Catalogue,
    Direction,
    Inputs,
    PathLike,
    Rows,
    completed,
    directions,
    not_measured,
)
from noterec.evaluation.report import FORMAT, FORMAT_VERSION, GENERATED_FILE, PAGE_FILE, QUERIES_FILE, Report
from noterec.evaluation.slices import Slice, slices
from noterec.evaluation.summarise import add_popularity, summarise
from noterec.notes.dataset import Dataset
from noterec.notes.images.source import ImageSource

logger = logging.getLogger(__name__)


def evaluate(
    arms: Mapping[str, PathLike],
    *,
    notes: PathLike,
    out: PathLike,
    split: PathLike | None = None,
    pairs: PathLike | None = None,
    engagement: PathLike | None = None,
    warm_pairs: PathLike | None = None,
    paper_pairs: PathLike | None = None,
    new_notes: PathLike | None = None,
    generated: Mapping[str, PathLike] | None = None,
    categories: PathLike | None = None,
    modalities: Mapping[str, PathLike] | None = None,
    image_root: PathLike | None = None,
    config: EvaluateConfig = EvaluateConfig(),
) -> Report:
    """Compare arms by the protocol of `evaluation.protocol`, beside the built-in ones and fusions with BM25.

    Args:
        arms: name -> embeddings table; may be empty, to measure the built-in arms alone, or generated tables alone.
        notes: the full dataset: its live notes are the candidates, its text is what BM25 reads.
        out: folder for metrics.json, report.md, queries.parquet, of generated tables generated.parquet, and with config.html
            report.html.
        split: a folder that `noterec split` wrote; fills what isn't given below.
        pairs: test pairs, new -> all. Required with arms, by itself or through `split`.
        engagement: the training dataset, for popularity and for slices by clicks.
        warm_pairs: test pairs, warm -> new.
        paper_pairs: directional test pairs with both notes unseen.
        new_notes: which notes are new (note_id, part); needed with warm and paper pairs. Of generated tables, only what they say
            about new test notes is measured.
        generated: name -> table of categories or hashtags that `noterec generate` wrote. Without any arm, nothing is ranked.
        categories: the closed set, as `noterec generate` takes it: a text file with one name a line, a JSON list, or a dataset;
            those of the training dataset unless given.
        modalities: name -> folder that `noterec modalities` wrote. Its views are arms, NAME (both), NAME:text, NAME:image and
            NAME:shuffled, and the report tells what the images give.
        image_root: the folder below which pictures that are given by path are read, for the examples of report.html.
        config: the settings.

    Returns:
        The report that was written.

    Raises:
        InputError: a table is missing, empty, or names notes that the dataset doesn't have; an arm's name is taken; vectors or
            answers belong to other notes.
        ArtefactError: an arm's vectors, a generated table, or the views of a model mix model versions.
        ConfigError: an unknown built-in arm, popularity without engagement, fusion without bm25, or an image root without
            config.html.
    """
    target = storage.local(out)
    if image_root is not None and not config.html:
        raise ConfigError("image_root is given and no page shows a picture; set html=true (--html), or leave it out")
    source = ImageSource.below(image_root, config.images)
    given = {"pairs": pairs, "engagement": engagement, "warm_pairs": warm_pairs}
    given = completed(split, {**given, "paper_pairs": paper_pairs, "new_notes": new_notes})
    if categories is not None and not generated:
        raise InputError(
            "categories are given and no generated table to hold against them; give --generated NAME=TABLE"
        )
    compared = {name: load_views(folder) for name, folder in (modalities or {}).items()}
    arms = with_views(arms, compared)
    if config.sums and generated and not arms:
        raise ConfigError("sums are of arms, and none is given; give --arm NAME=EMBEDDINGS, or leave sums out")
    inputs = None
    if arms or not generated:
        check_names(arms, config)
        inputs = Inputs.collect(None, **given)
        if "popularity" in config.builtin and inputs.engagement is None:
            raise ConfigError(
                "the popularity arm needs engagement=TRAIN_DATASET; give it, or leave popularity out of builtin"
            )
    with progress.stage("evaluate") as stage:
        catalogue = Catalogue.read(notes)
        generation: dict[str, Any] = {}
        tables: dict[str, pl.DataFrame | None] = {QUERIES_FILE: None, GENERATED_FILE: None}
        if generated:
            generation, tables[GENERATED_FILE] = measure_generated(
                generated,
                notes=notes,
                new_notes=given["new_notes"],
                training=given["engagement"],
                categories=categories,
                config=config,
            )
        base = _base(catalogue, config)
        shown: Examples | None = None
        if inputs is None:
            report = Report(target, base, {}, [], generation)
        else:
            report, tables[QUERIES_FILE], shown = _rank(arms, compared, inputs, catalogue, base, target, source, config)
            report = dataclasses.replace(report, generation=generation)
        for file, frame in tables.items():
            if frame is None:
                (target / file).unlink(missing_ok=True)  # of a report that is replaced
            else:
                storage.write_table(frame.to_arrow(compat_level=pl.CompatLevel.oldest()), target / file)
                stage.counts[f"rows in {file}"] = frame.height
        stage.counts.update(rows_in=len(catalogue), arms=len(report.arms), generated=len(generated or {}))
        (target / PAGE_FILE).unlink(missing_ok=True)
        if config.html:
            write_html(report, shown)
        report.save(markdown(report))
    return report


def _rank(
    arms: Mapping[str, PathLike],
    compared: Mapping[str, Views],
    inputs: Inputs,
    catalogue: Catalogue,
    base: dict[str, Any],
    target: Path,
    source: ImageSource,
    config: EvaluateConfig,
) -> tuple[Report, pl.DataFrame, Examples | None]:
    """Measure every arm in every direction: the report so far, every query's metrics, and for a page some queries to be read."""
    found = directions(catalogue, inputs, config)
    clicks = None
    if inputs.engagement is not None:
        clicks = people_per_note(Dataset(inputs.engagement), DatasetNotes(catalogue.ids))
    described: dict[str, dict[str, Any]] = {}
    ranked = lineup(arms, catalogue, clicks, config, described)
    check_one_model(compared, described)
    partial = with_views({}, compared).keys() - compared.keys()  # only what sees the whole note is fused
    fusions = [
        FusionArm(f"{name}+bm25", (name, "bm25"), config.rrf_k, (config.fuse_weight, 1.0))
        for name in arms
        if config.fuse and name not in partial
    ]
    described.update({fusion.name: {"kind": "fused", "parts": list(fusion.parts)} for fusion in fusions})
    main = found[0]
    with_image = catalogue.with_image()
    parts = slices(main, clicks, catalogue.text_lengths(), with_image, catalogue.ages(), catalogue.categories())
    protocol = {**base, **_protocol(catalogue, inputs, found, parts, clicks, arms, config)}
    seen = int(with_image[main.queries].sum())
    report = Report(
        target,
        protocol,
        described,
        [],
        modalities={
            name: {"folder": str(views.folder), "dataset": views.dataset, "model_version": views.model_version}
            | {"queries_with_image": seen, "slices": {}}
            for name, views in compared.items()
        },
    )
    tables = []
    shown: Examples | None = None
    for direction in found:
        measured = measure(direction, ranked, fusions, notes=len(catalogue), config=config)
        summarise(report, direction, measured, parts if direction is main else [], config)
        tables.append(per_query(direction, measured, catalogue, config))
        if direction is not main:
            continue
        if clicks is not None:
            add_popularity(report, direction, measured, clicks, config)
        if config.html:
            own = [arm for arm in ranked if isinstance(arm, EmbeddingArm) and arm.name in arms.keys() - partial]
            _compact(report, own, direction, config)
            if config.examples:
                judged = _judged(report, measured)
                shown = examples(catalogue, direction, judged, measured[judged], with_image, source, config)
    return report, pl.concat(tables, how="diagonal"), shown


def _compact(report: Report, arms: list[EmbeddingArm], direction: Direction, config: EvaluateConfig) -> None:
    """Add what smaller vectors would cost."""
    found = compacted(
        arms,
        direction,
        at=min(config.at),
        queries=config.compact_queries,
        resamples=config.resamples,
        seed=config.seed,
    )
    for arm, record in found.items():
        report.arms[arm]["compact"] = record


def _judged(report: Report, measured: Mapping[str, Measured]) -> str:
    """The arm whose rankings are looked at: the user's first, or else the best."""
    if report.protocol["user_arms"]:
        return str(report.protocol["user_arms"][0])
    first = report.protocol["directions"][MAIN]["first"]
    return max(measured, key=lambda arm: float(report.arms[arm][first]["mean"]))


def _base(catalogue: Catalogue, config: EvaluateConfig) -> dict[str, Any]:
    """What a report says of itself, whatever it measures; as it stands where nothing is ranked."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "dataset": str(catalogue.path),
        "notes": len(catalogue),
        "directions": {},
        "not_measured": {},
        "slices": {},
        "queries_in_training": 0,
        "at": sorted(set(config.at)),
        "rank_at": config.rank_at,
        "resamples": config.resamples,
        "seed": config.seed,
        "user_arms": [],
        "config": config.model_dump(mode="json"),
    }


def _protocol(
    catalogue: Catalogue,
    inputs: Inputs,
    found: list[Direction],
    parts: list[Slice],
    clicks: Rows | None,
    arms: Mapping[str, PathLike],
    config: EvaluateConfig,
) -> dict[str, Any]:
    """What was ranked for which queries."""
    trained = 0 if clicks is None else int((clicks[found[0].queries] > 0).sum())
    if trained:
        logger.warning("%d queries of %r have engagement in the training log: they are not cold", trained, MAIN)
    return {
        "inputs": {name: None if path is None else str(path) for name, path in vars(inputs).items()},
        "split": storage.read_origin(inputs.pairs),
        "directions": {
            direction.name: {
                **direction.record(catalogue),
                "first": metric_names(direction, config.rank_at)[0],
            }
            for direction in found
        },
        "not_measured": not_measured(found, inputs),
        "slices": {
            part.name: {"by": part.by, "label": part.label, "says": part.says, "queries": len(part.queries)}
            for part in parts
        },
        "queries_in_training": trained,
        "user_arms": list(arms),
    }
