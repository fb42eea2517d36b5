"""Notes out of the bytes of an index: a copy of the live bundle without them goes live, and the bundles that held them go.

A copy, and no new build: what is searched stays what was published and judged, but for these notes. The dataset may be another one
by now, or the live bundle one that somebody went back to.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from noterec import progress, storage
from noterec.config import IndexConfig
from noterec.config.index import Kind
from noterec.errors import ArtefactError, GateError, InputError
from noterec.index import bundle, gpu, kinds, publishing
from noterec.index.build import Built, searchable
from noterec.index.changing import collect
from noterec.index.lexical import LEXICAL_FILE, copy_lexical

logger = logging.getLogger(__name__)

_ROWS = 65_536  # vectors copied at a time


def publish_without(index: str | os.PathLike[str], ids: Collection[str]) -> str | None:
    """Where the live bundle holds one of these notes, make a copy of it without them the live one.

    The older bundle stays until `discard_with` is called.

    Args:
        index: the index's folder.
        ids: of the notes; `remove_notes` keeps them out of later bundles.

    Returns:
        The live bundle's name; None where nothing is live, or no note of the live bundle is left: it stays.

    Raises:
        ArtefactError: the live bundle is damaged.
        InputError: a build is running.
    """
    place = storage.local(index)
    if bundle.live_name(place) is None:
        return None
    with progress.stage("index without") as stage, publishing.building(place) as aside:
        live = bundle.find(place)
        table = storage.read_table(live / bundle.NOTES_FILE)
        rows = np.flatnonzero(~_among(table["note_id"], ids))
        stage.counts.update(rows_in=table.num_rows, rows_out=len(rows))
        if len(rows) == table.num_rows:
            return live.name
        if not len(rows):
            return None
        info = bundle.read_info(live)
        bundle.verify(live, info, hashes=True)
        _copy(live, info, table, rows, aside)
        published = publishing.publish(place, aside)
        collect(place)
    return published.name


def discard_with(index: str | os.PathLike[str], ids: Collection[str]) -> list[str]:
    """Delete the bundles that hold one of these notes, the candidate too, and what killed builds and changes left.

    A bundle whose notes can't be read may hold one, and goes. Where the live one still does, nothing is live afterwards.

    Returns:
        The names of the bundles that are gone.

    Raises:
        InputError: a build is running.
    """
    place = storage.local(index)
    if not (place / bundle.BUNDLES).is_dir():
        collect(place)
        return []
    with publishing.building(place):
        holding = [folder.name for folder in bundle.bundles(place) if _holds(folder, ids)]
        candidate = place / bundle.BUNDLES / publishing.CANDIDATE
        if holding or (candidate.is_dir() and _holds(candidate, ids)):
            publishing.discard(place, holding, live=True)
        collect(place)
    return holding


def _copy(live: Path, info: bundle.BundleInfo, table: pa.Table, rows: NDArray[np.int64], aside: Path) -> None:
    """Write all files of a bundle that has only some rows of another one."""
    every: NDArray[Any] = np.load(live / bundle.VECTORS_FILE, mmap_mode="r", allow_pickle=False)  # (N, D)
    shape = (len(rows), info.dimension)
    file = aside / bundle.VECTORS_FILE
    vectors = np.lib.format.open_memmap(file, mode="w+", dtype=every.dtype, shape=shape)  # (M, D)
    for low in range(0, len(rows), _ROWS):
        vectors[low : low + _ROWS] = every[rows[low : low + _ROWS]]
    vectors.flush()
    storage.write_table(table.take(pa.array(rows)), aside / bundle.NOTES_FILE)
    built = _searchable(vectors, info, aside, live.name)
    if LEXICAL_FILE in info.files:
        copy_lexical(live, rows, aside)
    records = publishing.record_files(aside)
    update = {
        "recipe": kinds.recipe(info.kind, info.dimension, len(rows)),
        "knob": built.effort.knob,
        "refine": built.effort.refine,
        "recall": built.recall,
        "query_ms": round(built.query_ms, 4),
        "count": len(rows),
        "removed": info.removed + info.count - len(rows),
        "files": records,
        "bytes_per_note": round(sum(record.bytes for record in records.values()) / len(rows), 1),
        "build_seconds": round(built.seconds, 3),
        "origin": {**info.origin, "copy_of": live.name},
    }
    storage.write_json(aside / bundle.BUNDLE_FILE, info.model_copy(update=update).model_dump(mode="json"))


def _searchable(vectors: NDArray[Any], info: bundle.BundleInfo, aside: Path, live: str) -> Built:
    """As the bundle was built; a recall that fell below its target with the notes that go is told, and stops no deletion."""
    config = IndexConfig.model_validate({**info.config, "kind": info.kind})
    kind: Kind = info.kind
    chosen = gpu.choose(config.device)
    try:
        return searchable(vectors, kind, aside, config, chosen, live=live)
    except GateError as error:
        if not error.value:
            raise
        eased = config.model_copy(update={"recall_target": 0.98 * error.value})
        logger.warning("%s; it is published all the same, because notes have to go: build the index again", error)
        return searchable(vectors, kind, aside, eased, chosen, live=live)


def _holds(folder: Path, ids: Collection[str]) -> bool:
    try:
        return bool(_among(storage.read_table(folder / bundle.NOTES_FILE, columns=["note_id"])["note_id"], ids).any())
    except (ArtefactError, InputError) as error:
        logger.warning("%s can't be read, and goes, as it may hold what is to go: %s", folder.name, error)
        return True


def _among(column: pa.ChunkedArray, ids: Collection[str]) -> NDArray[np.bool_]:
    found = pc.is_in(column.cast(pa.string()), value_set=pa.array(sorted(ids), pa.string()))
    return np.asarray(found.to_numpy(), dtype=bool)
