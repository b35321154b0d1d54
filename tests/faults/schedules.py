"""A driver under a seeded schedule: `ray-si build` with pauses and failures wherever it waits.

    python -m tests.faults.schedules '{"seed": 5, "pause": 0.2, "fail": 0.01}' build CONFIG ...

Every call of the store, and every await in a coroutine of ray_si, in the driver and in Ray's
workers, may pause (``pause`` is the share) or fail (``fail``): before what is called, or after it,
so that only the answer is lost. Draws are seeded; which call gets which draw is up to the threads.
``ttl_s`` is that of leases, ``dump_s`` when to say where every thread stands.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import os
import random
import sys
import threading
import time
import types

from ray_si.errors import StorageLostError
from ray_si.storage import lease
from ray_si.storage.local import LocalObjects

VARIABLE = "RAY_SI_TEST_SCHEDULE"
"""Environment variable by which workers know of the schedule."""

STORE_CALLS = ("get", "put", "put_if_absent", "adopt", "list", "delete")
LONGEST_PAUSE_S = 0.25


class InjectedError(Exception):
    """A failure where there should be none."""


class Draws:
    """What befalls the next call: "pause", "fail before", "fail after" or nothing."""

    def __init__(self, seed: str, pause: float, fail: float) -> None:
        self._rng, self._pause, self._fail = random.Random(seed), pause, fail
        self._lock = threading.Lock()

    def next(self) -> tuple[str, float]:
        with self._lock:
            draw, pause_s = self._rng.random(), self._rng.random() ** 3 * LONGEST_PAUSE_S
        if draw < self._fail:
            return ("fail before" if draw < self._fail / 2 else "fail after"), pause_s
        return ("pause" if draw < self._fail + self._pause else ""), pause_s


def disturb_store(draws: Draws, patch=setattr) -> None:
    """Have calls of local stores pause and fail."""

    def disturbed(name):
        original = getattr(LocalObjects, name)

        def method(self, *arguments):
            what, pause_s = draws.next()
            if what == "pause":
                time.sleep(pause_s)
            if what == "fail before":
                raise StorageLostError(f"{name} failed, as scheduled")
            result = original(self, *arguments)
            if name == "list":
                result = iter(list(result))
            if what == "fail after":
                raise StorageLostError(f"the answer to {name} was lost, as scheduled")
            return result

        return method

    for name in STORE_CALLS:
        patch(LocalObjects, name, disturbed(name))


def disturb_awaits(draws: Draws, patch=setattr) -> None:
    """Have coroutines of ray_si pause, and seldom fail, at each await of theirs."""
    create = asyncio.BaseEventLoop.create_task

    def create_task(self, coroutine, **options):
        code = getattr(coroutine, "cr_code", None)
        if code is not None and "/ray_si/" in code.co_filename:
            coroutine = _disturbed(coroutine, draws)
        return create(self, coroutine, **options)

    patch(asyncio.BaseEventLoop, "create_task", create_task)


async def _disturbed(coroutine, draws: Draws):
    return await _steps(coroutine, draws)


@types.coroutine
def _steps(coroutine, draws: Draws):
    """The coroutine's own steps, with something in front of some of them."""
    value, error = None, None
    while True:
        what, pause_s = draws.next()
        try:
            if what == "pause" and error is None:
                yield from asyncio.sleep(pause_s).__await__()
            elif what and error is None:
                error = InjectedError("raised at an await, as scheduled")
        except BaseException as cancelled:  # noqa: BLE001 - it is the coroutine's
            error = cancelled
        try:
            waits_for = coroutine.send(value) if error is None else coroutine.throw(error)
        except StopIteration as end:
            return end.value
        value, error = None, None
        try:
            value = yield waits_for
        except BaseException as raised:  # noqa: BLE001 - handed on
            error = raised


def install() -> None:
    """Disturb this process; in Ray's workers it is called as they start."""
    plan = json.loads(os.environ[VARIABLE])
    name = f"{plan['seed']}/{os.path.basename(sys.argv[0])}/{time.time_ns()}"
    disturb_store(Draws(f"{name}/store", plan["pause"], plan["fail"]))
    disturb_awaits(Draws(f"{name}/awaits", plan["pause"] / 4, plan["fail"] / 20))


if __name__ == "__main__":
    given, *arguments = sys.argv[1:]
    schedule = json.loads(given)
    os.environ[VARIABLE] = given
    lease.TTL_S = schedule["ttl_s"]
    faulthandler.dump_traceback_later(schedule["dump_s"])
    import logging

    import ray

    from ray_si.cli import app

    if schedule["pause"] or schedule["fail"]:
        install()
        ray.init(
            schedule["address"],
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={
                "worker_process_setup_hook": "tests.faults.schedules.install",
                "env_vars": {VARIABLE: given},
            },
        )
    app(arguments)
