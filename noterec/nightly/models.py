"""Which model a night works with: the live one, and another that may take its place."""

from __future__ import annotations

import datetime as dt
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noterec import storage
from noterec.config import EmbedConfig
from noterec.embedding.engine import opened
from noterec.errors import ArtefactError, InputError
from noterec.index.bundle import BUNDLES, find, live_name, read_info
from noterec.nightly.home import Home, run_order
from noterec.nightly.identity import model_stamp
from noterec.nightly.run import Run

REGISTRY = "models.json"


@dataclass(frozen=True)
class Model:
    """A model as the job knows it.

    Attributes:
        version: of the vectors that it makes.
        path: its folder or hub id.
        dimension: of the vectors, where only a prefix of them is kept.
        run: the run that trained it; None where it was given.
    """

    version: str
    path: str
    dimension: int | None
    run: str | None

    def embed_config(self, config: EmbedConfig) -> EmbedConfig:
        """The settings with which its vectors are made, whatever length the settings have come to ask for."""
        return config.model_copy(update={"dimension": self.dimension, "max_rejected": 1.0, "max_deleted": 1.0})

    def embeddings(self, night: Run) -> Path:
        """Where its vectors are."""
        return night.home.embeddings(self.version, night.config.embed.precision)


def live_model(home: Home) -> Model | None:
    """The model of the live bundle; None where nothing is published.

    Raises:
        ArtefactError: the job doesn't know where that model is.
    """
    if live_name(home.index) is None:
        return None
    version = read_info(find(home.index)).model_version
    known = _registry(home)
    if version not in known:
        raise ArtefactError(
            f"{home.index}: the live bundle is of model version {version}, which {home.path / REGISTRY} doesn't know; it was "
            "published by something else: publish it to another folder, or begin a new home"
        )
    return _model(home, version, known[version])


def show_model(home: Home) -> None:
    """Turn the link HOME/live-model to the live bundle's model, in one step; a model on a hub has none."""
    if home.model.is_dir() and not home.model.is_symlink():  # a copy of HOME that followed the link
        shutil.rmtree(home.model)
    model = live_model(home)
    if model is None or not Path(model.path).is_dir():
        home.model.unlink(missing_ok=True)
        return
    aside = home.path / ".live-model.next"
    aside.unlink(missing_ok=True)
    # One that was trained here is named from here, so that HOME may be moved.
    aside.symlink_to(model.path if model.run is None else Path(model.path).relative_to(home.path))
    aside.replace(home.model)


def given_model(night: Run) -> Model | None:
    """The model that the settings name; None where the job trains its own."""
    path = night.config.model
    return None if path is None else register(night, path, run=None)


def known_model(night: Run) -> Model | None:
    """The model that the settings name, where an earlier night has found out its version; nothing is loaded."""
    return None if night.config.model is None else _stamped(night, night.config.model)


def register(night: Run, path: str, *, run: str | None) -> Model:
    """Find out a model's version and remember where it is.

    Args:
        night: the night, whose settings say how long vectors are.
        path: the model's folder or hub id.
        run: that trained it.
    """
    if not path:
        raise InputError("nightly: model is empty; give a model's folder or hub id, or leave it out")
    if (found := _stamped(night, path)) is not None:
        return found
    _, version = opened(path, "cpu", night.config.embed)
    known = _registry(night.home)
    dimension = night.config.embed.dimension
    if version in known and run is None and (made := _model(night.home, version, known[version])).run is not None:
        return made  # one that was trained here, named by its folder or by a copy's
    # A run's model is where its run is, so that HOME may be moved; one that was given stays where it was found.
    place = str(Path(path).relative_to(night.home.path)) if run is not None else _anywhere(path)
    known[version] = {"path": place, "dimension": dimension, "run": run, "stamp": _stamp(path, dimension)}
    _write(night.home, models=known)
    return _model(night.home, version, known[version])


def is_there(night: Run, model: Model) -> bool:
    """Whether a model is still where it was: its folder may have been removed, or another model been written into it."""
    known = _registry(night.home)
    entry, stamp = known[model.version], _stamp(model.path, model.dimension)
    if entry["stamp"] == stamp:
        return True
    if not Path(model.path).is_dir():
        return False
    _, version = opened(model.path, "cpu", model.embed_config(night.config.embed))
    if version != model.version:
        return False
    _write(night.home, models={**known, version: {**entry, "stamp": stamp}})  # copied, or HOME was moved
    return True


def forget_models(home: Home, versions: set[str]) -> None:
    """Take models out of the list; their folders are the caller's to remove."""
    kept = {version: entry for version, entry in _registry(home).items() if version not in versions}
    _write(home, models=kept)


def trained_models(home: Home) -> list[Model]:
    """The models that the job trained, the oldest first."""
    found = [_model(home, version, entry) for version, entry in _registry(home).items() if entry["run"] is not None]
    return sorted(found, key=lambda model: run_order(str(model.run)))


def last_training(home: Home) -> dt.date | None:
    """The night of the last training, whatever came of it; None where there was none."""
    told = _read(home)["last_training"]
    return None if told is None else dt.date.fromisoformat(told)


def note_training(home: Home, night: dt.date, made: Model | None) -> None:
    """Remember that a training was done, and that what it made, if anything, waits to be compared with the live model."""
    waits = {} if made is None else {"waiting": made.version}
    _write(home, last_training=night.isoformat(), **waits)


def waiting_model(home: Home) -> Model | None:
    """The model that was trained last, as long as no published night has compared it with the live one."""
    version, known = _read(home)["waiting"], _registry(home)
    return _model(home, version, known[version]) if version in known else None


def note_comparison(home: Home, version: str) -> None:
    """Remember that a model was compared, or is live: it waits no more."""
    if _read(home)["waiting"] == version:
        _write(home, waiting=None)


def note_rollback(home: Home, was: str | None, live: str) -> None:
    """Remember which model a person went back from: it stays out until a bundle of it is made live by hand.

    Args:
        home: the job's folder.
        was: the bundle that was live; None where nobody knows.
        live: the one that is now.
    """
    versions = [None if name is None else read_info(home.index / BUNDLES / name).model_version for name in (was, live)]
    refused = {*_read(home)["refused"], *versions[:1]} - {None, versions[1]}
    if refused != set(_read(home)["refused"]):
        _write(home, refused=sorted(refused))


def is_refused(home: Home, model: Model) -> bool:
    """Whether a person went back from this model."""
    return model.version in _read(home)["refused"]


def model_from(record: dict[str, Any]) -> Model:
    """A model as a stage left it for later ones."""
    return Model(**record)


def _anywhere(path: str) -> str:
    """A folder as it is found from everywhere; a hub id stays as it is."""
    return str(Path(path).absolute()) if Path(path).is_dir() else path


def _stamp(path: str, dimension: int | None) -> str:
    return storage.value_hash([model_stamp(_anywhere(path)), dimension])


def _stamped(night: Run, path: str) -> Model | None:
    stamp = _stamp(path, night.config.embed.dimension)
    known = _registry(night.home).items()
    found = (_model(night.home, version, entry) for version, entry in known if entry["stamp"] == stamp)
    return next(found, None)


def _registry(home: Home) -> dict[str, dict[str, Any]]:
    return dict(_read(home)["models"])


def _read(home: Home) -> dict[str, Any]:
    file = home.path / REGISTRY
    nothing: dict[str, Any] = {"models": {}, "last_training": None, "waiting": None, "refused": []}
    return {**nothing, **storage.read_json(file)} if file.is_file() else nothing


def _write(home: Home, **changed: Any) -> None:
    storage.write_json(home.path / REGISTRY, {**_read(home), **changed})


def _model(home: Home, version: str, entry: dict[str, Any]) -> Model:
    path = entry["path"] if entry["run"] is None else str(home.path / entry["path"])
    return Model(version, path, entry["dimension"], entry["run"])
