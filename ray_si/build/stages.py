"""Ray Data adapters: a row is a durable block, many to a task, and rows in = rows out.

Ray Data cuts what a task returns into parts of some size, between rows; so a block, whatever its
size, is never cut, and what becomes of it stands in columns of its own row.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import ray
import ray.data

from ray_si import errors
from ray_si.engines.base import Completion, Request
from ray_si.errors import GenerationError, RaySIError
from ray_si.run.layout import block_key
from ray_si.serving.applications import Generators
from ray_si.serving.client import Client
from ray_si.serving.replicas import Order
from ray_si.storage.objects import open_objects
from ray_si.storage.tables import ShardInfo, claim_table, read_stored

_DEALT = pa.schema([("block", pa.int64()), ("rows", pa.large_binary())])
"""A block as a task gets it: its number, and its rows as an Arrow stream."""

_DONE = pa.schema(
    [
        ("block", pa.int64()),
        ("summary", pa.large_binary()),
        *((name, pa.string()) for name in ("key", "sha256")),
        *((name, pa.int64()) for name in ("rows", "size")),
        ("error", pa.string()),
        ("message", pa.string()),
    ]
)
"""A block as a task returns it: what `Work.summary` says of it, as an Arrow stream, and how it is
stored; or the name and message of the error of ours that ended the task; or neither, where the task
was over before it began the block."""

_WINDOWS = 8
"""Rows of a task, in windows, where there is a choice: enough that its end hardly counts."""

Ask = Callable[[Request], Awaitable[Completion]]

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


def write_blocks(
    blocks: Mapping[int, pa.Table],
    task: Task,
    *,
    parallel_phases: bool,
    stop: threading.Event | None = None,
) -> Iterator[tuple[int, pa.Table, ShardInfo]]:
    """Answer and store every block; yields each one's number, summary, and how it is stored.

    The blocks go to Ray tasks, several to each, whose rows are answered with no barrier between
    blocks; each block is stored as soon as its rows are there, by whoever comes first. Their order
    is not kept. With ``parallel_phases`` other calls of this function fill the slots that the last
    rows of a task leave idle, so the blocks are dealt to as few tasks as keep the slots busy.
    Setting ``stop`` ends the iteration after the next task; what is running by then is dropped.

    Raises GenerationError when a block doesn't come back, or not written though the task has no
    end, and whatever error of ours the work raises.
    """
    if not blocks:
        return
    parts, concurrency = _deal(blocks, task.generators, parallel_phases)
    missing = set(blocks)
    for table in _map_parts(parts, task, concurrency):
        for row in table.to_pylist():
            missing.remove(row["block"])
            if row["error"]:
                raise getattr(errors, row["error"])(row["message"])
            if row["summary"] is not None:
                info = ShardInfo(row["key"], row["rows"], row["size"], row["sha256"])
                yield row["block"], _unpacked(row["summary"]), info
            elif task.until is None:
                raise GenerationError(f"block {row['block']} came back without being written")
        if stop and stop.is_set():
            return
    if missing:
        raise GenerationError(f"blocks {sorted(missing)} did not come back")


def _map_parts(parts: list[pa.Table], task: Task, concurrency: int) -> Iterator[pa.Table]:
    """What the tasks make of their parts, as they end."""
    # from_arrow would start a task that wants a whole CPU, which the replicas may have taken
    dataset: Any = ray.data.from_blocks(parts)
    dataset = dataset.map_batches(
        _guarded,
        fn_kwargs={"task": task},
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=0,  # they only wait for replicas, which may have taken every core
        compute=ray.data.TaskPoolStrategy(concurrency),
    )
    return iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))


def _deal(
    blocks: Mapping[int, pa.Table], generators: Generators, parallel_phases: bool
) -> tuple[list[pa.Table], int]:
    """Tables of `_DEALT`, one for each Ray task, and how many tasks run at once."""
    concurrency, count = generators.tasks, generators.tasks
    if not parallel_phases:  # then one more task works while the last rows of another are awaited
        concurrency += 1
        window = sum(generators.windows().values())
        rows = sum(block.num_rows for block in blocks.values())
        count = max(concurrency, round(rows / (_WINDOWS * window)))
    count = min(count, len(blocks))
    bounds = [i * len(blocks) // count for i in range(count + 1)]
    dealt = [{"block": number, "rows": _packed(block)} for number, block in blocks.items()]
    parts = [
        pa.Table.from_pylist(dealt[start:end], _DEALT) for start, end in itertools.pairwise(bounds)
    ]
    return parts, min(concurrency, count)


def _packed(table: pa.Table) -> bytes:
    """A table as one value of a column."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _unpacked(data: bytes) -> pa.Table:
    """The table that was `_packed`."""
    with pa.ipc.open_stream(data) as stream:
        return stream.read_all()


def warm_up(count: int) -> None:
    """Have so many worker processes started, and Ray Data's own, which takes seconds.

    For use before the replicas are there, to which it does no harm.
    """
    blocks = [pa.table({"worker": [worker]}) for worker in range(count)]
    dataset: Any = ray.data.from_blocks(blocks)
    dataset.map_batches(
        _be_there,
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=0,
        compute=ray.data.TaskPoolStrategy(count),
    ).materialize()


def _be_there(table: pa.Table) -> pa.Table:
    """What a worker needs is imported by now; the sleep lets each of several get its own."""
    _loop()
    time.sleep(1)
    return table


# In the task ---------------------------------------------------------------------------------


def _guarded(table: pa.Table, *, task: Task) -> pa.Table:
    """A row of `_DONE` for each block.

    An error raised in a task would reach the driver as its traceback in an error of Ray Data's.
    """
    try:
        done = asyncio.run_coroutine_threadsafe(_run(table, task), _loop()).result()
    except RaySIError as error:
        failed = {"error": type(error).__name__, "message": str(error)}
        done = [{"block": block, **failed} for block in table["block"].to_pylist()]
    return pa.Table.from_pylist(done, _DONE)


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """The one event loop of this worker process, in a thread of its own, as Serve wants it."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="requests", daemon=True).start()
    return loop


async def _run(table: pa.Table, task: Task) -> list[dict[str, Any]]:
    """Answer and store the blocks of a table of `_DEALT`; a row of `_DONE` for each."""
    blocks = {row["block"]: _unpacked(row["rows"]) for row in table.to_pylist()}
    windows = task.generators.windows()
    clients = {app: Client(app, window, task.order) for app, window in windows.items()}
    answering = _Answering(task, clients, room=2 * sum(windows.values()))
    async with AsyncExitStack() as stack:
        for client in clients.values():
            await stack.enter_async_context(client.watched())
        try:
            done = await answering.run(blocks)
        finally:
            answering.cancel()
    written = {row["block"]: row for row in done}
    return [written.get(number, {"block": number}) for number in blocks]


class _Answering:
    """The blocks of one task on their way: rows are asked in order, ``room`` of them at a time."""

    def __init__(self, task: Task, clients: dict[str, Client], room: int) -> None:
        self._task, self._clients = task, clients
        self._room = asyncio.Semaphore(room)
        self._started: list[asyncio.Task[Any]] = []

    async def run(self, blocks: Mapping[int, pa.Table]) -> list[dict[str, Any]]:
        """Rows of `_DONE` of the blocks, but for those that the task is over for.

        Blocks that stand already are those of this very task, if its first worker died.
        """
        stored = [
            self._start(asyncio.to_thread(_stored, self._task, number, block))
            for number, block in blocks.items()
        ]
        done: list[dict[str, Any]] = []
        finishing: list[asyncio.Task[dict[str, Any]]] = []
        for (number, block), standing in zip(blocks.items(), stored, strict=True):
            if self._task.is_over or any(f.done() and f.exception() for f in finishing):
                break  # what failed is raised below, with no more asked for
            if (row := await standing) is not None:
                done.append(row)
                continue
            answers = []
            for asked in block.to_pylist():
                await self._room.acquire()
                answers.append(self._start(self._answer(asked)))
            finishing.append(self._start(self._finish(number, block, answers)))
        return done + await asyncio.gather(*finishing)

    def cancel(self) -> None:
        """End whatever is still on its way."""
        for each in self._started:
            each.cancel()

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        self._started.append(asyncio.create_task(work))
        return self._started[-1]

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

    async def _finish(
        self, number: int, block: pa.Table, answers: list[asyncio.Task[Any]]
    ) -> dict[str, Any]:
        answered = await asyncio.gather(*answers)
        return await asyncio.to_thread(_store, self._task, number, block, answered)


def _stored(task: Task, number: int, block: pa.Table) -> dict[str, Any] | None:
    """The row of `_DONE` of a block that stands already; None where it is one of other rows."""
    try:
        stored, info = read_stored(open_objects(task.location), _key(task, number))
    except KeyError:
        return None
    ids = task.work.row_id
    return _done(task, number, stored, info) if stored[ids].equals(block[ids]) else None


def _store(task: Task, number: int, block: pa.Table, answers: list[Any]) -> dict[str, Any]:
    """Store a block, unless somebody was first; the row of `_DONE` of what stands then."""
    complete, ids = _complete(task.work, block, answers), task.work.row_id
    objects = open_objects(task.location)
    stored, info = claim_table(objects, _key(task, number), complete)
    if not stored[ids].equals(complete[ids]):  # a superseded driver's, cut short where it stopped
        key = block_key(task.work.folder, number, task.fencing)
        stored, info = claim_table(objects, key, complete)
    return _done(task, number, stored, info)


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


def _done(task: Task, number: int, stored: pa.Table, info: ShardInfo) -> dict[str, Any]:
    summary = _packed(task.work.summary(stored, info))
    return {"block": number, "summary": summary, **asdict(info)}
