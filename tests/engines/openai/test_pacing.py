"""The pacer against simulated endpoints, with a clock of its own."""

from __future__ import annotations

import heapq
import itertools
import random

import pytest
from hypothesis import given, settings, strategies as st

from ray_si.engines.openai.pacing import Pacer


class Simulation:
    """Requests sent as fast as the pacer lets them, to an endpoint that refuses by ``refuses``.

    ``refuses(now, started)`` is asked with the times of the requests that it has let in; an answer
    is a Retry-After in seconds, or True for a refusal without one, or False.
    """

    def __init__(self, pacer, refuses=lambda now, started: False, latency=lambda: 1.0, tokens=100):
        self.pacer, self.refuses, self.latency = pacer, refuses, latency
        self.estimate, self.used = (tokens, tokens) if isinstance(tokens, int) else tokens
        self.started, self.admitted, self.refused, self.windows = [], [], [], []
        self.most_in_flight = 0

    def run(self, seconds, now=0.0):
        running, number = [], itertools.count()
        while True:
            delay = self.pacer.delay(now)
            ends = running[0][0] if running else float("inf")
            if delay is not None and now + delay <= min(ends, seconds):
                now += delay
                self._start(now, running, next(number))
            elif ends <= seconds:
                now, _, ticket, refused = heapq.heappop(running)
                self._end(now, ticket, refused)
            else:
                return self

    def _start(self, now, running, number):
        assert self.pacer.delay(now) == pytest.approx(0, abs=1e-9)
        self.started.append(now)
        ticket = self.pacer.start(now, self.estimate)
        self.most_in_flight = max(self.most_in_flight, self.pacer.in_flight)
        refused = self.refuses(now, self.admitted)
        if refused is False:
            self.admitted.append(now)
        took = self.latency() if refused is False else 0.05
        heapq.heappush(running, (now + took, number, ticket, refused))

    def _end(self, now, ticket, refused):
        if refused is False:
            self.pacer.answered(now, ticket, self.used)
        else:
            self.refused.append(now)
            self.pacer.refused(now, ticket, None if refused is True else refused)
        self.windows.append(self.pacer.window)


def _most_in(times, seconds):
    """The most events in any span of so many seconds."""
    first = most = 0
    for last, time in enumerate(times):
        while times[first] <= time - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


@given(
    concurrency=st.integers(1, 80),
    per_minute=st.integers(1, 3000),
    latency=st.floats(0.01, 20),
    span=st.floats(1, 90),
)
@settings(max_examples=60)
def test_no_span_of_time_sees_more_than_the_limits_and_they_are_used(
    concurrency, per_minute, latency, span
):
    done = Simulation(Pacer(concurrency, per_minute), latency=lambda: latency).run(120)
    assert _most_in(done.started, span) <= per_minute * (span + 1) / 60 + 1 + 1e-6
    assert done.most_in_flight <= concurrency
    # and the limits are used: whichever binds, all but the first and last latency of it
    possible = min(per_minute / 60, concurrency / latency) * (120 - latency)
    assert len(done.started) >= 0.95 * possible - 1


@given(estimate=st.integers(1, 4000), used=st.integers(1, 4000), latency=st.floats(0.05, 70))
@settings(max_examples=8)
def test_tokens_are_limited_by_what_was_really_used(estimate, used, latency):
    limit = 60_000
    pacer = Pacer(50, tokens_per_minute=limit)
    done = Simulation(pacer, latency=lambda: latency, tokens=(estimate, used)).run(300)
    # an estimate that is too low is corrected only once its request has ended
    unknown = max(0, used - estimate) * done.most_in_flight
    for span in (60, 120):
        most = _most_in(done.started, span) * used
        assert most <= limit * (span + 2) / 60 + 2 * max(used, estimate) + unknown + 1e-6


@pytest.mark.parametrize("says", [True, 3.0], ids=["no-retry-after", "retry-after"])
@pytest.mark.parametrize("capacity", [30, 600])
def test_an_endpoint_with_a_limit_of_its_own_is_used_well_and_seldom_refuses(says, capacity):
    def refuses(now, admitted):
        within = sum(now - 5 < time for time in admitted[-capacity:])
        return says if within >= capacity / 12 else False  # measured over 5 s

    rng = random.Random(0)
    pacer = Pacer(64)
    done = Simulation(pacer, refuses, latency=lambda: rng.lognormvariate(1, 0.5)).run(1200)
    late = [time for time in done.admitted if time > 300]
    assert len(late) > 0.65 * capacity * 900 / 60
    refused = [time for time in done.refused if time > 300]
    assert len(refused) < (1.2 if capacity == 30 else 0.2) * len(late)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("concurrency", [16, 64])
@pytest.mark.parametrize("says", [True, 0.2], ids=["no-retry-after", "retry-after"])
@pytest.mark.parametrize("share", [0.05, 1 / 3])
def test_refusals_that_come_whatever_is_asked_do_not_slow_it(share, says, concurrency, seed):
    rng = random.Random(seed)
    pacer = Pacer(concurrency)
    done = Simulation(pacer, lambda now, admitted: says if rng.random() < share else False).run(400)
    late = [time for time in done.admitted if time > 100]  # an answer takes a second
    assert len(late) > 0.7 * concurrency * 300


@pytest.mark.parametrize("seed", range(5))
def test_a_limit_is_found_among_refusals_that_come_whatever_is_asked(seed):
    rng = random.Random(seed)

    def refuses(now, admitted):
        return sum(now - 1 < time for time in admitted[-20:]) == 20 or rng.random() < 0.2 or False

    done = Simulation(Pacer(64), refuses).run(400)
    late = [time for time in done.admitted if time > 100]
    assert len(late) > 0.6 * 20 * 300
    assert len([time for time in done.refused if time > 100]) < 0.5 * len(late)


def test_an_endpoint_that_refuses_everything_is_asked_ever_more_rarely():
    done = Simulation(Pacer(64), lambda now, admitted: True).run(300)
    assert _most_in([time for time in done.started if time > 60], 25) == 1


def test_it_recovers_when_the_refusals_end():
    pacer = Pacer(64)
    done = Simulation(pacer, lambda now, admitted: True).run(30)
    assert done.windows[-1] == 1
    assert Simulation(pacer).run(120, now=30.0).windows[-1] == 64


def test_refusals_of_one_burst_count_once():
    pacer = Pacer(10)
    tickets = [pacer.start(0.0, 1) for _ in range(10)]
    for ticket in tickets[:5]:
        pacer.refused(1.0, ticket)
    for ticket in tickets[5:]:
        pacer.answered(1.0, ticket)
    assert pacer.window == 7  # half refused: a quarter less
    late = pacer.start(0.5, 1)  # started before the decrease was known
    pacer.refused(1.1, late)
    assert pacer.window == 7


@given(st.lists(st.tuples(st.floats(0.1, 5), st.one_of(st.none(), st.floats(0, 30))), max_size=40))
def test_nothing_starts_before_a_named_time(events):
    pacer = Pacer(100)
    now, until = 0.0, 0.0
    for passed, retry_after in events:
        now += passed
        if pacer.delay(now) == 0:
            assert now >= until
            ticket = pacer.start(now, 1)
            pacer.refused(now, ticket, retry_after)
            until = max(until, now + (retry_after or 0))
        else:
            assert pacer.delay(now) >= until - now - 1e-9


def test_an_endpoint_that_refuses_for_hours_is_asked_every_half_minute():
    done = Simulation(Pacer(1), lambda now, admitted: True).run(40_000)
    assert len(done.started) > 1024
    assert done.started[-1] - done.started[-2] == pytest.approx(30, abs=0.1)
