"""What the command line shows."""

from __future__ import annotations

from collections import Counter

import pytest

from ray_si.cli.output import BuildDisplay, duration
from ray_si.pipeline.progress import Phase, Progress
from ray_si.serving.usage import Usage


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "120 min"),
        (9000, "2 h"),
        (172_800, "2 days"),
        (6e5, "7 days"),
    ],
)
def test_a_time_is_told_in_the_unit_that_suits_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_time_that_is_left_goes_by_what_is_answered_not_by_what_a_resume_finds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    display = BuildDisplay()

    def shown(phase: Phase, done: int, answered: int = 0) -> str:
        nonlocal now
        now += 10
        usage = Usage(replicas=bool(answered), requests=Counter(input_first=answered))
        progress = Progress(phase, done, 1000, usage=usage)
        display.listen(progress)
        return display._detail(progress, now)

    assert "left" not in shown("instances", 0, 50)  # of the instructions
    assert "left" not in shown("instances", 600, 50)  # read
    assert "about 40 s left" in shown("instances", 680, 130)
    assert "left" not in shown("export", 0)
    assert "about 90 s left" in shown("export", 100)
