"""Busy shares of stages."""

from __future__ import annotations

import pytest

from ray_si.pipeline import stage_clock
from ray_si.pipeline.stage_clock import StageClock, bound_by


@pytest.fixture
def clock(monkeypatch):
    """A clock, and the time it goes by."""
    now = [100.0]
    monkeypatch.setattr(stage_clock.time, "monotonic", lambda: now[0])
    return StageClock(), now


def test_a_share_is_of_the_time_that_passed_lately(clock):
    stages, now = clock
    worked = [0.0]
    stages.watch("embed", lambda: (worked[0],))
    for _ in range(40):  # idle for long, then busy for the last half minute
        now[0] += 1
        assert not stages.shares().get("embed")
    for _ in range(40):
        now[0] += 1
        worked[0] += 0.5
        shares = stages.shares()
    assert shares["embed"] == pytest.approx(0.5, abs=0.02)


def test_decisions_count_for_as_long_as_they_take(clock):
    stages, now = clock
    now[0] += 1000  # models load
    assert stages.shares() == {}  # nothing to go by yet
    with stages.deciding():
        now[0] += 3
    now[0] += 1
    assert stages.shares() == {"decide": 0.75}


def test_a_decision_that_takes_longer_than_shares_look_back_is_seen_while_it_lasts(clock):
    stages, now = clock
    shown = []
    stages.shares()
    with stages.deciding():
        for _ in range(100):
            now[0] += 1
            shown.append(stages.shares()["decide"])
    assert shown == [1.0] * 100
    for _ in range(40):
        now[0] += 1
        shares = stages.shares()
    assert shares == {"decide": 0.0}


def test_of_parts_that_work_at_a_time_the_busiest_of_late_counts_whatever_was_before(clock):
    stages, now = clock
    worked = [0.0, 500.0]  # the second has long led
    stages.watch("gate", lambda: tuple(worked))
    stages.shares()
    for _ in range(10):
        now[0] += 1
        worked[0] += 0.95
        worked[1] += 0.1
        shares = stages.shares()
    assert shares["gate"] == pytest.approx(0.95)


def test_a_stage_that_begins_while_shares_are_taken_counts_from_the_next_time(clock):
    stages, now = clock

    def begins():
        stages.watch("gate", lambda: (now[0],))  # as another thread does
        return (0.0,)

    stages.watch("embed", begins)
    stages.shares()
    now[0] += 1
    assert stages.shares() == {"decide": 0.0, "embed": 0.0, "gate": 1.0}


def test_the_stage_that_is_full_bounds_a_build():
    assert bound_by({"generate": 0.97, "embed": 0.99, "decide": 0.1}) == "embed"
    assert bound_by({"generate": 0.5, "embed": 0.6}) is None
    assert bound_by({}) is None
