"""The stages in the middle of a night: a model where one is due, vectors, and which model's vectors are used."""

from __future__ import annotations

import dataclasses
import datetime as dt
import shutil
from pathlib import Path

import polars as pl

from noterec.config import SplitConfig
from noterec.embedding.engine import EmbedSummary, embed
from noterec.engagement.pairs import pairs
from noterec.engagement.split import split
from noterec.errors import ArtefactError, ConfigError, DivergenceError, GateError, InputError
from noterec.evaluation.evaluate import evaluate
from noterec.evaluation.report import QUERIES_FILE
from noterec.nightly.canaries import BOUND, check_canaries
from noterec.nightly.intake import NEW_NOTES, NEW_PAIRS, WARM_PAIRS
from noterec.nightly.models import (
    Model,
    given_model,
    is_refused,
    is_there,
    last_training,
    live_model,
    model_from,
    note_training,
    register,
    trained_models,
    waiting_model,
)
from noterec.nightly.record import Figure
from noterec.nightly.run import Done, Run
from noterec.ranking.bootstrap import paired
from noterec.training.train import train

LIVE, OTHER, REFUSED = "live", "other", "refused"  # the first two are arms


def training_due(night: Run) -> tuple[bool, str]:
    """Whether a model is to be trained tonight, and why or why not."""
    config = night.config
    if live_model(night.home) is None:
        if config.model is not None:
            return False, "nothing is live yet: the model that the settings name comes first"
        waiting = waiting_model(night.home)
        return waiting is None, "there is no model yet" if waiting is None else f"the model of run {waiting.run} waits"
    every = config.training.every_days
    if every is None:
        return False, "training.every_days isn't set"
    last = last_training(night.home)
    if last is None:
        return True, f"no training so far, and one every {every:g} days is wanted"
    if last > dt.datetime.now(dt.UTC).date():
        return True, f"the last one was on {last}, which is still to come: a clock was wrong"
    age = (night.date - last).days
    return age >= every, f"the last one was {age} days ago ({last}), one every {every:g} days is wanted"


def train_model(night: Run) -> Done:
    """Train a model where one is due, on notes and engagement from before the new notes; a failed one doesn't stop the night."""
    home = night.home
    made = next((model for model in trained_models(home) if model.run == night.name), None)
    if made is not None:  # killed when all was done, before it was written down
        note_training(home, night.date, made)
        return Done("trained already, before it was interrupted", result={"model": dataclasses.asdict(made)})
    due, why = training_due(night)
    if not due:
        return Done(why, status="skipped", result={"model": None})
    try:
        made, says, figures = _trained(night)
    except (GateError, DivergenceError, InputError) as error:
        if isinstance(error, ConfigError):  # the settings are wrong, and no other night makes them right
            raise
        if live_model(home) is None:
            if isinstance(error, InputError):
                raise InputError(
                    f"no model can be trained yet: {error}. Until there are older notes, name a model in the settings (model: a "
                    "folder or hub id), or give less new_days and training.valid_days"
                ) from error
            raise
        note_training(home, night.date, None)
        shutil.rmtree(home.models / night.name, ignore_errors=True)
        return Done(f"{why}; it failed, the live model stays: {error}", {"failed": 1}, {"model": None})
    finally:
        shutil.rmtree(home.training / night.name / "split" / "train", ignore_errors=True)  # a copy of the notes
    note_training(home, night.date, made)
    return Done(f"{why}; {says}", figures, {"model": dataclasses.asdict(made)})


def _trained(night: Run) -> tuple[Model, str, dict[str, Figure]]:
    """The model, what is to be said of it, and its figures."""
    config, home = night.config, night.home
    folder = home.training / night.name
    test_from = night.moment - dt.timedelta(days=config.new_days)
    valid_from = test_from - dt.timedelta(days=config.training.valid_days)
    held = split(
        config.dataset,
        out=folder / "split",
        config=SplitConfig(by="time", test_from=test_from, valid_from=valid_from, memory=config.pairs.memory),
    )
    mined = pairs(folder / "split" / "train", out=folder / "pairs.parquet", config=config.pairs)
    model = home.models / night.name
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
    made = register(night, str(model), run=night.name)
    best = "" if trained.best is None else f", recall@10 of cold notes {trained.best.recall_at_10:.3f}"
    figures: dict[str, Figure] = {"train_notes": trained.train_notes, "pairs": mined.pairs, "steps": trained.steps}
    if trained.best is not None:
        figures["valid_recall_at_10"] = round(trained.best.recall_at_10, 4)
    return made, f"trained {model.name} on {trained.train_notes:,} notes{best}", figures


def embed_notes(night: Run) -> Done:
    """Encode what is new or changed, with the live model and, side by side, with another one that may replace it."""
    live, other, refused = _candidates(night)
    if live is not None and not is_there(night, live):
        _replaced(night, live, other)
        live = None
    elif live is not None:
        check_canaries(night, live)
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
    models = {LIVE: live, OTHER: other, REFUSED: refused}
    return Done(says, figures, {role: model and dataclasses.asdict(model) for role, model in models.items()})


def choose_model(night: Run) -> Done:
    """Let the live model and another one answer tonight's questions; the other one is used only where it wins."""
    found = night.record.result("embed")
    live, other = (None if found[role] is None else model_from(found[role]) for role in (LIVE, OTHER))
    if live is None or other is None:
        only = live or other
        assert only is not None
        says = f"there is one model, {only.version}"
        if found[REFUSED] is not None:
            says += (
                f"; {found[REFUSED]['version']}, which somebody went back from, is left out until a bundle of it is made live "
                "again (`noterec nightly rollback CONFIG --to BUNDLE`) or another model is named"
            )
        result = {"model": dataclasses.asdict(only), "compared": None if other is None else other.version}
        return Done(says, status="skipped", result=result)
    stays = {"model": dataclasses.asdict(live), "won": False, "compared": None}
    if not night.record.result("pairs")["questions"]:
        return Done("no new note has engagement yet, so no model can win: the live one stays", result=stays)
    config = night.config.evaluate.model_copy(
        update={"at": [night.config.gates.at], "builtin": [], "fuse": False, "sums": [], "html": False}
    )
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
    if gain.relative_low is None:  # the live one finds nothing, at least in some resample
        won = gain.verdict == "better"
    else:
        won = gain.relative_low > bound and gain.n > 1
    chosen = other if won else live
    told = (
        f"{gain.difference:+.4f} ({metric}; the live one finds nothing)"
        if gain.relative is None
        else f"{gain.relative:+.1%} [{gain.relative_low:+.1%}, {gain.relative_high:+.1%}]"
    )
    return Done(
        f"{other.version} against the live {live.version}: {metric} {theirs.mean():.4f} against {mine.mean():.4f}, {told} on "
        f"{gain.n:,} new notes: {'it takes its place' if won else 'the live one stays'}",
        {
            "live": round(float(mine.mean()), 4),
            "other": round(float(theirs.mean()), 4),
            "questions": gain.n,
            "won": int(won),
        },
        {"model": dataclasses.asdict(chosen), "won": won, "compared": other.version},
    )


def chosen_model(night: Run) -> Model:
    """The model whose vectors tonight's bundle is made of."""
    return model_from(night.record.result("choose")["model"])


def _candidates(night: Run) -> tuple[Model | None, Model | None, Model | None]:
    """The live model; another one, which waits since its training or which the settings name; one that a person went back from."""
    home = night.home
    given = given_model(night)  # first: it may say where the live one is now
    live = live_model(home)
    others = [
        model for model in (waiting_model(home), given) if model and (live is None or model.version != live.version)
    ]
    other = next((model for model in others if not is_refused(home, model)), None)
    refused = None if other is not None else next(iter(others), None)
    return live, other, refused


def _replaced(night: Run, live: Model, other: Model | None) -> None:
    """The live model can't encode any more: another one may take its place only where a person accepts that.

    Raises:
        ArtefactError: there is no other one.
        GateError: nobody has accepted it.
    """
    there = "another model is there now" if Path(live.path).is_dir() else "nothing is there now"
    says = f"the live model, {live.version}, was at {live.path}, and {there}: put it back"
    if other is None:
        raise ArtefactError(f"{says}, or name another one in the settings (model: a folder or hub id)")
    bound = BOUND.format(night.config.gates.canary_cosine)
    says += f", or let {other.version} take its place without a comparison"
    night.judge("canaries", 0.0, bound=bound, ok=False, says=says)


def _judge_rejects(night: Run, summary: EmbedSummary) -> None:
    notes = summary.rejected / max(1, summary.notes)
    pictures = summary.pictures_rejected / max(1, summary.pictures)
    worst, bound = max(notes, pictures), night.config.gates.rejects
    says = f"{summary.rejected:,} of {summary.notes:,} notes have nothing to read ({notes:.1%})"
    if summary.pictures:
        says += f", {summary.pictures_rejected:,} of {summary.pictures:,} pictures can't be used ({pictures:.1%})"
    night.judge("rejects", worst, bound=f"at most {bound:.1%}", ok=worst <= bound, says=says)
