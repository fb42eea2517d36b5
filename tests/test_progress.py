"""Progress is silent where nobody opened a display, and every stage logs its counts."""

from __future__ import annotations

import logging

import pytest

from noterec import progress


def test_library_calls_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.track("pairs", 3, "users") as bar:
        bar.advance(2)
        bar.set_total(5)
        bar.advance(1, "note")
    assert capsys.readouterr() == ("", "")


def test_a_display_on_no_terminal_prints_no_bars(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.shown(), progress.shown(), progress.track("pairs", 3, "users") as bar:
        bar.advance(3, "note")
    assert capsys.readouterr().out == ""  # standard output belongs to results
    with progress.track("after", 1, "notes") as bar:
        bar.advance()
    assert capsys.readouterr() == ("", "")


def test_a_stage_logs_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "noterec"), progress.stage("pairs") as record:
        record.counts.update(rows_in=10, rejected=2)
    (line,) = caplog.messages
    assert line.startswith("pairs: rows_in=10 rejected=2 seconds=")
    assert "peak_memory_mb=" in line
    assert progress.peak_memory_mb() > 10
