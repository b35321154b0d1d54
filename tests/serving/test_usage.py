"""How busy replicas are: time integrated over slots, counts of replicas that are gone."""

from __future__ import annotations

from ray_si.engines.base import Completion, Request, SamplingParams
from ray_si.serving.usage import BusyClock, Meter, Usage


def test_busy_time_is_integrated_over_the_slots(monkeypatch):
    now = 100.0
    monkeypatch.setattr("ray_si.serving.usage.time.monotonic", lambda: now)
    clock = BusyClock(slots=4)
    before = Usage()
    for after, running in ((1.0, 2), (3.0, 9), (2.0, 0), (4.0, 0)):
        now += after
        clock.change(running, 0)
    # 1 s with none, 3 s with 2, 2 s with all four (more only wait), 4 s with none
    assert (clock.usage.busy_s, clock.usage.open_s) == (3 * 2 + 2 * 4, 10 * 4)
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
