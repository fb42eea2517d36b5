"""The report: metrics.json for machines, report.md for people, queries.parquet for `compare`; `html` writes report.html."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noterec import storage
from noterec.errors import ArtefactError, InputError
from noterec.evaluation.protocol import MAIN

FORMAT = "noterec evaluation"
FORMAT_VERSION = 1
METRICS_FILE, REPORT_FILE, QUERIES_FILE = "metrics.json", "report.md", "queries.parquet"
GENERATED_FILE, PAGE_FILE = "generated.parquet", "report.html"


@dataclass(frozen=True)
class Report:
    """An evaluation, as it stands in metrics.json.

    Attributes:
        path: the folder that holds it.
        protocol: what was asked: counts, cut-offs, candidates, seeds, settings.
        arms: by name: metrics of the main direction, "directions" with those of the others, "slices", "popularity", "compact" and
            counts.
        paired: differences between arms on the same queries, with intervals and verdicts.
        generation: by task, "category" or "hashtags", what `generation.measure_generated` found; empty where nothing was generated.
        modalities: by name, what `modalities.compared_views` found of a model on all queries of the main direction, and under
            "slices" on some of them; "queries_with_image"; and where the views are. Empty where no views were given.
    """

    path: Path
    protocol: dict[str, Any]
    arms: dict[str, dict[str, Any]]
    paired: list[dict[str, Any]]
    generation: dict[str, dict[str, Any]] = field(default_factory=dict)
    modalities: dict[str, dict[str, Any]] = field(default_factory=dict)

    def metrics(self, arm: str, direction: str = MAIN) -> dict[str, dict[str, Any]]:
        """The metrics of an arm in a direction: name -> mean, low, high, n."""
        entry = self.arms[arm] if direction == MAIN else self.arms[arm]["directions"][direction]
        return {name: value for name, value in entry.items() if "@" in name}

    def save(self, lines: Iterable[str]) -> None:
        """Write metrics.json, and report.md of these lines."""
        record: dict[str, Any] = {"protocol": self.protocol, "arms": self.arms, "paired": self.paired}
        if self.generation:
            record["generation"] = self.generation
        if self.modalities:
            record["modalities"] = self.modalities
        with storage.atomic_write(self.path / REPORT_FILE) as file:
            file.write(("\n".join(lines) + "\n").encode())
        storage.write_json(self.path / METRICS_FILE, record)  # last: its presence says that the report is whole


def load_report(path: str | os.PathLike[str]) -> Report:
    """Read a report's folder.

    Raises:
        InputError: no report there.
        ArtefactError: metrics.json is damaged or of another format.
    """
    folder = storage.local(path)
    if not (folder / METRICS_FILE).is_file():
        raise InputError(f"{folder}: no {METRICS_FILE} there; expected a folder that `noterec evaluate` wrote")
    record = storage.read_json(folder / METRICS_FILE)
    protocol = record.get("protocol", {}) if isinstance(record, dict) else {}
    if protocol.get("format") != FORMAT or protocol.get("format_version") != FORMAT_VERSION:
        raise ArtefactError(
            f"{folder / METRICS_FILE}: not an evaluation of format version {FORMAT_VERSION}; evaluate again with this "
            "version of noterec"
        )
    if not {"directions", "user_arms"} <= protocol.keys() or not {"arms", "paired"} <= record.keys():
        raise ArtefactError(f"{folder / METRICS_FILE}: incomplete; it was damaged: evaluate again")
    return Report(
        folder, protocol, record["arms"], record["paired"], record.get("generation", {}), record.get("modalities", {})
    )
