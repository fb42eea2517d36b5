"""The synthetic platform: notes, pictures and a log whose truth is planted (`noterec sample`)."""

from noterec.notes.sample.platform import SampleSummary, sample, truth

__all__ = ["SampleSummary", "sample", "truth"]
