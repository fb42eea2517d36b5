"""Answers for one note at a time."""
