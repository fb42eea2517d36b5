"""Who is better? The protocol, the baselines, the arms, and a report whose every figure carries its interval."""

from noterec.evaluation.compare import Comparison, compare
from noterec.evaluation.evaluate import evaluate
from noterec.evaluation.generation import measure_generated
from noterec.evaluation.report import Report, load_report
from noterec.evaluation.tables import generated_table, table

__all__ = [
    "Comparison",
    "Report",
    "compare",
    "evaluate",
    "generated_table",
    "load_report",
    "measure_generated",
    "table",
]
