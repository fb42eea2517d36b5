"""All commands, in the order of the road: importing this module registers them."""

from noterec.cli import data, engagement, model, embeddings, index, search, serving, quality, nightly, settings  # isort: skip  (the order of the help page)
from noterec.cli.app import app

__all__ = [
    "app",
    "data",
    "embeddings",
    "engagement",
    "index",
    "model",
    "nightly",
    "quality",
    "search",
    "serving",
    "settings",
]
