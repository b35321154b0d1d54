"""What runs on a Serve replica: an engine with a queue in front of it, or an embedder."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import os
import threading
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.metrics import Counter, Gauge

from ray_si.engines import registry
from ray_si.engines.base import Completion, EngineDiedError, Request, storable
from ray_si.errors import EngineError, GenerationError, RaySIError
from ray_si.serving.autoscaling import REQUESTS, SLOTS
from ray_si.serving.outbox import Call, Outbox
from ray_si.serving.usage import BusyClock, RequestId
from ray_si.serving.versions import versions

_GATHER_SHARE, _GATHER_S, _LONGEST_S = 0.2, 0.03, 5.0
"""So long an answer waits for others to the same client: this share of the time that answers take,
between these seconds, ..."""

_SHORT_SHARE = 0.3
"""... and never more than this share. Clients have half as many requests waiting as there are
slots, so no slot waits for it."""

_RECENT = 64
"""Answers over which it is taken how long they take."""

_REPORT_S = 1.0
"""Time between reports to the meter."""

_SILENT_S = 45.0
"""After so long without an answer to what it is asked, or a step towards one, a replica says so."""

_HEAD_START_S = 10.0
"""Of the other requests before those that killed the last engine, perhaps."""

EMBED_S = 240.0
"""An embedder that takes longer over a call hangs."""

logger = logging.getLogger(__name__)

Order = tuple[int, ...]
"""Requests that wait on a replica are answered smallest first: a round before its successor."""

BEFORE_ROUNDS: Order = (-1,)
AFTER_ROUNDS: Order = (1 << 40,)
"""Orders of what waits for no round, and of what every round goes before; rounds count from 0."""

ReplicaReply = Completion | str
"""A completion, or what the engine raised."""

Reply = tuple[int, ReplicaReply]
"""That to the request of this number."""


class Sender(NamedTuple):
    """Of a call: which client's, and the number that it gave to the first of the requests.

    The next ones have the next numbers; a client uses none twice.
    """

    client: str
    first: int


class Replies(NamedTuple):
    """Some answers to a client, each with the number of its request.

    ``load`` is how many requests ``replica`` has left by then, running and waiting; it may be
    ``next_s`` seconds until it says more.
    """

    replica: str
    load: int
    answers: list[Reply]
    next_s: float = 0.0


class Slots:
    """So many holders at a time; of those who wait, the one with the smallest order is next."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.busy = 0
        self._queue: list[tuple[Order, int, asyncio.Future[None]]] = []
        self._arrivals = itertools.count()
        self._given_up = 0

    @property
    def waiting(self) -> int:
        """How many wait, and have not given up."""
        return len(self._queue) - self._given_up

    @asynccontextmanager
    async def hold(self, order: Order) -> AsyncIterator[None]:
        """A slot, for the time of the block."""
        if self.busy < self._count:
            self.busy += 1
        else:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._queue, (order, next(self._arrivals), turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._pass_on()
                else:
                    self._given_up += 1
                raise
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        while self._queue:
            _, _, turn = heapq.heappop(self._queue)
            if not turn.done():
                turn.set_result(None)
                return
            self._given_up -= 1
        self.busy -= 1


class GeneratorReplica:
    """One engine behind a handle.

    ``meter`` is the run's `Meter`, told of what is done here and of how it ends; ``section`` is
    that of the configuration which this replica is of.
    """

    def __init__(
        self,
        engine: str,
        model: str | None,
        options: dict[str, Any],
        timeout_s: float | None = None,
        meter: Any = None,
        section: str = "generator",
    ) -> None:
        self._meter = meter
        self._id = _replica_id()
        try:
            self._join(engine)
            self._engine = registry.create(engine, model, options)
        except Exception as error:
            if meter is not None:
                node = ray.get_runtime_context().get_node_id()
                with suppress(RayError):  # the meter is being restarted
                    time.sleep(ray.get(meter.could_not_start.remote(str(error), node)))
            raise
        self._slots = Slots(self._engine.capacity)
        self._outboxes: dict[str, Outbox[Reply]] = {}
        self._clock = BusyClock(self._engine.slots, section)
        self._timeout_s = timeout_s
        self._running: set[RequestId] = set()
        self._held_back: frozenset[RequestId] = frozenset()
        if meter is not None:
            with suppress(RayError):
                self._held_back = ray.get(meter.held_back.remote())
        self._proven = asyncio.Event()  # an answer has come
        self._last_sign = time.monotonic()  # of life: an answer, or a step of the engine
        self._mark: object = None
        self._usual_s = 0.0  # that an answer takes, of late
        self._death: asyncio.Task[None] | None = None
        self._is_unfit = False
        self._metrics = _Metrics()
        self._reports: asyncio.Task[None] | None = None

    def _join(self, engine: str) -> None:
        """Tell the versions of what writes the answers; EngineError where others have others."""
        problem = None
        if self._meter is not None:
            with suppress(RayError):
                problem = ray.get(self._meter.joins.remote(engine, versions()))
        if problem:
            raise EngineError(f"this replica has {problem}")

    def slots(self) -> int:
        """Requests that the engine answers at a time."""
        return self._engine.slots

    async def answer(
        self, requests: list[Request], order: Order, sender: Sender
    ) -> AsyncIterator[Replies]:
        """Answers to this client as they come, some at a time, those to its other calls as well.

        It ends once these requests are answered, here or there.
        """
        if self._reports is None:  # the constructor runs outside the loop
            self._reports = asyncio.create_task(self._report())
        if not requests:
            return
        outbox = self._outboxes.setdefault(sender.client, Outbox(self._gather_s))
        call = outbox.open(len(requests))
        work = [
            asyncio.create_task(self._answer(sender.first + index, request, order, call))
            for index, request in enumerate(requests)
        ]
        try:
            async for answers in call.messages():
                load = self._slots.busy + self._slots.waiting
                yield Replies(self._id, load, answers, self._gather_s())
        finally:
            for task in work:  # whoever asked may be gone
                task.cancel()
            outbox.close(call)
            if outbox.is_idle and self._outboxes.get(sender.client) is outbox:
                del self._outboxes[sender.client]

    def _gather_s(self) -> float:
        share_s = min(max(_GATHER_SHARE * self._usual_s, _GATHER_S), _LONGEST_S)
        return min(share_s, _SHORT_SHARE * self._usual_s)

    async def _answer(self, number: int, request: Request, order: Order, call: Call[Reply]) -> None:
        try:
            call.add((number, await self._one(request, order)))
        except asyncio.CancelledError:  # by the engine, or nobody reads the call any more
            call.fail(RuntimeError("the engine cancelled a request"))
            raise
        except BaseException as error:  # noqa: BLE001 - raised where the call is read
            call.fail(error)

    async def _one(self, request: Request, order: Order) -> ReplicaReply:
        if (request.purpose, request.seed) in self._held_back and not self._proven.is_set():
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._proven.wait(), _HEAD_START_S)
        try:
            async with self._slots.hold(order):
                self._note()
                completion = await self._ask(request)
        except RaySIError:
            raise
        except Exception as error:  # noqa: BLE001 - handed to the caller, who asks again
            return storable(f"{type(error).__name__}: {error}")
        finally:
            self._note()
        self._proven.set()
        self._last_sign = time.monotonic()
        self._clock.usage.count(request, completion)
        self._metrics.count(request, completion)
        return completion

    async def _ask(self, request: Request) -> Completion:
        key = (request.purpose, request.seed)
        if not self._running:
            self._last_sign = time.monotonic()  # it had nothing to answer until now
        self._running.add(key)
        began = time.monotonic()
        try:
            answer = await asyncio.wait_for(self._engine.generate(request), self._timeout_s)
            self._usual_s += (time.monotonic() - began - self._usual_s) / _RECENT
            return answer
        except asyncio.TimeoutError:
            return Completion("", "error", error=f"no answer within {self._timeout_s:g} s")
        except EngineDiedError as error:
            await self._die(str(error))
            raise AssertionError("unreachable") from error
        finally:
            self._running.discard(key)

    async def _die(self, reason: str) -> None:
        """End this process, so that Serve replaces it at once and its requests are asked elsewhere.

        Raises GenerationError instead where that would go on for ever.
        """
        if self._death is None:
            self._death = asyncio.create_task(self._tell(reason, frozenset(self._running)))
        await asyncio.shield(self._death)

    async def _tell(self, reason: str, running: frozenset[RequestId]) -> None:
        logger.critical("the engine of this replica is dead: %s", reason)
        if await self._told_meter(reason, running):
            raise GenerationError(
                f"engine after engine died before it answered anything, whatever it was asked; "
                f"the last said: {reason}"
            )
        os._exit(1)

    async def _told_meter(self, reason: str, running: frozenset[RequestId]) -> bool:
        """Tell how the engine ended; whether others would, too."""
        is_useless = False
        if self._meter is not None:
            with suppress(RayError):  # the meter is being restarted
                is_useless = await self._meter.died.remote(
                    self._id, self._clock.usage, running, reason
                )
        return is_useless

    def _note(self) -> None:
        self._clock.change(self._slots.busy, self._slots.waiting)

    async def _report(self) -> None:
        while True:
            self._note()
            usage = self._clock.usage
            if (mark := self._engine.mark()) != self._mark:  # long answers are no trouble
                self._mark, self._last_sign = mark, time.monotonic()
            silent_s = time.monotonic() - self._last_sign
            usage.trouble = ""
            if self._running and silent_s > _SILENT_S:
                usage.trouble = (
                    f"a replica gives no answer to {len(self._running)} requests, for more than "
                    f"{_SILENT_S:g} s"
                )
            self._metrics.set(usage.slots, usage.running, usage.waiting)
            if self._meter is not None:
                self._meter.report.remote(self._id, usage)
            await asyncio.sleep(_REPORT_S)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve hands on to `ray_si.serving.autoscaling`."""
        return {REQUESTS: self._slots.busy + self._slots.waiting, SLOTS: self._engine.slots}

    async def check_health(self) -> None:
        """Serve replaces the replica when this raises."""
        try:
            self._engine.check_health()
        except EngineDiedError as error:
            await self._die(str(error))
        except Exception as error:
            if not self._is_unfit:
                self._is_unfit = True  # Serve looks again before it replaces the replica
                await self._told_meter(str(error), frozenset(self._running))
            raise

    def __del__(self) -> None:
        """Serve calls this before it ends the process."""
        if hasattr(self, "_engine"):
            self._engine.close()


def _replica_id() -> str:
    """As Serve knows this replica; where it is none of Serve's, some other."""
    try:
        name: str = serve.get_replica_context().replica_id.unique_id
    except RayServeException:
        return uuid.uuid4().hex
    return name


class _Metrics:
    """What Prometheus sees; Ray puts "ray_" before each name."""

    def __init__(self) -> None:
        tags = ("purpose",)
        self._requests = Counter("si_requests", "Requests answered", (*tags, "finish_reason"))
        self._prompt = Counter("si_prompt_tokens", "Tokens of prompts answered", tags)
        self._completion = Counter("si_completion_tokens", "Tokens written", tags)
        self._slots = Gauge("si_slots", "Requests a replica can answer at once")
        self._running = Gauge("si_running_requests", "Requests being answered")
        self._waiting = Gauge("si_waiting_requests", "Requests queued on a replica")

    def count(self, request: Request, completion: Completion) -> None:
        tags = {"purpose": request.purpose}
        self._requests.inc(1, tags | {"finish_reason": completion.finish_reason})
        if completion.prompt_tokens:
            self._prompt.inc(completion.prompt_tokens, tags)
        if completion.completion_tokens:
            self._completion.inc(completion.completion_tokens, tags)

    def set(self, slots: int, running: int, waiting: int) -> None:
        self._slots.set(slots)
        self._running.set(min(running, slots))
        self._waiting.set(waiting + max(0, running - slots))


class EmbedderReplica:
    """One sentence-transformers model behind a handle, on this torch ``device``."""

    def __init__(self, model: str, device: str | None) -> None:
        self._id = _replica_id()
        self._embedder = registry.embedder(model, device)
        self._lock = threading.Lock()  # Serve has a thread for each call
        self._began: dict[object, float] = {}  # of the calls under way
        self._since = 0.0  # the first of them came, or one ended

    def encode(self, texts: list[str]) -> tuple[np.ndarray, float, str]:
        """Embeddings, float32, shape (len(texts), dimension), the seconds they took, and whose.

        Of calls at one time each second counts for one only, so that their sum is that of the time
        in which this embedder worked.
        """
        call = object()
        with self._lock:
            now = time.monotonic()
            if not self._began:
                self._since = now
            self._began[call] = now
        try:
            vectors = self._embedder.encode(texts)
        finally:
            with self._lock:
                now = time.monotonic()
                seconds, self._since = now - self._since, now
                del self._began[call]
        return vectors, seconds, self._id

    async def check_health(self) -> None:
        """Serve replaces the replica when this raises: where a call hangs.

        A coroutine, since what is none waits for a thread, and those are the calls'.
        """
        with self._lock:
            now = time.monotonic()
            silent_s = now - min(self._began.values(), default=now)
        if silent_s > EMBED_S:
            raise EngineError(f"the embedder has not answered for {silent_s:.0f} s")
