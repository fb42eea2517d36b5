"""From what every query reached to what a report says: means with intervals, slices, paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from noterec.config import EvaluateConfig
from noterec.evaluation.measure import Measured, metric_names, metric_values
from noterec.evaluation.modalities import SLICES, compared_views
from noterec.evaluation.popularity import Popularity
from noterec.evaluation.protocol import MAIN, PAPER, Direction, Rows
from noterec.evaluation.resampling import resample
from noterec.evaluation.slices import Slice

if TYPE_CHECKING:
    from noterec.evaluation.report import Report


def summarise(
    report: Report,
    direction: Direction,
    measured: Mapping[str, Measured],
    parts: Sequence[Slice],
    config: EvaluateConfig,
) -> None:
    """Add one direction's intervals, slices and paired differences to a report."""
    names = metric_names(direction, config.rank_at)
    arms = list(measured)
    resampled = resample(
        np.concatenate([measured[arm].values for arm in arms], axis=1),  # (Q, arms x metrics)
        resamples=config.resamples,
        seed=config.seed,
    )
    column = {(arm, name): a * len(names) + m for a, arm in enumerate(arms) for m, name in enumerate(names)}
    for arm in arms:
        entry = report.arms[arm]
        metrics = {name: resampled.interval(column[arm, name]) for name in names}
        if direction.name != PAPER:
            # A share of the catalogue is no mean over queries, so it has no bootstrap interval over them.
            coverage = {"mean": measured[arm].coverage, "low": None, "high": None, "n": len(direction.queries)}
            metrics[f"coverage@{config.rank_at}"] = coverage
        if direction.name == MAIN:
            entry.update(metrics)
        else:
            entry.setdefault("directions", {})[direction.name] = metrics
        entry.setdefault("unasked", {})[direction.name] = measured[arm].unasked
    recalls = [name for name in names if name.startswith("recall@")]
    if direction.name == MAIN:
        for name, record in report.modalities.items():
            record.update(compared_views(resampled, column, name, recalls))
    for part in parts:
        values = [metric_values(measured[arm].top[part.queries], part.relevance, names) for arm in arms]
        within = resample(np.concatenate(values, axis=1), resamples=config.resamples, seed=config.seed)
        for arm in arms:
            figures = {name: within.interval(column[arm, name]) for name in names}
            report.arms[arm].setdefault("slices", {})[part.name] = figures
        for name, record in report.modalities.items():
            if part.name in SLICES:
                record["slices"][part.name] = {"says": part.says} | compared_views(within, column, name, recalls)
    builtin = [arm for arm in config.builtin if arm in measured]
    against = {max(builtin, key=lambda arm: float(resampled.mean[column[arm, names[0]]]))} if builtin else set()
    against |= set(report.protocol["user_arms"][:1])
    for other in sorted(against):
        for arm in arms:
            for name in names:
                if arm != other:
                    difference = resampled.difference(column[arm, name], column[other, name])
                    relative = resampled.relative(column[arm, name], column[other, name])
                    where = {"direction": direction.name, "metric": name, "arm": arm, "against": other}
                    report.paired.append({**where, **difference, "relative": relative})


def add_popularity(
    report: Report, direction: Direction, measured: Mapping[str, Measured], clicks: Rows, config: EvaluateConfig
) -> None:
    """Add how much the notes that each arm shows were clicked before, beside the relevant ones."""
    popularity = Popularity(clicks)
    drawn = {"resamples": config.resamples, "seed": config.seed}
    report.protocol["popularity"] = {
        "at": config.rank_at,
        "least_clicks": popularity.least,
        "unclicked_notes": int((clicks == 0).sum()),
        "relevant": popularity.of_relevant(direction.relevance, **drawn),
    }
    for arm, found in measured.items():
        report.arms[arm]["popularity"] = popularity.of_shown(found.top[:, : config.rank_at], **drawn)
