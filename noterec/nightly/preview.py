"""`noterec nightly CONFIG --dry-run`: what a night would do, stage by stage; nothing is written."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable
from dataclasses import dataclass

from noterec import storage
from noterec.config import NightlyConfig, load
from noterec.embedding.engine import opened
from noterec.embedding.forecast import embed_forecast
from noterec.index.bundle import live_name
from noterec.nightly.home import Home
from noterec.nightly.identity import clock, fingerprint
from noterec.nightly.models import Model, is_refused, known_model, live_model, waiting_model
from noterec.nightly.record import Record
from noterec.nightly.run import Run
from noterec.nightly.stages import STAGES
from noterec.nightly.standing import BOUND, lost
from noterec.nightly.vectors import training_due
from noterec.notes.dataset import Dataset


@dataclass(frozen=True)
class Preview:
    """What a stage would do, and why."""

    stage: str
    would: str
    why: str


def preview(config: NightlyConfig | str | os.PathLike[str], *, night: dt.date | None = None) -> list[Preview]:
    """Say what `run_nightly` with the same arguments would do. Notes are read and tokenised, a few are encoded to time them.

    Raises:
        InputError, ConfigError: as the night would, for what can be seen beforehand.
    """
    settings = config if isinstance(config, NightlyConfig) else load(NightlyConfig, config)
    date, moment = clock(night)
    home = Home.open(settings.home, create=False)
    mark = fingerprint(settings, date)
    record = Record.last(home.runs(date))
    if record is not None and record.facts["fingerprint"] == mark:
        if record.outcome == "published":
            return [Preview("all", "nothing", f"{record.folder.name} was done, and no file or setting is newer")]
        if lost(home, record) is not None:
            record.forget(BOUND)
    else:
        record = Record(home.new_run(date), {"stages": {}, "gates": {}, "outcome": "running"})
    tonight = Run(settings, home, date, moment, record, frozenset())
    return [_of(tonight, stage) for stage in STAGES]


def _of(night: Run, stage: str) -> Preview:
    before = night.record.outcome_of(stage)
    if before is not None:
        return Preview(stage, "keep", f"this run has done it: {before.says}")
    would, why = _WOULD[stage](night)
    return Preview(stage, would, why)


def _validate(night: Run) -> tuple[str, str]:
    data = Dataset(night.config.dataset)
    return (
        "read",
        f"{data.note_count:,} notes in {len(data.note_files)} files, {len(data.engagement_files)} files of engagement",
    )


def _pairs(night: Run) -> tuple[str, str]:
    data = Dataset(night.config.dataset)
    if not data.engagement_files:
        return "skip", "no engagement"
    newest = max(storage.stamp_of(file)[2] for file in data.engagement_files)
    if night.home.pairs.is_file() and night.home.pairs.stat().st_mtime >= newest:
        return "look", "the log may be the same; questions are asked anew"
    return "mine", "engagement is newer than the pairs"


def _train(night: Run) -> tuple[str, str]:
    due, why = training_due(night)
    return "train" if due else "skip", why


def _embed(night: Run) -> tuple[str, str]:
    model = live_model(night.home) or known_model(night)
    path = model.path if model is not None else night.config.model
    if path is None:
        return "encode", f"all {Dataset(night.config.dataset).note_count:,} notes, once there is a model"
    config = night.config.embed if model is None else model.embed_config(night.config.embed)
    out = night.home.path / "embeddings" / "none" if model is None else model.embeddings(night)
    found = embed_forecast(night.config.dataset, model=path, out=out, config=config, image_root=night.config.image_root)
    about = "" if found.seconds is None else f", about {found.seconds:,.0f} s of encoding"
    return (
        "encode" if found.due else "look",
        f"{found.due:,} of {found.notes:,} notes are new or changed{about}; {found.withdrawn:,} are gone",
    )


def _choose(night: Run) -> tuple[str, str]:
    due, _ = training_due(night)
    live: Model | None = live_model(night.home)
    if live is None:
        return "skip", "the first model needs no rival"
    known, waiting = known_model(night), waiting_model(night.home)
    others = [model for model in (waiting, known) if model is not None and model.version != live.version]
    unknown = night.config.model is not None and known is None
    if unknown:
        opened(
            str(night.config.model), "cpu", night.config.embed
        )  # one that can't be loaded is named today, not tonight
    if due or unknown or any(not is_refused(night.home, model) for model in others):
        return "compare", f"another model with the live {live.version}, on tonight's questions"
    if others:
        return "skip", f"the live {live.version} goes on: somebody went back from {others[0].version}"
    return "skip", f"there is one model, {live.version}"


_WOULD: dict[str, Callable[[Run], tuple[str, str]]] = {
    "validate": _validate,
    "pairs": _pairs,
    "train": _train,
    "embed": _embed,
    "choose": _choose,
    "index": lambda night: ("build", f"{night.config.index.kind}, beside {live_name(night.home.index) or 'nothing'}"),
    "evaluate": lambda night: ("measure", "on new notes that people have begun to engage with"),
    "gate": lambda night: ("judge", "against the live bundle on the same questions; staleness"),
    "publish": lambda night: ("publish", "where no gate stops it"),
    "neighbours": lambda night: ("write", f"new -> all and warm -> new, {night.config.neighbours.k} each"),
    "collect": lambda night: ("remove", "what the retention settings no longer keep"),
}
