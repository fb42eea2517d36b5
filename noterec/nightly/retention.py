"""The last stage: what no night needs any more goes."""

from __future__ import annotations

import datetime as dt
import logging
import shutil
from pathlib import Path

from noterec.embedding.table import compact_embeddings, embeddings_status, is_table
from noterec.errors import ArtefactError
from noterec.index.bundle import bundles, read_info
from noterec.nightly.home import RUN, Home
from noterec.nightly.models import forget_models, trained_models
from noterec.nightly.run import Done, Run
from noterec.nightly.vectors import chosen_model

logger = logging.getLogger(__name__)


def collect(night: Run) -> Done:
    """Remove run folders beyond number and age, models and vectors that no kept bundle is made of; compact what is left.

    What the job didn't make stays where it is; so does a table that can't be read, for a person to look at.
    """
    config, home = night.config.retention, night.home
    runs = [run for run in home.runs() if run != night.folder]
    spare = runs[: max(0, len(runs) + 1 - config.runs)]
    gone_runs = [run for run in spare if (night.date - _date(run)).days > config.days]
    freed = sum(_remove(run) for run in gone_runs)
    served, tables = _served(home.index)
    trained = trained_models(home)
    kept = {model.version for model in trained[-config.models :]} | served | {chosen_model(night).version}
    gone_models = [model for model in trained if model.version not in kept]
    for model in gone_models:
        freed += _remove(Path(model.path)) + _remove(home.training / str(model.run))
    forget_models(home, {model.version for model in gone_models})
    freed += sum(_remove(folder) for folder in _abandoned(home))
    compacted = 0
    rivals = {found["version"] for found in night.record.result("embed").values() if found is not None}
    for table in sorted((home.path / "embeddings").iterdir()):
        try:
            if not is_table(table):
                logger.warning("%s: no table of embeddings, left alone", table)
                continue
            version, _, precision = table.name.rpartition("-")
            current = version in kept | rivals and precision == night.config.embed.precision
            if not current and table.name not in tables:
                freed += _remove(table)
            elif embeddings_status(table).compactable > config.compact:
                freed += compact_embeddings(table).bytes_freed
                compacted += 1
        except ArtefactError as error:
            logger.warning("%s is damaged and stays as it is: %s", table, error)
    names = {bundle.name for bundle in bundles(home.index)}
    for folder in home.neighbours.glob("bundle-*") if home.neighbours.is_dir() else ():
        if folder.name not in names:
            freed += _remove(folder)
    says = f"{len(gone_runs)} runs and {len(gone_models)} models removed, {compacted} tables compacted: {freed / 1e6:,.1f} MB freed"
    return Done(
        says, {"runs": len(gone_runs), "models": len(gone_models), "compacted": compacted, "bytes_freed": freed}
    )


def _served(index: Path) -> tuple[set[str], set[str]]:
    """The model versions of all bundles, and the names of the embeddings tables that they were made of."""
    versions, tables = set(), set()
    for bundle in bundles(index):
        try:
            info = read_info(bundle)
        except ArtefactError as error:
            logger.warning("%s can't be read, and keeps no model and no vectors: %s", bundle.name, error)
            continue
        versions.add(info.model_version)
        tables.add(Path(str(info.origin.get("embeddings"))).name)
    return versions, tables


def _abandoned(home: Home) -> list[Path]:
    """What trainings left that made no model, once the run itself is gone."""
    runs = {run.name for run in home.runs()} | {model.run for model in trained_models(home)}
    return [
        folder
        for place in (home.models, home.training)
        for folder in (sorted(place.iterdir()) if place.is_dir() else ())
        if RUN.fullmatch(folder.name) and folder.name not in runs
    ]


def _date(run: Path) -> dt.date:
    match = RUN.fullmatch(run.name)
    assert match is not None
    return dt.date.fromisoformat(match[1])


def _remove(folder: Path) -> int:
    """Delete a folder of the job's own; how many bytes it held."""
    if not folder.is_dir():
        return 0
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    shutil.rmtree(folder)
    return size
