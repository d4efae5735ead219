"""Progress in a log: now and then a line with the time left, and the last one; nothing for a short run."""

import time

import pytest

from solfa.core import progress
from solfa.core.progress import Progress, clock, describe, track


def test_a_log_line_counts_and_foretells() -> None:
    bar = Progress("encoding", total=100, unit="clips", start=20)
    with bar:
        bar.advance(20, note="40 x real time")
    assert describe(bar, elapsed=10.0) == "encoding: 40/100 clips, 0:10 elapsed, 0:30 left, 40 x real time"
    with Progress("reading", total=None) as unknown:
        unknown.advance(3)
    assert describe(unknown, elapsed=61.0) == "reading: 3, 1:01 elapsed"


def test_clock() -> None:
    assert [clock(s) for s in (0, 59.6, 3600, 36_061)] == ["0:00", "1:00", "1:00:00", "10:01:01"]


def test_log_only_when_it_takes_long(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(track(range(5), "quick")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "LOG_EVERY", 0.02)
    for _ in track(iter(range(5)), "slow", total=5, unit="steps"):
        time.sleep(0.01)
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 5
    assert lines[-1].startswith("slow: 5/5 steps")
