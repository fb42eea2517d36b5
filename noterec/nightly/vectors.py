"""The stages in the middle of a night: a model where one is due, vectors, and which model's vectors are used."""

from __future__ import annotations

import dataclasses
import datetime as dt
import shutil
from pathlib import Path

import polars as pl
import pyarrow as pa

from noterec import storage
from noterec.config import NightlyConfig, SplitConfig
from noterec.embedding.engine import EmbedSummary, embed
from noterec.engagement.pairs import pairs
from noterec.engagement.split import split
from noterec.errors import DivergenceError, GateError
from noterec.evaluation.evaluate import evaluate
from noterec.evaluation.report import QUERIES_FILE
from noterec.index.search import Index
from noterec.index.vectors import load_embeddings
from noterec.nightly.intake import NEW_NOTES, NEW_PAIRS, WARM_PAIRS
from noterec.nightly.models import (
    Model,
    given_model,
    last_training,
    live_model,
    model_from,
    note_training,
    register,
)
from noterec.nightly.night import Done, Night
from noterec.nightly.record import Figure
from noterec.notes.dataset import Dataset
from noterec.ranking.bootstrap import paired
from noterec.training.train import train

LIVE, OTHER = "live", "other"  # arms


def training_due(night: Night) -> tuple[bool, str]:
    """Whether a model is to be trained tonight, and why or why not."""
    config = night.config
    if live_model(night.home) is None and config.model is None:
        return True, "there is no model yet"
    every = config.training.every_days
    if every is None:
        return False, "training.every_days isn't set"
    last = last_training(night.home)
    if last is None:
        return True, f"no training so far, and one every {every:g} days is wanted"
    age = (night.date - last).days
    return age >= every, f"the last one was {age} days ago ({last}), one every {every:g} days is wanted"


def train_model(night: Night) -> Done:
    """Train a model where one is due, on notes and engagement from before the new notes; a failed one doesn't stop the night."""
    due, why = training_due(night)
    if not due:
        return Done(why, status="skipped", result={"model": None})
    config, home = night.config, night.home
    folder = home.training / night.name
    test_from = night.moment - dt.timedelta(days=config.new_days)
    valid_from = test_from - dt.timedelta(days=config.training.valid_days)
    held = split(
        config.dataset,
        out=folder / "split",
        config=SplitConfig(by="time", test_from=test_from, valid_from=valid_from),
    )
    mined = pairs(folder / "split" / "train", out=folder / "pairs.parquet", config=config.pairs)
    model = home.models / night.name
    try:
        trained = train(
            folder / "split" / "train",
            pairs=folder / "pairs.parquet",
            out=model,
            valid_pairs=folder / "split" / "valid-pairs.parquet" if held.valid_pairs else None,
            valid_notes=config.dataset if held.valid_pairs else None,
            config=config.training.settings,
            cache=config.cache,
            image_root=config.image_root,
        )
    except (GateError, DivergenceError) as error:
        if live_model(home) is None:
            raise
        note_training(home, night.date)
        shutil.rmtree(folder / "split" / "train", ignore_errors=True)
        return Done(f"{why}; it failed, the live model stays: {error}", {"failed": 1}, {"model": None})
    made = register(night, str(model), run=night.name)
    note_training(home, night.date)
    shutil.rmtree(folder / "split" / "train", ignore_errors=True)  # a copy of the notes; the lists stay
    best = "" if trained.best is None else f", recall@10 of cold notes {trained.best.recall_at_10:.3f}"
    figures: dict[str, Figure] = {"train_notes": trained.train_notes, "pairs": mined.pairs, "steps": trained.steps}
    if trained.best is not None:
        figures["valid_recall_at_10"] = round(trained.best.recall_at_10, 4)
    return Done(
        f"{why}; trained {model.name} on {trained.train_notes:,} notes{best}",
        figures,
        {"model": dataclasses.asdict(made)},
    )


def embed_notes(night: Night) -> Done:
    """Encode what is new or changed, with the live model and, side by side, with another one that may replace it."""
    live, other = _candidates(night)
    if live is not None:
        _check_canaries(night, live)
    runs: dict[str, EmbedSummary] = {}
    for role, model in ((LIVE, live), (OTHER, other)):
        if model is not None:
            runs[role] = embed(
                night.config.dataset,
                model=model.path,
                out=model.embeddings(night),
                config=model.embed_config(night.config.embed),
                cache=night.config.cache,
                image_root=night.config.image_root,
            )
    main = runs[LIVE if live is not None else OTHER]
    _judge_rejects(night, main)
    figures: dict[str, Figure] = {
        "encoded": main.encoded,
        "unchanged": main.unchanged,
        "withdrawn": main.withdrawn,
        "rejected": main.rejected,
        "pictures": main.pictures,
        "pictures_rejected": main.pictures_rejected,
        "embed_seconds": round(main.seconds, 1),
    }
    says = f"{main.encoded:,} notes encoded, {main.unchanged:,} unchanged, {main.withdrawn:,} withdrawn"
    if live is not None and other is not None:
        figures["encoded_by_other"] = runs[OTHER].encoded
        says += f"; {runs[OTHER].encoded:,} by another model, {other.version}"
    models = {LIVE: live, OTHER: other}
    return Done(says, figures, {role: model and dataclasses.asdict(model) for role, model in models.items()})


def choose_model(night: Night) -> Done:
    """Let the live model and another one answer tonight's questions; the other one is used only where it wins."""
    found = night.record.result("embed")
    live, other = (None if found[role] is None else model_from(found[role]) for role in (LIVE, OTHER))
    if live is None or other is None:
        only = live or other
        assert only is not None
        return Done(f"there is one model, {only.version}", status="skipped", result={"model": dataclasses.asdict(only)})
    stays = {"model": dataclasses.asdict(live), "won": False}
    if not night.record.result("pairs")["questions"]:
        return Done("no new note has engagement yet, so no model can win: the live one stays", result=stays)
    config = night.config.evaluate.model_copy(update={"builtin": [], "fuse": False, "sums": [], "html": False})
    folder = night.folder / "models"
    evaluate(
        {LIVE: live.embeddings(night), OTHER: other.embeddings(night)},
        notes=night.config.dataset,
        pairs=night.folder / NEW_PAIRS,
        warm_pairs=night.folder / WARM_PAIRS,
        new_notes=night.folder / NEW_NOTES,
        out=folder,
        config=config,
    )
    metric = f"recall@{config.at[0]}"
    rows = pl.read_parquet(folder / QUERIES_FILE).filter(pl.col("direction") == "new -> all").sort("arm", "query_id")
    mine, theirs = (rows.filter(pl.col("arm") == arm)[metric].to_numpy() for arm in (LIVE, OTHER))
    gain = paired(theirs, mine, resamples=config.resamples, seed=config.seed)
    bound = night.config.training.win
    won = gain.relative_low is not None and gain.relative_low > bound and gain.n > 1
    chosen = other if won else live
    told = (
        f"{gain.difference:+.4f} ({metric}; the live one finds nothing)"
        if gain.relative is None
        else f"{gain.relative:+.1%} [{gain.relative_low:+.1%}, {gain.relative_high:+.1%}]"
    )
    if gain.relative is None:
        won, chosen = (True, other) if gain.verdict == "better" else (False, live)
    return Done(
        f"{other.version} against the live {live.version}: {metric} {theirs.mean():.4f} against {mine.mean():.4f}, {told} on "
        f"{gain.n:,} new notes: {'it takes its place' if won else 'the live one stays'}",
        {
            "live": round(float(mine.mean()), 4),
            "other": round(float(theirs.mean()), 4),
            "questions": gain.n,
            "won": int(won),
        },
        {"model": dataclasses.asdict(chosen), "won": won},
    )


def chosen_model(night: Night) -> Model:
    """The model whose vectors tonight's bundle is made of."""
    return model_from(night.record.result("choose")["model"])


def _candidates(night: Night) -> tuple[Model | None, Model | None]:
    """The live model, and another one: trained tonight, or newly named by the settings."""
    live = live_model(night.home)
    made = night.record.result("train")["model"]
    other = model_from(made) if made else given_model(night)
    if live is not None and other is not None and other.version == live.version:
        other = None
    return live, other


def _judge_rejects(night: Night, summary: EmbedSummary) -> None:
    notes = summary.rejected / max(1, summary.notes)
    pictures = summary.pictures_rejected / max(1, summary.pictures)
    worst, bound = max(notes, pictures), night.config.gates.rejects
    says = f"{summary.rejected:,} of {summary.notes:,} notes have nothing to read ({notes:.1%})"
    if summary.pictures:
        says += f", {summary.pictures_rejected:,} of {summary.pictures:,} pictures can't be used ({pictures:.1%})"
    night.judge("rejects", worst, bound=f"at most {bound:.1%}", ok=worst <= bound, says=says)


def _check_canaries(night: Night, model: Model) -> None:
    """Encode some notes again, and compare them with what is live: has anything about the encoder changed?"""
    config: NightlyConfig = night.config
    bound = f"every cosine at least {config.gates.canary_cosine}"
    if not config.gates.canaries:
        night.judge("canaries", None, bound=bound, ok=True, says="switched off (gates.canaries = 0)")
        return
    folder = night.folder / "canaries"
    shutil.rmtree(folder, ignore_errors=True)
    index = Index.open(night.home.index)
    _write_canaries(night, index, folder / "notes")
    if not (folder / "notes").is_dir():
        night.judge("canaries", None, bound=bound, ok=True, says="no note of the live index is in the dataset")
        return
    embed(
        folder,
        model=model.path,
        out=folder / "vectors",
        config=model.embed_config(config.embed).model_copy(update={"engine": "local"}),
        image_root=config.image_root,
    )
    again = load_embeddings(folder / "vectors")
    hashes = [_hashes_of(table, again.ids) for table in (folder / "vectors", model.embeddings(night))]
    same = hashes[0].join(hashes[1], on=["note_id", "content_hash"], how="inner")["note_id"].sort()
    shutil.rmtree(folder, ignore_errors=True)  # copies of notes
    if not len(same):
        night.judge("canaries", None, bound=bound, ok=True, says="none of the notes is as it was when it was encoded")
        return
    new = again.vectors[again.ids.is_in(same.implode()).to_numpy()]  # (C, D), by ascending id as `same` is
    old = index.vectors(index.rows_of(same))  # (C, D)
    cosines = (old * new).sum(axis=1)
    worst = int(cosines.argmin())
    value = float(cosines[worst])
    night.judge(
        "canaries",
        round(value, 6),
        bound=bound,
        ok=value >= config.gates.canary_cosine,
        says=f"{len(same):,} unchanged notes encoded again: the lowest cosine with what is live is {value:.6f} "
        f"({same[worst]})",
    )


def _write_canaries(night: Night, index: Index, folder: Path) -> None:
    """The live notes with the lowest hashes of their ids, so that they are nearly the same every night."""
    data = Dataset(night.config.dataset)
    ids = data.note_ids
    ids = ids.filter(ids.is_in(index.ids.filter(pl.Series(index.live)).implode()))
    chosen = pl.DataFrame({"note_id": ids}).sort(pl.col("note_id").hash(seed=0), "note_id")["note_id"]
    wanted = set(chosen.head(night.config.gates.canaries))
    for number, table in enumerate(data.note_batches(batch_rows=512)):
        kept = table.filter(pa.array([note_id in wanted for note_id in table["note_id"].to_pylist()]))
        if kept.num_rows:
            storage.write_table(kept, folder / f"part-{number:05d}.parquet")


def _hashes_of(table: Path, ids: pl.Series) -> pl.DataFrame:
    """The content hashes with which notes stand in an embeddings table now, their last rows counting."""
    parts = [
        pl.read_parquet(str(file), columns=["note_id", "content_hash"]).filter(pl.col("note_id").is_in(ids.implode()))
        for file in storage.parquet_files(table)
    ]
    return pl.concat(parts).unique("note_id", keep="last").drop_nulls("content_hash")
