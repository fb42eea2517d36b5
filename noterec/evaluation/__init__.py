"""Who is better? The protocol, the baselines, the arms, and a report whose every figure carries its interval."""

from noterec.evaluation.compare import Comparison, compare
from noterec.evaluation.evaluate import evaluate
from noterec.evaluation.report import Report, load_report, table

__all__ = ["Comparison", "Report", "compare", "evaluate", "load_report", "table"]
