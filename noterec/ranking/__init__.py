"""Exact nearest neighbours, the metrics of a ranking, and the intervals of their means. NumPy only."""
