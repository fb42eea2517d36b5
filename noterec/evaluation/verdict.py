"""What a report comes to, in a sentence: is the user's model better than the best that needs none?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from noterec.evaluation.modalities import percent
from noterec.evaluation.protocol import MAIN
from noterec.evaluation.report import Report
from noterec.ranking.bootstrap import Verdict


@dataclass(frozen=True)
class Outcome:
    """The user's first arm against the best built-in one.

    Attributes:
        verdict: what can be said of the user's arm at 95 %.
        headline: in a few words.
        figures: the difference with its interval, and both means.
    """

    verdict: Verdict
    headline: str
    figures: str


def outcome(report: Report) -> Outcome | None:
    """The verdict on the main direction's first metric; None where there is no arm of the user's, or no built-in one."""
    if MAIN not in report.protocol["directions"] or not report.protocol["user_arms"]:
        return None
    arm, metric = report.protocol["user_arms"][0], report.protocol["directions"][MAIN]["first"]
    for entry in report.paired:
        where = (entry["direction"], entry["metric"], entry["arm"])
        if where == (MAIN, metric, arm) and report.arms[entry["against"]].get("kind") == "builtin":
            break
    else:
        return None
    other = entry["against"]
    means = [report.metrics(name)[metric]["mean"] for name in (arm, other)]
    verdict: Verdict = entry["verdict"]
    headline = {
        "better": f"{arm} is better than {other}, the best built-in arm",
        "worse": f"{arm} is worse than {other}, the best built-in arm",
        "can't tell": f"Can't tell {arm} from {other}, the best built-in arm",
    }[verdict]
    figures = (
        f"{metric} {change(entry)}: {means[0]:.4f} against {means[1]:.4f} on the same {entry['n']:,} queries, "
        "95 % interval by paired bootstrap."
    )
    return Outcome(verdict, headline, figures)


def change(entry: Mapping[str, Any]) -> str:
    """A paired difference in words, as a share of the other's mean where there is one: "is 38 % [33, 42] higher"."""
    relative = entry.get("relative")
    if relative is None:
        return f"differs by {entry['difference']:+.4f} [{entry['low']:+.4f}, {entry['high']:+.4f}]"
    mean, low, high = (relative[key] for key in ("mean", "low", "high"))
    if low <= 0 <= high:
        return f"differs by {'+' if mean > 0 else ''}{percent(mean, low, high)}"
    if mean < 0:
        return f"is {percent(-mean, -high, -low)} lower"
    return f"is {percent(mean, low, high)} higher"
