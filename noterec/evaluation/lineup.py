"""Which arms compete: those that the settings name, those that the user brings as tables of vectors, and sums of these."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import polars as pl

from noterec.config import EvaluateConfig
from noterec.errors import ConfigError, InputError
from noterec.evaluation.arms import Arm, EmbeddingArm, LexicalArm, PopularityArm, RandomArm
from noterec.evaluation.baselines import Bm25
from noterec.evaluation.protocol import Catalogue, PathLike, Rows
from noterec.index.vectors import load_embeddings

logger = logging.getLogger(__name__)


def lineup(
    arms: Mapping[str, PathLike],
    catalogue: Catalogue,
    clicks: Rows | None,
    config: EvaluateConfig,
    described: dict[str, dict[str, Any]],
) -> list[Arm]:
    """The built-in arms in the order of the settings, then the user's, then sums of them.

    Args:
        arms: name -> embeddings table.
        catalogue: the notes that are ranked.
        clicks: (N,) training clicks of each catalogue note; None = not known.
        config: which built-in arms and sums.
        described: gets what is known of each arm, by name.

    Raises:
        InputError: a table has no vector of the catalogue's notes.
        ConfigError: a sum of arms that aren't there.
    """
    found: list[Arm] = []
    for name in config.builtin:
        described[name] = {"kind": "builtin"}
        if name == "random":
            found.append(RandomArm(config.seed))
        elif name == "popularity" and clicks is not None:
            found.append(PopularityArm(clicks))
        elif name == "bm25":
            frame = catalogue.notes
            found.append(LexicalArm(Bm25(frame["title"], frame["content"], frame["hashtags"])))
    for name, path in arms.items():
        table = load_embeddings(path)
        places = pl.DataFrame({"note_id": table.ids}).with_row_index("row")
        joined = pl.DataFrame({"note_id": catalogue.ids}).join(places, on="note_id", how="left", maintain_order="left")
        row_of = joined["row"].cast(pl.Int64).fill_null(-1).to_numpy()
        matched = int((row_of >= 0).sum())
        if not matched:
            raise InputError(
                f"arm {name}: {path} has vectors of none of the {len(catalogue)} notes of {catalogue.path} (its first is "
                f"{table.ids[0]!r}); give the embeddings of that dataset"
            )
        described[name] = {
            "kind": "user",
            "embeddings": str(path),
            "model_version": table.model_version,
            "dimension": table.dimension,
            "notes_without_vector": len(catalogue) - matched,
            "vectors_of_unknown_notes": len(table) - matched,
        }
        if matched < len(catalogue):
            logger.warning("arm %s: %d of %d notes have no vector", name, len(catalogue) - matched, len(catalogue))
        found.append(EmbeddingArm(name, table.vectors, row_of))
    by_name = {arm.name: arm for arm in found if isinstance(arm, EmbeddingArm)}
    for entry in config.sums:
        parts = entry.split("+")
        unknown = [part for part in parts if part not in by_name]
        if unknown or len(parts) < 2:
            raise ConfigError(
                f"sums: {entry!r} needs at least two arms by name, A+B; the arms are {', '.join(by_name) or 'none'}"
            )
        described[entry] = {"kind": "summed", "parts": parts}
        found.append(EmbeddingArm.summed(entry, [by_name[part] for part in parts]))
    return found
