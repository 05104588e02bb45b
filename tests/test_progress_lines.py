"""Lines about long work."""

import logging
from types import SimpleNamespace

import pytest

from timbreflow import progress_lines
from timbreflow.progress_lines import ProgressLines


def test_lines_are_rare_and_tell_the_time_left(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress_lines, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    lines = ProgressLines(logging.getLogger("timbreflow.test"), "triples evaluated", 100)
    with caplog.at_level(logging.INFO, "timbreflow.test"):
        for done in range(0, 100, 2):
            clock[0] = 100.0 + 2 * done
            lines.show(done)
    assert caplog.messages[0] == "16 of 100 triples evaluated, 3 min left"
    assert [int(text.split()[0]) for text in caplog.messages] == [16, 32, 48, 64, 80, 96]
