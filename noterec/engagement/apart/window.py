"""Pairs of a sliding window, night by night: only people who did something on a day that entered or left are counted again.

`windowed_pairs("data", state="state", out="pairs.parquet", config=PairsConfig(window_days=28))` gives what `pairs` gives with the
same settings. A score isn't a sum of days: N_u spans the window, and pairs cross days. So what such a person added before is taken
back, and what they add now is added, to sums of all pairs that are kept in the folder `state`.

What it saves is reading and folding the whole window; what it costs is keeping and reading all sums, some 16 bytes for each pair of
notes that anyone shares. docs/benchmarks.md says from where on it pays.
"""

from __future__ import annotations

import os
from dataclasses import asdict

from noterec import storage
from noterec.config import PairsConfig
from noterec.engagement.apart.night import Night, WindowSummary
from noterec.engagement.counting.compiled import interruptible
from noterec.engagement.counting.spill import Spill
from noterec.engagement.table import write_pairs
from noterec.errors import ConfigError, InputError, NoPairsError
from noterec.notes.dataset import Dataset
from noterec.progress import stage
from noterec.storage.locks import only_job

__all__ = ["WindowSummary", "windowed_pairs"]


@interruptible()
def windowed_pairs(
    dataset: str | os.PathLike[str],
    *,
    state: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: PairsConfig | None = None,
) -> WindowSummary:
    """Bring the pairs of a window up to date with the files that were added to the log since the last call.

    Args:
        dataset: a dataset folder whose log grows by files, such as one a day. A file that was read and has changed since, or that
            is gone though its days are in the window, makes everything be counted anew; that is also how a person or a note that
            was deleted from the log leaves the state, at the next call.
        state: a local folder that only this function writes; it begins empty. A call that dies leaves it as it was. It holds no
            id, but hashes of ids: who knows an id can find out whether it is there.
        out: the Parquet file to write, as `pairs` writes it.
        config: as for `pairs`.

    Returns:
        The counts.

    Raises:
        ConfigError: swing, which isn't a sum over people, or per_category_pair.
        InputError: a log without real times, or as `pairs`.
        NoPairsError: no pair is left after the rules.
        LockedError: another call is at this state.
    """
    config = config or PairsConfig()
    if config.weighting == "swing" or config.per_category_pair is not None:
        raise ConfigError(
            "a window that is kept: expected another weighting than swing and no per_category_pair, which both look at everything "
            "at once; leave the state out"
        )
    data = Dataset(dataset)
    if data.clock != "time":
        raise InputError(
            f"{data.path}: a window that is kept needs real times, but this log's clock is {data.clock!r}; leave the state out, or "
            "import the log with its timestamps"
        )
    folder = storage.local(state)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror or error}; expected a folder for the window's state") from error
    with stage("pairs") as record, only_job(folder, "noterec pairs"), Spill() as spill:
        night = Night.begin(data, config, folder, spill)
        table, summary = night.count()
        if not table.height:
            raise NoPairsError(
                f"{data.path}: no related pair is left in the window: {summary.pairs_below_support} were shared by fewer than "
                f"{config.min_support} people, {summary.pairs_out_of_bounds} out of bounds; lower min_support or the bounds, or "
                "take a longer window"
            )
        write_pairs(table, out, origin={"config": config.model_dump(), "dataset": data.path.name, **asdict(summary)})
        night.now.write()
        numbers = {name: value for name, value in asdict(summary).items() if name != "anew"}
        record.counts.update(rows_in=summary.events_read, rows_out=summary.pairs, **numbers)
    return summary
