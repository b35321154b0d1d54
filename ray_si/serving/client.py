"""Requests to generator applications, from any Ray worker: many in flight, in few calls."""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from ray import serve
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus, ReplicaState

from ray_si.engines.base import Completion, Request
from ray_si.errors import BudgetError, GenerationError, RaySIError, one_line
from ray_si.serving.background import in_thread
from ray_si.serving.loads import LOADS, RUNNING
from ray_si.serving.replicas import Order, ReplicaReply, Replies, Sender

_CALL_SIZE = 32
"""Most requests in one Serve call: a call costs the same for one as for many."""

_CALLS = 6
"""Calls at the least that a window is asked for in. It has half as many requests again as there are
slots, so a full call can wait until there is room for all of it and no slot runs dry."""

_FILL = 4
"""Calls at the least that fill a replica: each goes to one replica whole, and a larger one would be
too much for it while another runs dry."""

_GATHER_S = 0.005
"""Requests that come within so long of one another travel together."""

_GROW_S = 0.5
"""Between looks at whether more replicas have come to send the rest to."""

_ATTEMPTS = 4
"""Tries of a request that fails on its replica before it becomes an error row."""

_DEATHS = 2
"""Deaths of replicas that a request may have witnessed before it is suspected of causing them."""

_DEATHS_ALONE = 3
"""Deaths that it must witness alone before it becomes an error row. With two, and replicas killed
every four seconds from outside, one of hundreds of innocent requests became one."""

_LOOK_S = 20.0
"""With no answer for so long, Serve is asked whether the replicas are all right ..."""

_PATIENCE_S = 60.0
"""... and with none for so long, a Serve that cannot be asked ends the work."""

_WORD_S = 5.0
"""For Serve's answer: a controller that is being restarted gives none, and work goes on."""

_START_S = 600.0
"""With no answer for so long, and no replica after starts that failed, the work ends: one start may
fail where the next one loads its model for minutes."""

_STRAY_S = 10.0
"""After a call has ended, for the message with its last answers, which another call brings."""

_PAUSE_S = 1.0
"""Before requests that Serve did not take are made again. Before one that failed on its replica is,
between half of it and half as much again, and twice that each further time: so a short trouble does
not use its tries up, and what failed together does not come back together."""

_REMOVED = "the generator was removed while it was needed"
_OVER = (
    "budget.hours are over, and no replica of the generator is left; what is finished is kept: "
    "build again with more hours"
)

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Item:
    request: Request
    answer: asyncio.Future[Completion]
    attempts: int = 0
    deaths: int = 0
    deaths_alone: int = 0


class _Call:
    """What is on its way in one call, by number."""

    def __init__(self, left: dict[int, _Item]) -> None:
        self.left = left
        self.is_answered = asyncio.Event()

    def pop(self, number: int) -> _Item:
        """The item that was given this number; it is answered."""
        item = self.left.pop(number)
        if not self.left:
            self.is_answered.set()
        return item


class Client:
    """Asks one application, with at most ``window`` requests on their way at a time.

    Where ``replicas`` share that window and some have not come yet, only the others' shares are
    sent: what waits on the first would leave the later ones idle. ``replica_slots`` are those of
    one replica, where they are known. After ``until``, in seconds since the epoch, the work ends
    where all replicas are gone and none comes.

    Replicas that die or raise are survived, and so is a Serve that fails for a while. A request
    that fails on living replicas is tried a few times; those that saw replicas die are tried again
    by themselves, in halves, until the one that kills stands alone. What fails for good comes back
    with finish_reason "error". Whatever happens to a call, each of its requests is answered, made
    again, or fails with GenerationError.
    """

    def __init__(
        self,
        app: str,
        window: int,
        order: Order,
        replicas: int = 1,
        replica_slots: int | None = None,
        until: float | None = None,
    ) -> None:
        self._app, self._window, self._order, self._until = app, window, order, until
        self._replicas = replicas
        self._most_a_call = min(_CALL_SIZE, (replica_slots or window) // _FILL)
        self._handle: Any = None
        self._resolving: asyncio.Future[Any] | None = None
        self._queue: deque[_Item] = deque()
        self._suspects: list[_Item] = []
        self._open: set[_Item] = set()
        self._id = uuid.uuid4().hex
        self._numbered = 0  # requests sent so far, repeated ones among them
        self._calls: dict[int, _Call] = {}  # by number
        self._in_flight = 0
        self._is_waking = self._is_growing = self._is_on_trial = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_answer = time.monotonic()
        self._trouble_began: float | None = None
        self._asked: dict[Callable[[str], Any], asyncio.Future[Any]] = {}  # what Serve is
        self._failure: Callable[[], RaySIError] | None = None
        self._is_closed = False

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Look after the application while requests are on their way."""
        self._start(self._watch())
        try:
            yield
        finally:
            self._is_closed = True
            self._queue.clear()
            for task in self._tasks:
                task.cancel()

    async def ask(self, request: Request) -> Completion:
        """The answer.

        Raises GenerationError when the application is gone or cannot recover, BudgetError when its
        replicas are gone and the time is over.
        """
        if self._failure:
            raise self._failure()
        item = _Item(request, asyncio.get_running_loop().create_future())
        self._open.add(item)
        self._queue.append(item)
        self._wake()
        try:
            return await item.answer
        finally:
            self._open.discard(item)

    # Sending -----------------------------------------------------------------------------------

    def _wake(self) -> None:
        if not self._is_waking:
            self._is_waking = True
            asyncio.get_running_loop().call_later(_GATHER_S, self._send)

    def _send(self) -> None:
        self._is_waking = False
        if self._is_on_trial or self._failure or self._is_closed:
            return
        if self._suspects:
            if not self._in_flight:
                self._is_on_trial = True
                self._start(self._try_suspects())
            return
        room = self._room()
        if self._queue and room < self._window and not self._is_growing:
            self._is_growing = True
            asyncio.get_running_loop().call_later(_GROW_S, self._grow)
        full = max(1, min(self._most_a_call, room // _CALLS))
        while self._queue:
            size = min(full, len(self._queue))
            if self._in_flight + size > room:
                return  # freed places gather until a call is full
            items = [self._queue.popleft() for _ in range(size)]
            self._in_flight += size  # now, since the call starts later
            self._start(self._call(items))

    def _room(self) -> int:
        """The window's share of the replicas that are there; of one, before the first call."""
        running = min(max(1, RUNNING.get(self._app, 0)), self._replicas)
        return -(-self._window * running // self._replicas)

    def _grow(self) -> None:
        self._is_growing = False
        self._wake()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            if not self._is_closed:
                self._give_up("the generator cannot be asked: the asking was cancelled")
        elif error := task.exception():
            name = type(error).__name__
            self._give_up(f"the generator cannot be asked: {name}: {short(error)}")

    async def _call(self, items: list[_Item]) -> None:
        for item in await self._try(items):
            item.deaths += 1
            if item.deaths > _DEATHS:
                self._suspects.append(item)
            else:
                self._queue.appendleft(item)
        self._wake()

    async def _try(self, items: Sequence[_Item]) -> list[_Item]:
        """Answer requests that count as in flight; those that their replica's death left over.

        Requests that Serve did not take are queued again.
        """
        call, sender = self._numbers(items)
        left = call.left
        try:
            handle = await self._resolved()
            requests = [item.request for item in items]
            replies: Replies
            response = handle.answer.remote(requests, self._order, sender)
            try:
                async for replies in response:
                    self._last_answer, self._trouble_began = time.monotonic(), None
                    LOADS.told(replies.replica, replies.load, replies.next_s)
                    for number, answer in replies.answers:
                        self._answered(number, answer)
                    self._wake()
            except asyncio.CancelledError as error:
                with suppress(RayError, RayServeException):  # it has failed by itself
                    response.cancel()
                if self._is_closed:  # nobody wants the rest
                    raise
                raise RayServeException("a call was cancelled, and not from here") from error
            if left:  # another call brings the answers
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(call.is_answered.wait(), _STRAY_S)
            if left:  # none has
                self._leave_outboxes(sender)
        except (RayActorError, RayTaskError, OutOfMemoryError) as error:
            self._leave_outboxes(sender)
            cause = getattr(error, "cause", None)
            if isinstance(cause, RaySIError):  # the engine means it: asking again is no use
                self._give_up(str(cause))
            elif await self._is_gone():
                self._give_up(_REMOVED)
            logger.warning("a generator replica failed (%s); %d again", short(error), len(left))
            return list(left.values())
        except Exception as error:  # noqa: BLE001 - Serve's own, of many kinds
            self._handle = None
            self._leave_outboxes(sender)
            await self._outlast(error)
            self._queue.extend(left.values())
        else:
            for item in left.values():
                self._settle(item, "the replica did not answer it")
        finally:
            self._in_flight -= len(left)
            for number in left:
                del self._calls[number]
        return []

    def _numbers(self, items: Sequence[_Item]) -> tuple[_Call, Sender]:
        first = self._numbered
        self._numbered += len(items)
        call = _Call(dict(enumerate(items, first)))
        self._calls |= dict.fromkeys(call.left, call)
        return call, Sender(self._id, first)

    def _leave_outboxes(self, sender: Sender) -> None:
        """Begin new ones: a call that failed here may live on there, and nobody reads it.

        So may one that Serve made again by itself, on another replica.
        """
        if sender.client == self._id:  # else they have been left since
            self._id = uuid.uuid4().hex

    def _answered(self, number: int, answer: ReplicaReply) -> None:
        """An answer has come, in whichever call; perhaps to what was asked again meanwhile."""
        if call := self._calls.pop(number, None):
            self._in_flight -= 1
            self._settle(call.pop(number), answer)

    async def _resolved(self) -> Any:
        """The application's handle, which the controller is asked for once, beside the loop."""
        if self._handle is None:
            # one question for all calls that wait, and none of them can keep it from the others
            if self._resolving is None:
                question = in_thread(serve.get_app_handle, self._app)
                self._resolving = asyncio.wrap_future(question)
            try:
                handle = await asyncio.shield(self._resolving)
            finally:
                self._resolving = None
            self._handle = handle.options(stream=True)
        return self._handle

    async def _outlast(self, error: Exception) -> None:
        """Wait a little for a Serve that failed; give up on one that has failed for long."""
        now = time.monotonic()
        self._trouble_began = self._trouble_began or now
        if now - self._trouble_began > _PATIENCE_S or await self._is_gone():
            self._give_up(f"the generator cannot be asked: {short(error)}")
        else:
            logger.warning("the generator cannot be asked (%s); again", short(error))
            await asyncio.sleep(_PAUSE_S)

    def _settle(self, item: _Item, answer: ReplicaReply) -> None:
        if isinstance(answer, str):
            item.attempts += 1
            if item.attempts < _ATTEMPTS:
                logger.warning("a request failed (%s); again", one_line(answer))
                pause_s = _PAUSE_S * 2 ** (item.attempts - 1) * (0.5 + random.random())
                asyncio.get_running_loop().call_later(pause_s, self._again, item)
                return
            answer = Completion("", "error", error=answer)
        if not item.answer.done():
            item.answer.set_result(answer)

    def _again(self, item: _Item) -> None:
        if not item.answer.done():  # else nobody waits for it any more
            self._queue.append(item)
            self._wake()

    # When replicas die -------------------------------------------------------------------------

    async def _try_suspects(self) -> None:
        """Find the requests that kill, with nothing else of this process on its way."""
        groups, self._suspects = [self._suspects], []
        while groups:
            group = groups.pop()
            self._in_flight += len(group)
            left = await self._try(group)
            if len(left) > 1:
                middle = len(left) // 2
                groups += [left[middle:], left[:middle]]
            elif left:
                left[0].deaths_alone += len(group) == 1
                if left[0].deaths_alone < _DEATHS_ALONE:
                    groups.append(left)
                else:
                    died = "the replica died with this request, every time"
                    self._settle(left[0], Completion("", "error", error=died))
        self._is_on_trial = False
        self._wake()

    async def _watch(self) -> None:
        while not (self._failure or self._is_closed):
            await asyncio.sleep(_LOOK_S)
            silent_s = time.monotonic() - self._last_answer
            if not self._in_flight or silent_s < _LOOK_S:
                continue
            if await self._is_gone():
                self._give_up(_REMOVED)
            elif silent_s > _START_S and (reason := await self._ask_serve(start_failure)):
                self._give_up(f"the generator's replicas cannot start again: {reason}")
            elif silent_s > _START_S and self._is_over and RUNNING.get(self._app) == 0:
                self._give_up(_OVER, BudgetError)

    @property
    def _is_over(self) -> bool:
        return self._until is not None and time.time() >= self._until

    async def _is_gone(self) -> bool:
        """Whether Serve says that the application was removed."""
        return await self._ask_serve(_is_up) is False

    async def _ask_serve(self, question: Callable[[str], T]) -> T | None:
        """What Serve's controller says of the application; None while it does not answer.

        Whoever asks the same meanwhile gets the same answer. One that fails to come, as while the
        controller is restarted, is not waited for, and costs one thread.
        """
        if question not in self._asked:
            asked = asyncio.wrap_future(in_thread(question, self._app))
            asked.add_done_callback(partial(self._told, question))
            self._asked[question] = asked
        try:
            return await asyncio.wait_for(asyncio.shield(self._asked[question]), _WORD_S)
        except Exception as error:  # noqa: BLE001 - Serve's own, of many kinds
            logger.warning("Serve says nothing of %s: %s", self._app, short(error))
            return None

    def _told(self, question: Callable[[str], Any], asked: asyncio.Future[Any]) -> None:
        del self._asked[question]
        if not asked.cancelled():
            asked.exception()  # seen, also where nobody waits for it any more

    def _give_up(self, reason: str, kind: type[RaySIError] = GenerationError) -> None:
        """Fail every request that waits, and every later one."""
        self._failure = self._failure or partial(kind, reason)
        self._queue.clear()
        self._suspects.clear()
        for item in list(self._open):
            if not item.answer.done():
                item.answer.set_exception(kind(reason))


def _is_up(app: str) -> bool:
    status = serve.status().applications.get(app)
    return status is not None and status.status != ApplicationStatus.DELETING


def start_failure(app: str) -> str | None:
    """Why the replicas of an application cannot start: the last line of what Serve reports.

    None while a replica runs, or where Serve knows of no failure.
    """
    status = serve.status().applications.get(app)
    for deployment in status.deployments.values() if status else ():
        found = [line for line in deployment.message.splitlines() if "Error" in line]
        if found and not deployment.replica_states.get(ReplicaState.RUNNING):
            return str(found[-1].strip())
    return None


def short(error: BaseException) -> str:
    """The last line of an error's text, which is where Ray puts the cause."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return one_line(lines[-1]) if lines else type(error).__name__
