"""The queue in front of an engine, and what is counted of it."""

from __future__ import annotations

import asyncio
import heapq
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, strategies as st
from ray.exceptions import RayActorError

from ray_si.engines.base import EngineDiedError, Request, SamplingParams
from ray_si.errors import EngineError, GenerationError
from ray_si.serving.replicas import GeneratorReplica, Sender, Slots
from ray_si.serving.usage import Meter


@given(
    count=st.integers(1, 4),
    orders=st.lists(st.tuples(st.integers(0, 3)), min_size=1, max_size=30),
)
def test_slots_are_taken_by_order_then_arrival_and_never_by_too_many(count, orders):
    async def run() -> tuple[list[int], int]:
        slots, taken, busiest = Slots(count), [], 0

        async def one(index: int) -> None:
            nonlocal busiest
            async with slots.hold(orders[index]):
                taken.append(index)
                busiest = max(busiest, slots.busy)
                await asyncio.sleep(0)

        await asyncio.gather(*map(one, range(len(orders))))
        assert (slots.busy, slots.waiting) == (0, 0)
        return taken, busiest

    taken, busiest = asyncio.run(run())
    waiting = [(orders[i], i) for i in range(count, len(orders))]
    heapq.heapify(waiting)
    expected = list(range(min(count, len(orders))))
    expected += [heapq.heappop(waiting)[1] for _ in range(len(waiting))]
    assert taken == expected
    assert busiest == min(count, len(orders))


def test_one_who_gives_up_waiting_takes_no_slot_and_keeps_none():
    async def run() -> list[str]:
        slots, taken = Slots(1), []

        async def one(name: str) -> None:
            async with slots.hold((0,)):
                taken.append(name)
                await asyncio.sleep(0.01)

        first, second, third = (asyncio.create_task(one(name)) for name in "abc")
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(first, third)
        assert (slots.busy, slots.waiting) == (0, 0)
        return taken

    assert asyncio.run(run()) == ["a", "c"]


def test_a_slot_passed_on_in_the_moment_of_giving_up_is_passed_on_again():
    async def run() -> list[str]:
        slots, taken = Slots(1), []
        last: asyncio.Task[None] | None = None

        async def one(name: str) -> None:
            async with slots.hold((0,)):
                taken.append(name)
                if name == "a":
                    await asyncio.sleep(0.01)

        async def first() -> None:
            async with slots.hold((0,)):
                await asyncio.sleep(0.01)
            second.cancel()  # it has been handed the slot, and has not run since

        holder = asyncio.create_task(first())
        await asyncio.sleep(0)
        second = asyncio.create_task(one("b"))
        last = asyncio.create_task(one("c"))
        await asyncio.gather(holder, last)
        assert (slots.busy, slots.waiting) == (0, 0)
        return taken

    assert asyncio.run(run()) == ["c"]


class _Dying:
    """An engine whose workers die once it is asked something."""

    slots = capacity = 4

    async def generate(self, request):
        raise EngineDiedError("RuntimeError: CPU Generator does not use offset")

    def check_health(self):
        pass

    def mark(self):
        return None

    def close(self):
        pass


def test_the_third_of_engines_that_die_over_anything_ends_the_work_with_its_last_error(
    ray_session, monkeypatch
):
    """In this process, where a replica that ends itself must not end the tests."""
    import ray

    from ray_si.serving import replicas

    class Ended(BaseException):
        pass

    def end(status):
        raise Ended

    monkeypatch.setattr(replicas.registry, "create", lambda *arguments: _Dying())
    monkeypatch.setattr(replicas.os, "_exit", end)
    meter = ray.remote(num_cpus=0)(Meter).remote()

    async def ask(seeds):
        replica = GeneratorReplica("vllm", "m", {}, None, meter)
        requests = [Request("x", SamplingParams(), seed) for seed in seeds]
        async for _ in replica.answer(requests, (0,), Sender("client", 0)):
            pass

    for seeds in ((0, 1), (2, 3)):
        with pytest.raises(Ended):
            asyncio.run(ask(seeds))
    with pytest.raises(
        GenerationError, match=r"whatever it was asked; the last said: RuntimeErr.*"
    ):
        asyncio.run(ask((4, 5)))
    assert ray.get(meter.total.remote()).deaths == 3


def test_an_engine_that_dies_while_the_meter_is_away_ends_its_replica_all_the_same(
    ray_session, monkeypatch
):
    import ray

    from ray_si.serving import replicas

    statuses = []
    monkeypatch.setattr(replicas.registry, "create", lambda *arguments: _Dying())
    monkeypatch.setattr(replicas.os, "_exit", statuses.append)
    meter = ray.remote(num_cpus=0)(Meter).remote()
    ray.get(meter.total.remote())

    async def ask():
        replica = GeneratorReplica("vllm", "m", {}, None, meter)
        ray.kill(meter)
        with suppress(RayActorError):
            while True:
                await meter.total.remote()
        await replica._die("its workers are dead")

    asyncio.run(ask())
    assert statuses == [1]


def test_those_who_gave_up_waiting_do_not_count_as_waiting():
    async def run() -> list[int]:
        slots, waiting = Slots(1), []

        async def one() -> None:
            async with slots.hold((0,)):
                await asyncio.sleep(0.01)

        tasks = [asyncio.create_task(one()) for _ in range(4)]
        await asyncio.sleep(0)
        waiting.append(slots.waiting)
        tasks[2].cancel()
        await asyncio.sleep(0)
        waiting.append(slots.waiting)
        await asyncio.gather(*tasks, return_exceptions=True)
        return [*waiting, slots.waiting, slots.busy]

    assert asyncio.run(run()) == [3, 2, 0, 0]


class _Embedder:
    """Takes as many seconds as the first text says, or until it is told."""

    def __init__(self):
        self.told = threading.Event()

    def encode(self, texts):
        if texts[0] == "wait":
            self.told.wait(60)
        else:
            time.sleep(float(texts[0]))
        return np.zeros((len(texts), 2), np.float32)


@pytest.fixture
def embedder_replica(monkeypatch):
    from ray_si.serving import replicas

    monkeypatch.setattr(replicas.registry, "embedder", lambda model, device: _Embedder())
    return replicas.EmbedderReplica("m", None)


def test_each_second_of_an_embedder_counts_for_one_of_its_calls(embedder_replica):
    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(embedder_replica.encode, [text]) for text in ("0.5", "0.6", "0.2")]
    took = time.monotonic() - began
    assert 0.6 <= sum(call.result()[1] for call in calls) <= took


def test_an_embedder_that_hangs_is_replaced_and_one_that_waits_for_work_is_not(
    embedder_replica, monkeypatch
):
    from ray_si.serving import replicas

    monkeypatch.setattr(replicas, "EMBED_S", 0.2)
    embedder_replica.encode(["0"])
    time.sleep(0.3)
    asyncio.run(embedder_replica.check_health())
    with ThreadPoolExecutor(1) as pool:
        pool.submit(embedder_replica.encode, ["wait"])
        time.sleep(0.5)
        embedder_replica.encode(["0"])  # others may be answered beside it
        with pytest.raises(EngineError, match="the embedder has not answered for"):
            asyncio.run(embedder_replica.check_health())
        embedder_replica._embedder.told.set()


def test_a_request_that_its_engine_cancels_ends_its_call_with_an_error(ray_session, monkeypatch):
    from ray_si.serving import replicas

    class Cancelling(_Dying):
        async def generate(self, request):
            raise asyncio.CancelledError

    monkeypatch.setattr(replicas.registry, "create", lambda *arguments: Cancelling())

    async def ask():
        replica = GeneratorReplica("vllm", "m", {})
        requests = [Request("x", SamplingParams(), 0)]
        async for _ in replica.answer(requests, (0,), Sender("client", 0)):
            pass

    with pytest.raises(RuntimeError, match="cancelled a request"):
        asyncio.run(asyncio.wait_for(ask(), 20))


class _Long(_Dying):
    """An engine whose answers take for ever, and whose steps the test takes."""

    steps = 0

    async def generate(self, request):
        await asyncio.sleep(3600)

    def mark(self):
        return self.steps


def test_a_long_answer_is_no_trouble_while_its_engine_takes_steps(ray_session, monkeypatch):
    import ray

    from ray_si.serving import replicas

    engine = _Long()
    monkeypatch.setattr(replicas.registry, "create", lambda *arguments: engine)
    monkeypatch.setattr(replicas, "_REPORT_S", 0.01)
    monkeypatch.setattr(replicas, "_SILENT_S", 0.5)
    meter = ray.remote(num_cpus=0)(Meter).remote()

    async def ask():
        replica = GeneratorReplica("vllm", "m", {}, None, meter)
        requests = [Request("x", SamplingParams(), seed) for seed in range(3)]
        asking = asyncio.ensure_future(anext(replica.answer(requests, (0,), Sender("client", 0))))
        for _ in range(100):
            engine.steps += 1
            await asyncio.sleep(0.01)
        while_it_steps = (await meter.total.remote()).trouble
        await asyncio.sleep(1)
        asking.cancel()
        replica._reports.cancel()
        return while_it_steps, (await meter.total.remote()).trouble

    assert asyncio.run(ask()) == (
        "",
        "a replica gives no answer to 3 requests, for more than 0.5 s",
    )


def test_a_replica_that_cannot_start_is_counted_with_its_reason(ray_session):
    import ray

    meter = ray.remote(num_cpus=0)(Meter).remote()
    with pytest.raises(EngineError, match="could not be loaded"):
        GeneratorReplica("transformers", "/nowhere/at/all", {}, None, meter)
    total = ray.get(meter.total.remote())
    assert total.failed_starts == 1
    assert total.trouble.startswith("a replica could not start: ")
