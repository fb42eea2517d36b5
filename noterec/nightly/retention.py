"""The last stage: what no night needs any more goes."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

from noterec.embedding.table import compact_embeddings, embeddings_status
from noterec.errors import ArtefactError
from noterec.index.bundle import bundles, read_info
from noterec.nightly.home import RUN
from noterec.nightly.models import forget_models, trained_models
from noterec.nightly.night import Done, Night
from noterec.nightly.vectors import chosen_model


def collect(night: Night) -> Done:
    """Remove run folders beyond number and age, models and vectors that no kept bundle is made of; compact what is left."""
    config, home = night.config.retention, night.home
    freed = 0
    old = night.date - dt.timedelta(days=config.days)
    runs = [run for run in home.runs() if run != night.folder]
    gone_runs = [run for run in runs[: max(0, len(runs) + 1 - config.runs)] if _date(run) < old]
    for run in gone_runs:
        freed += _remove(run)
    served = _served_versions(home.index)
    trained = trained_models(home)
    kept = {model.version for model in trained[-config.models :]} | served | {chosen_model(night).version}
    gone_models = [model for model in trained if model.version not in kept]
    for model in gone_models:
        freed += _remove(Path(model.path)) + _remove(home.training / str(model.run))
    forget_models(home, {model.version for model in gone_models})
    compacted = 0
    tables = sorted((home.path / "embeddings").iterdir())
    for table in tables:
        if table.name.partition("-")[0] not in kept and _is_other(table, night):
            freed += _remove(table)
        elif embeddings_status(table).compactable > config.compact:
            freed += compact_embeddings(table).bytes_freed
            compacted += 1
    names = {bundle.name for bundle in bundles(home.index)}
    for folder in home.neighbours.glob("bundle-*") if home.neighbours.is_dir() else ():
        if folder.name not in names:
            freed += _remove(folder)
    says = f"{len(gone_runs)} runs and {len(gone_models)} models removed, {compacted} tables compacted: {freed / 1e6:,.1f} MB freed"
    return Done(
        says, {"runs": len(gone_runs), "models": len(gone_models), "compacted": compacted, "bytes_freed": freed}
    )


def _is_other(table: Path, night: Night) -> bool:
    """Whether tonight's other model, which may win tomorrow, has nothing to do with a table."""
    models = night.record.result("embed")
    return all(found is None or found["version"] != table.name.partition("-")[0] for found in models.values())


def _served_versions(index: Path) -> set[str]:
    found = set()
    for bundle in bundles(index):
        try:
            found.add(read_info(bundle).model_version)
        except ArtefactError:
            continue  # `noterec index status` says what is wrong with it; nothing was made of it that could be kept
    return found


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
