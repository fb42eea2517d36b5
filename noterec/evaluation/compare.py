"""`noterec compare R1 R2`: is the second run better than the first, worse, or can't one tell?"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import polars as pl

from noterec import progress, storage
from noterec.errors import ArtefactError, InputError
from noterec.evaluation.protocol import PathLike
from noterec.evaluation.report import QUERIES_FILE, Report, load_report
from noterec.evaluation.verdict import change
from noterec.ranking.bootstrap import Verdict, paired


@dataclass(frozen=True)
class Difference:
    """One metric of run b minus that of run a, on the queries that both have.

    Attributes:
        verdict: what can be said of b: "better", "worse" or "can't tell" at 95 %.
        relative: the difference as a share of run a's mean; None where that mean, or that of a resample, is zero.
    """

    direction: str
    metric: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    n: int
    verdict: Verdict
    relative: float | None
    relative_low: float | None
    relative_high: float | None


@dataclass(frozen=True)
class Comparison:
    """Run b against run a.

    Attributes:
        run_a, run_b: the reports.
        arm_a, arm_b: the arms compared.
        verdict: of the main direction's first metric, which is recall@10 unless set.
        says: that metric's difference in words.
        rows: every metric of every direction that both runs measured.
        unshared: by direction, queries that only one run has; they are left out.
    """

    run_a: str
    run_b: str
    arm_a: str
    arm_b: str
    verdict: Verdict
    says: str
    rows: list[Difference]
    unshared: dict[str, int]


def compare(run_a: PathLike, run_b: PathLike, *, arm_a: str | None = None, arm_b: str | None = None) -> Comparison:
    """Compare an arm of one report with an arm of another by paired bootstrap over their common queries.

    Args:
        run_a: folder of the report that is compared with.
        run_b: folder of the report that is judged.
        arm_a: an arm of run a; its first user arm unless given, or its best built-in one where it has none.
        arm_b: likewise of run b.

    Raises:
        InputError: no report there, no such arm, or no query in common.
        ArtefactError: the protocols differ: cut-offs, candidates, or the relevant notes of a query.
    """
    with progress.stage("compare") as stage:
        first, second = load_report(run_a), load_report(run_b)
        names = _arm(first, arm_a), _arm(second, arm_b)
        _same_protocol(first, second)
        values = [_queries(report, name) for report, name in zip((first, second), names, strict=True)]
        rows: list[Difference] = []
        unshared = {}
        for direction, record in first.protocol["directions"].items():
            if direction not in second.protocol["directions"]:
                continue
            left, right = (frame.filter(pl.col("direction") == direction) for frame in values)
            key = ["query_id", "related_id"]
            both = left.join(right, on=key, how="inner", nulls_equal=True, suffix=" b").sort(key)
            if not both.height:
                raise InputError(f"{run_a} and {run_b} have no query of {direction!r} in common; nothing to compare")
            other = both.filter(pl.col("relevant_hash") != pl.col("relevant_hash b"))
            if other.height:
                raise ArtefactError(
                    f"{run_a} and {run_b}: {other.height} of {both.height} common queries of {direction!r} have other "
                    f"relevant notes (the first is {other['query_id'][0]!r}); evaluate both with the same test pairs"
                )
            unshared[direction] = left.height + right.height - 2 * both.height
            for metric in [name for name in first.metrics(names[0], direction) if not name.startswith("coverage@")]:
                rows.append(_difference(direction, metric, both, first.protocol))
            stage.counts.update({f"queries {direction}": both.height, "first": record["first"]})
        return Comparison(os.fspath(run_a), os.fspath(run_b), *names, rows[0].verdict, _says(rows[0]), rows, unshared)


def _difference(direction: str, metric: str, both: pl.DataFrame, protocol: dict[str, Any]) -> Difference:
    a, b = both[metric].to_numpy(), both[f"{metric} b"].to_numpy()
    found = paired(b, a, resamples=protocol["resamples"], seed=protocol["seed"])
    means = float(a.mean()), float(b.mean())
    return Difference(
        direction,
        metric,
        *means,
        found.difference,
        found.low,
        found.high,
        found.n,
        found.verdict,
        found.relative,
        found.relative_low,
        found.relative_high,
    )


def _says(row: Difference) -> str:
    """A difference in words: "recall@10 is 4 % [2, 6] higher: 0.2100 against 0.2020 on 560 common queries"."""
    relative = {"mean": row.relative, "low": row.relative_low, "high": row.relative_high}
    told = change(
        {
            "difference": row.difference,
            "low": row.low,
            "high": row.high,
            "relative": None if row.relative is None else relative,
        }
    )
    queries = "1 common query" if row.n == 1 else f"{row.n:,} common queries"
    return f"{row.metric} {told}: {row.b:.4f} against {row.a:.4f} on {queries}"


def _arm(report: Report, name: str | None) -> str:
    if not report.arms:
        raise InputError(
            f"{report.path}: measures generated tables only, it ranks nothing; evaluate with --arm to compare"
        )
    if name is not None:
        if name not in report.arms:
            raise InputError(f"{report.path}: no arm {name!r}; it has {', '.join(report.arms)}")
        return name
    if report.protocol["user_arms"]:
        return str(report.protocol["user_arms"][0])
    first = next(iter(report.protocol["directions"].values()))["first"]
    return max(report.arms, key=lambda arm: float(report.arms[arm][first]["mean"]))


def _same_protocol(a: Report, b: Report) -> None:
    for key in ("at", "rank_at"):
        if a.protocol[key] != b.protocol[key]:
            raise ArtefactError(
                f"{a.path} has {key} = {a.protocol[key]}, {b.path} {b.protocol[key]}; evaluate both with the same cut-offs"
            )
    for direction, record in a.protocol["directions"].items():
        other = b.protocol["directions"].get(direction)
        if other is not None and record["candidates_hash"] != other["candidates_hash"]:
            raise ArtefactError(
                f"{a.path} ranks {record['candidates']} candidates of {direction!r}, {b.path} {other['candidates']}, and "
                "they are not the same notes; evaluate both on the same dataset and split"
            )


def _queries(report: Report, arm: str) -> pl.DataFrame:
    return pl.DataFrame(storage.read_table(report.path / QUERIES_FILE)).filter(pl.col("arm") == arm)
