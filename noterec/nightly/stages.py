"""The stages of a night in their order, each a function of the night so far."""

from __future__ import annotations

from collections.abc import Callable

from noterec.nightly import bundles, intake, vectors
from noterec.nightly.retention import collect
from noterec.nightly.run import Done, Run

STAGE_WORK: dict[str, Callable[[Run], Done]] = {
    "validate": intake.validate,
    "pairs": intake.mine,
    "train": vectors.train_model,
    "embed": vectors.embed_notes,
    "choose": vectors.choose_model,
    "index": bundles.build,
    "evaluate": bundles.measure,
    "gate": bundles.gate,
    "publish": bundles.publish,
    "neighbours": bundles.tables,
    "collect": collect,
}
STAGES = tuple(STAGE_WORK)
