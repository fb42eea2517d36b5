"""From a bundle's folder to what is searched: every file checked, then mapped or read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from noterec import storage
from noterec.errors import ArtefactError
from noterec.index import bundle
from noterec.index.gpu import Device
from noterec.index.kinds import Effort
from noterec.index.lexical import LEXICAL_FILE, Lexical
from noterec.index.searchers import Approximate, Exact, Searcher


@dataclass(frozen=True, eq=False)
class OpenBundle:
    """An open bundle of N notes.

    Attributes:
        folder: the bundle.
        info: what bundle.json says.
        base: finds rows.
        attributes: (N, ...) note_id and what was kept beside it, by note_id.
        lexical: the notes' words; None where the bundle has none.
    """

    folder: Path
    info: bundle.BundleInfo
    base: Searcher
    attributes: pl.DataFrame
    lexical: Lexical | None


def open_bundle(folder: Path, *, verify: bool, device: Device | None) -> OpenBundle:
    """Open one bundle.

    Args:
        folder: the bundle.
        verify: hash the files before anything reads them; without it only their presence and size are checked.
        device: GPU to search on, or None.

    Raises:
        ArtefactError: a file is missing, changed, or of another format.
    """
    faiss = bundle.import_faiss()
    info = bundle.read_info(folder)
    bundle.verify(folder, info, hashes=verify)
    attributes = pl.DataFrame(storage.read_table(folder / bundle.NOTES_FILE))
    file = folder / bundle.VECTORS_FILE
    try:
        vectors: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)  # (N, D)
    except ValueError as error:
        raise ArtefactError(f"{file}: not a readable array ({error}); build the index again") from error
    shape = (info.count, info.dimension)
    if vectors.shape != shape or vectors.dtype not in (np.float32, np.float16) or attributes.height != info.count:
        raise ArtefactError(
            f"{folder}: {vectors.shape} numbers of {vectors.dtype} and {attributes.height} notes, expected {shape}; its parts "
            "don't belong together: build the index again"
        )
    base: Searcher
    if info.kind == "flat":
        base = Exact(vectors, device=device)
    else:
        try:
            index = faiss.read_index(str(folder / bundle.FAISS_FILE))
        except RuntimeError as error:
            raise ArtefactError(f"{folder / bundle.FAISS_FILE}: faiss can't read it; build the index again") from error
        if (index.ntotal, index.d) != shape or index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ArtefactError(
                f"{folder}: a {type(index).__name__} of {index.ntotal} vectors of {index.d} dimensions, expected inner "
                f"products of {shape}; its parts don't belong together: build the index again"
            )
        base = Approximate(index, vectors, Effort(info.knob, info.refine), info.recall.at, device=device)
    lexical = Lexical.open(folder) if LEXICAL_FILE in info.files else None
    return OpenBundle(folder, info, base, attributes, lexical)
