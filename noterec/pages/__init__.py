"""Self-contained HTML files: one file holds text, style and drawings, loads nothing, runs no script, and can be mailed or archived.

    pages.render("report.html", package="noterec.nightly", title="The night", ...)

A template of another package extends `base.html`, the shell with the style. Everything that isn't `Markup` is escaped.
"""

from noterec.pages import charts
from noterec.pages.charts import Point, Row
from noterec.pages.page import environment, render
from noterec.pages.palette import palette
from noterec.pages.tables import Figure, table
from noterec.pages.text import clean, marked_up, number

__all__ = [
    "Figure",
    "Point",
    "Row",
    "charts",
    "clean",
    "environment",
    "marked_up",
    "number",
    "palette",
    "render",
    "table",
]
