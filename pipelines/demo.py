"""A small synthetic platform for the nightly job, whose log ends tonight."""

import datetime as dt
import tempfile
from pathlib import Path

import polars as pl

from noterec import storage
from noterec.config import NightlyConfig, SampleConfig, load
from noterec.notes.sample import sample

DEMO = Path(__file__).with_name("demo.yaml")


def make_platform(config: Path = DEMO, *, notes: int = 600, users: int = 400) -> Path:
    """Make the platform that the settings name, unless it is there.

    Args:
        config: the nightly job's settings; `dataset` says where.
        notes, users: size of the platform.

    Returns:
        The dataset: four weeks of clicks, all times moved so that the last click was today, UTC.
    """
    folder = Path(load(NightlyConfig, config).dataset)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".platform-", dir=folder.parent) as made:
            sample(Path(made, "sample"), SampleConfig(notes=notes, users=users))
            _until_today(Path(made, "sample"), Path(made, "moved"))
            Path(made, "moved").rename(folder)
    return folder


def _until_today(source: Path, out: Path) -> None:
    """Copy a dataset, its times moved so that the log ends as today begins."""
    log = pl.read_parquet(source / "engagement" / "*.parquet")
    notes = pl.read_parquet(source / "notes" / "*.parquet")
    today = dt.datetime.combine(dt.datetime.now(dt.UTC).date(), dt.time(), dt.UTC)
    by = pl.lit(today - log.select(pl.col("timestamp").max()).item())
    for name, moved in (
        ("notes", notes.with_columns(pl.col("created_at", "updated_at") + by)),
        ("engagement", log.with_columns(pl.col("timestamp") + by)),
    ):
        storage.write_table(moved.to_arrow(compat_level=pl.CompatLevel.oldest()), out / name / "part-00000.parquet")
