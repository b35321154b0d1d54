"""How busy replicas are: time integrated over slots, counts of replicas that are gone."""

from __future__ import annotations

import heapq

from hypothesis import given, strategies as st

from ray_si.engines.base import Completion, Request, SamplingParams
from ray_si.serving.usage import BusyClock, Meter, Usage


def test_busy_time_is_integrated_over_the_slots(monkeypatch):
    now = 100.0
    monkeypatch.setattr("ray_si.serving.usage.time.monotonic", lambda: now)
    clock = BusyClock(4, "generator")
    before = Usage()
    for after, running in ((1.0, 2), (3.0, 9), (2.0, 0), (4.0, 0)):
        now += after
        clock.change(running, 0)
    # 1 s with none, 3 s with 2, 2 s with all four (more only wait), 4 s with none
    assert clock.usage.busy_s == {"generator": 3 * 2 + 2 * 4}
    assert clock.usage.open_s == {"generator": 10 * 4}
    assert clock.usage.utilisation_since(before) == 14 / 40
    assert clock.usage.utilisation_since(clock.usage) is None


def test_a_replica_that_is_gone_counts_for_what_it_did_only(monkeypatch):
    now = 0.0
    monkeypatch.setattr("ray_si.serving.usage.time.monotonic", lambda: now)
    meter = Meter()
    request = Request("x", SamplingParams(), 0)
    for name in ("first", "second"):
        usage = Usage(replicas=1, slots=8, running=3)
        usage.count(request, Completion("y", "stop", prompt_tokens=5, completion_tokens=2))
        meter.report(name, usage)
    now = 60.0
    usage.count(request, Completion("", "error", prompt_tokens=5, error="refused"))
    meter.report("second", usage)
    total = meter.total()
    assert (total.replicas, total.slots, total.running) == (1, 8, 3)
    assert total.requests == {"instructions": 3}
    assert total.failed == {"instructions": 1}
    assert total.prompt_tokens == {"instructions": 15}
    assert total.completion_tokens == {"instructions": 4}


def test_the_meter_keeps_the_time_of_each_generators_slots_apart(monkeypatch):
    now, meter = 0.0, Meter()
    monkeypatch.setattr("ray_si.serving.usage.time.monotonic", lambda: now)
    clocks = {"generator": BusyClock(8, "generator"), "instances": BusyClock(8, "instances")}
    clocks["generator"].change(8, 0)
    shown = []
    for _ in range(2):
        now += 10
        for name, clock in clocks.items():
            clock.change(clock.usage.running, 0)
            meter.report(name, clock.usage)
        shown.append(meter.total())
        clocks["instances"].change(4, 0)
    before, after = shown
    assert before.utilisation_since(Usage()) == 0.5
    assert before.utilisation_since(Usage(), "instances") == 0
    assert after.utilisation_since(before, "generator") == 1
    assert after.since(before).utilisation_since(Usage(), "instances") == 0.5
    assert after.utilisation_since(before, "evaluator") is None


def _died(meter, name, running, *, answered=0, reason="RuntimeError: broken"):
    usage = Usage(replicas=1, slots=8)
    for _ in range(answered):
        usage.count(Request("x", SamplingParams(), 0), Completion("y", "stop"))
    keys = frozenset(("instructions", seed) for seed in running)
    return meter.died(name, usage, keys, reason)


def test_engines_that_die_whatever_they_are_asked_are_told_from_a_request_that_kills():
    meter = Meter()
    assert not _died(meter, "a", range(8))
    first = meter.held_back()
    assert first == {("instructions", seed) for seed in range(4, 8)}
    assert not _died(meter, "b", range(4))
    assert meter.held_back() == {("instructions", seed) for seed in range(4)}
    assert _died(meter, "c", range(4, 8))  # no request was there three times
    total = meter.total()
    assert (total.deaths, total.trouble) == (3, "a replica died: RuntimeError: broken")


def test_a_request_that_kills_every_time_may_be_the_reason_so_the_work_goes_on():
    meter = Meter()
    assert not any(_died(meter, str(name), (3, 10 + name)) for name in range(20))


def test_a_node_on_which_starts_keep_failing_is_tried_ever_more_seldom():
    """Eight at a time, failing at once, and 64 tries for all: the others have minutes to load."""
    meter, now, free = Meter(), 0.0, [0.0] * 8
    for _ in range(64):
        now = heapq.heappop(free)
        heapq.heappush(free, now + meter.could_not_start("no such device", "broken"))
    assert now > 300
    assert meter.could_not_start("no such device", "another") < 1
    assert meter.total().failed_starts == 65


def test_an_answer_in_between_shows_that_engines_work():
    meter, request = Meter(), Request("x", SamplingParams(), 0)
    for name in range(20):  # as on the one bad node of many
        usage = Usage(replicas=1, slots=8)
        for _ in range(name + 1):
            usage.count(request, Completion("y", "stop"))
        meter.report("healthy", usage)
        assert not _died(meter, str(name), (name,))
    assert not any(_died(Meter(), name, (0,), answered=1) for name in "abcd")


def test_engines_of_one_bad_node_that_die_first_leave_the_others_at_work():
    """Nobody has answered yet: the models have just been loaded, and answers take a minute."""
    meter = Meter()
    for replica in range(64):
        meter.report(str(replica), Usage(replicas=1, slots=8, running=8))
    bad = [range(8 * replica, 8 * replica + 8) for replica in range(8)]
    assert not any(_died(meter, str(replica), running) for replica, running in enumerate(bad))
    assert (meter.total().replicas, meter.total().deaths) == (56, 8)
    ends = [_died(meter, str(r), range(8 * r, 8 * r + 8)) for r in range(8, 64)]
    assert any(ends)  # they die on every node


def test_replicas_that_have_nothing_to_do_do_not_speak_for_those_that_die():
    """Those of the instructions, say, which are all there."""
    meter = Meter()
    for replica in range(64):
        meter.report(str(replica), Usage(replicas=1, slots=8))
    assert [_died(meter, name, (seed,)) for seed, name in enumerate("abc")] == [False, False, True]


@given(poison=st.integers(0, 40), count=st.integers(2, 41))
def test_held_back_requests_never_are_all_of_those_that_the_last_engine_had(poison, count):
    """However often engines die of one request, each new one has something to begin with."""
    meter, pool = Meter(), [("instructions", seed) for seed in range(count)]
    poison %= count
    for name in range(12):
        running = frozenset(pool) - meter.held_back()
        assert running
        if ("instructions", poison) not in running:
            return  # it answers, which proves the engine
        assert not meter.died(str(name), Usage(replicas=1, slots=8), running, "broken")
    assert count == 2 or name < 12
