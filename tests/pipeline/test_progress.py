"""Progress that is told from several sides stays one."""

from __future__ import annotations

from collections import Counter

import pytest

from ray_si.pipeline import progress as progress_module
from ray_si.pipeline.progress import RECENT_S, Progress, Reporter
from ray_si.serving.usage import Usage


@pytest.fixture
def clock(monkeypatch):
    """Sets what time.monotonic says."""
    now = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    return now


def used(tokens):
    return Usage(completion_tokens=Counter(instructions=tokens))


def test_what_replicas_do_stays_when_the_phases_report(clock):
    told = []
    reporter = Reporter(told.append)
    reporter.see(used(500), 1.5)
    reporter.report(Progress("bootstrap", done=7, total=100))
    assert (told[-1].phase, told[-1].done, told[-1].tokens) == ("bootstrap", 7, 500)
    assert told[-1].dollars == 1.5


def test_accepted_counts_from_where_this_build_began(clock):
    reporter = Reporter(lambda progress: None)
    for done in (40, 40, 55):
        reporter.report(Progress("bootstrap", done=done, total=100))
    assert reporter.accepted == 15


def test_the_rate_is_that_of_the_last_seconds_and_forgets_what_lies_before(clock):
    reporter = Reporter(lambda progress: None)
    for second in range(1, 41):
        clock[0] = 100.0 + second
        reporter.see(used(1000 + 10 * max(0, second - 20)), None)  # nothing for a time, then ten/s
    assert reporter.tokens_per_second() == pytest.approx(10, rel=1 / RECENT_S)
