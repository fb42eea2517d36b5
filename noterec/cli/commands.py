"""All commands, in the order of the road: importing this module registers them."""

from noterec.cli import data, model, embeddings, index, search, serving, quality, nightly, settings  # isort: skip  (the order of the help page)
from noterec.cli.app import app

__all__ = ["app", "data", "embeddings", "index", "model", "nightly", "quality", "search", "serving", "settings"]
