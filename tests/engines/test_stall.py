"""An engine that has work and takes no step is told from one that is slow or idle."""

from __future__ import annotations

import pytest

from ray_si.engines.stall import StallWatch
from ray_si.errors import EngineError


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("ray_si.engines.stall.time.monotonic", lambda: now[0])
    return now


def test_only_the_same_mark_while_busy_for_longer_than_it_may_is_a_stall(clock):
    watch = StallWatch(60)
    for mark, busy, after in [(1, True, 0), (2, True, 59), (2, False, 300), (2, True, 5)]:
        clock[0] += after
        watch.look(mark, is_busy=busy)
    clock[0] += 54
    watch.look(2, is_busy=True)
    clock[0] += 7
    with pytest.raises(EngineError, match=r"took no step for 66 s \(generator.stall_s\)"):
        watch.look(2, is_busy=True)


def test_none_waits_for_ever(clock):
    watch = StallWatch(None)
    watch.look(1, is_busy=True)
    clock[0] += 1e9
    watch.look(1, is_busy=True)
