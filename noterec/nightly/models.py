"""Which model a night works with: the live one, and another that may take its place."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noterec import storage
from noterec.config import EmbedConfig
from noterec.embedding.engine import opened
from noterec.errors import ArtefactError, InputError
from noterec.index.bundle import find, live_name, read_info
from noterec.nightly.home import Home
from noterec.nightly.night import Night, model_stamp

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

    def embeddings(self, night: Night) -> Path:
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
    return _model(version, known[version])


def given_model(night: Night) -> Model | None:
    """The model that the settings name; None where the job trains its own."""
    path = night.config.model
    return None if path is None else register(night, path, run=None)


def known_model(night: Night) -> Model | None:
    """The model that the settings name, where an earlier night has found out its version; nothing is loaded."""
    return None if night.config.model is None else _stamped(night, night.config.model)


def register(night: Night, path: str, *, run: str | None) -> Model:
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
    known[version] = {
        "path": path, "dimension": night.config.embed.dimension, "run": run, "stamp": _stamp(night, path)
    }  # fmt: skip
    storage.write_json(night.home.path / REGISTRY, {**_read(night.home), "models": known})
    return _model(version, known[version])


def forget_models(home: Home, versions: set[str]) -> None:
    """Take models out of the list; their folders are the caller's to remove."""
    kept = {version: entry for version, entry in _registry(home).items() if version not in versions}
    storage.write_json(home.path / REGISTRY, {**_read(home), "models": kept})


def trained_models(home: Home) -> list[Model]:
    """The models that the job trained, the oldest first."""
    found = [_model(version, entry) for version, entry in _registry(home).items() if entry["run"] is not None]
    return sorted(found, key=lambda model: str(model.run))


def last_training(home: Home) -> dt.date | None:
    """The night of the last training, whatever came of it; None where there was none."""
    told = _read(home)["last_training"]
    return None if told is None else dt.date.fromisoformat(told)


def note_training(home: Home, night: dt.date) -> None:
    """Remember that a training was done."""
    storage.write_json(home.path / REGISTRY, {**_read(home), "last_training": night.isoformat()})


def model_from(record: dict[str, Any]) -> Model:
    """A model as a stage left it for later ones."""
    return Model(**record)


def _stamp(night: Night, path: str) -> str:
    return storage.value_hash([model_stamp(path), night.config.embed.dimension])


def _stamped(night: Night, path: str) -> Model | None:
    stamp = _stamp(night, path)
    found = (_model(version, entry) for version, entry in _registry(night.home).items() if entry["stamp"] == stamp)
    return next(found, None)


def _registry(home: Home) -> dict[str, dict[str, Any]]:
    return dict(_read(home)["models"])


def _read(home: Home) -> dict[str, Any]:
    file = home.path / REGISTRY
    return dict(storage.read_json(file)) if file.is_file() else {"models": {}, "last_training": None}


def _model(version: str, entry: dict[str, Any]) -> Model:
    return Model(version, entry["path"], entry["dimension"], entry["run"])
