"""In a task: the rows of some durable blocks are answered at once, each block stored when full.

One event loop a worker process asks for every row; what raises in a row is that row's error.
"""

from __future__ import annotations

import asyncio
import functools
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from ray_si.engines.base import Completion, Request
from ray_si.errors import RaySIError, RunError, one_line
from ray_si.run.layout import block_key
from ray_si.serving.applications import Generators
from ray_si.serving.client import Client
from ray_si.serving.replicas import Order
from ray_si.storage.objects import open_objects
from ray_si.storage.tables import ShardInfo, claim_table, read_stored

Ask = Callable[[Request], Awaitable[Completion]]

Done = dict[str, Any]
"""A block as a task returns it: its number ``block``; its ``summary``, see `Work`, and how it is
stored (the fields of `ShardInfo`), or neither where the task was over before it began the block."""

_LOOKS = ThreadPoolExecutor(16, "standing blocks")
"""Threads of their own: a task has hundreds of blocks to look for, and neither the client's
questions to Serve nor a block that is to be stored may wait for them all."""

T = TypeVar("T")


class Work(Protocol):
    """What becomes of durable blocks, row by row; it travels to the task that does it."""

    @property
    def folder(self) -> str:
        """Of the run, in which the blocks are stored."""

    @property
    def row_id(self) -> str:
        """Column that tells rows apart, in a block as it is asked and as it is stored."""

    async def answer(self, row: Any, ask: Ask) -> Any:
        """What the model says to one row. Called concurrently."""

    def failed(self, error: Completion) -> Any:
        """What stands for the answer to a row in which something raised."""

    def complete(self, block: pa.Table, answers: list[Any]) -> pa.Table:
        """The block as it is stored, with as many rows; not called on the event loop."""

    def summary(self, stored: pa.Table, info: ShardInfo) -> pa.Table:
        """What the driver needs of a stored block."""


@dataclass(frozen=True)
class Task:
    """A `Work` with where it asks and stores.

    ``fencing`` is the number of the driver's lease: blocks in ``again`` are stored under it, since
    what stands in their place does not do. ``until``, in seconds since the epoch, is when it begins
    no further block.
    """

    work: Work
    generators: Generators
    location: str
    order: Order
    fencing: int
    again: frozenset[int] = frozenset()
    until: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether that time has come."""
        return self.until is not None and time.time() >= self.until


@functools.cache
def event_loop() -> asyncio.AbstractEventLoop:
    """The one event loop of this worker process, in a thread of its own, as Serve wants it."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="requests", daemon=True).start()
    return loop


def answered(blocks: Mapping[int, pa.Table], task: Task) -> Iterator[Done]:
    """Answer and store the blocks: one `Done` for each, in their order, as soon as it is known.

    Their order is kept since a task that is done again, after its worker died, goes on in what it
    gives where the first left off. Raises the first error of ours in place of what is left.
    """
    told: queue.SimpleQueue[Done | None] = queue.SimpleQueue()
    work = asyncio.run_coroutine_threadsafe(_run(blocks, task, told.put), event_loop())
    work.add_done_callback(lambda _: told.put(None))
    stored: dict[int, Done] = {}
    try:
        for number in blocks:
            while number not in stored and (done := told.get()) is not None:
                stored[done["block"]] = done
            if number not in stored:
                told.put(None)  # nothing more comes, for the next ones either
                work.result()
            yield stored.pop(number, {"block": number})
    finally:
        work.cancel()  # where nobody wants the rest


async def _run(blocks: Mapping[int, pa.Table], task: Task, tell: Callable[[Done], None]) -> None:
    """Answer the blocks with clients of their own, and tell of each that is stored."""
    generators, windows = task.generators, task.generators.windows()
    clients = {
        app: Client(
            app,
            window,
            task.order,
            generators.replicas.get(app, 1),
            generators.replica_slots.get(app),
            task.until,
        )
        for app, window in windows.items()
    }
    answering = _Answering(task, clients, tell, room=2 * sum(windows.values()))
    async with AsyncExitStack() as stack:
        for client in clients.values():
            await stack.enter_async_context(client.watched())
        try:
            await answering.run(blocks)
        finally:
            answering.cancel()


class _Answering:
    """The blocks of one task on their way: rows are asked in order, ``room`` of them at a time."""

    def __init__(
        self, task: Task, clients: dict[str, Client], tell: Callable[[Done], None], room: int
    ) -> None:
        self._task, self._clients, self._tell = task, clients, tell
        self._room = asyncio.Semaphore(room)
        self._started: list[asyncio.Task[Any]] = []

    async def run(self, blocks: Mapping[int, pa.Table]) -> None:
        """Tell of every block, but for those that the task is over for.

        Blocks that stand already are those of this very task, if its first worker died.
        """
        stored = [self._start(self._look(number, block)) for number, block in blocks.items()]
        finishing: list[asyncio.Task[None]] = []
        for (number, block), standing in zip(blocks.items(), stored, strict=True):
            if self._task.is_over or any(f.done() and f.exception() for f in finishing):
                break  # what failed is raised below, with no more asked for
            if (done := await standing) is not None:
                self._tell(done)
                continue
            answers = []
            for asked in block.to_pylist():
                await self._room.acquire()
                answers.append(self._start(self._answer(asked)))
            finishing.append(self._start(self._finish(number, block, answers)))
        await asyncio.gather(*finishing)

    def cancel(self) -> None:
        """End whatever is still on its way."""
        for each in self._started:
            each.cancel()

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        self._started.append(asyncio.create_task(work))
        return self._started[-1]

    async def _look(self, number: int, block: pa.Table) -> Done | None:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(_LOOKS, _stored, self._task, number, block)

    async def _answer(self, row: dict[str, Any]) -> Any:
        try:
            return await self._task.work.answer(row, self._ask)
        except RaySIError:
            raise
        except Exception as error:  # noqa: BLE001 - it is that row's
            return self._task.work.failed(_as_completion(error))
        finally:
            self._room.release()

    def _ask(self, request: Request) -> Awaitable[Completion]:
        return self._clients[self._task.generators.apps[request.purpose]].ask(request)

    async def _finish(self, number: int, block: pa.Table, answers: list[asyncio.Task[Any]]) -> None:
        replies = await asyncio.gather(*answers)
        self._tell(await asyncio.to_thread(_store, self._task, number, block, replies))


def _stored(task: Task, number: int, block: pa.Table) -> Done | None:
    """What to tell of a block that stands already; None where it is one of other rows."""
    key = _key(task, number)
    try:
        with _naming(task, key):
            stored, info = read_stored(open_objects(task.location), key)
    except KeyError:
        return None
    ids = task.work.row_id
    return _done(task, number, stored, info) if stored[ids].equals(block[ids]) else None


def _store(task: Task, number: int, block: pa.Table, answers: list[Any]) -> Done:
    """Store a block, unless somebody was first; what to tell of the one that stands then."""
    complete, ids = _complete(task.work, block, answers), task.work.row_id
    objects, key = open_objects(task.location), _key(task, number)
    with _naming(task, key):
        stored, info = claim_table(objects, key, complete)
    if not stored[ids].equals(complete[ids]):  # a superseded driver's, cut short where it stopped
        key = block_key(task.work.folder, number, task.fencing)
        with _naming(task, key):
            stored, info = claim_table(objects, key, complete)
    return _done(task, number, stored, info)


@contextmanager
def _naming(task: Task, key: str) -> Iterator[None]:
    """Raise RunError, which names the block, where what stands there is damaged."""
    try:
        yield
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:  # OSError: broken pages
        raise RunError(f"{task.location}/{key} cannot be read: {one_line(error)}") from error


def _complete(work: Work, block: pa.Table, answers: list[Any]) -> pa.Table:
    """The block as it is stored; what cannot be made of a row's answer is that row's error."""
    try:
        return work.complete(block, answers)
    except RaySIError:
        raise
    except Exception as error:  # noqa: BLE001 - some row's: each is tried by itself
        if block.num_rows == 1:
            return work.complete(block, [work.failed(_as_completion(error))])
    rows = range(block.num_rows)
    return pa.concat_tables(_complete(work, block.slice(i, 1), answers[i : i + 1]) for i in rows)


def _as_completion(error: Exception) -> Completion:
    return Completion("", "error", error=f"{type(error).__name__}: {' '.join(str(error).split())}")


def _key(task: Task, number: int) -> str:
    fencing = task.fencing if number in task.again else None
    return block_key(task.work.folder, number, fencing)


def _done(task: Task, number: int, stored: pa.Table, info: ShardInfo) -> Done:
    return {"block": number, "summary": task.work.summary(stored, info), **asdict(info)}
