"""Ray Data adapters: durable blocks, many to a task, rows in = rows out."""

from __future__ import annotations

import asyncio
import functools
import itertools
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
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

_ERROR = "ray_si_error"
"""Column of the row that stands for a task that raised an error of ours."""

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

    def summary(self, stored: pa.Table) -> pa.Table:
        """What the driver needs of a stored block, ``block`` among its columns, all rows."""


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
    blocks: list[pa.Table],
    task: Task,
    *,
    parallel_phases: bool,
    stop: threading.Event | None = None,
) -> Iterator[tuple[pa.Table, ShardInfo]]:
    """Answer and store every block; yields each one's summary, and how it is stored.

    The blocks go to Ray tasks, several to each, whose rows are answered with no barrier between
    blocks; each block is stored as soon as its rows are there, by whoever comes first. Their order
    is not kept. With ``parallel_phases`` other calls of this function fill the slots that the last
    rows of a task leave idle, so the blocks are dealt to as few tasks as keep the slots busy.
    Setting ``stop`` ends the iteration after the next task; what is running by then is dropped.

    Raises GenerationError when a block comes back with another number of rows than it had, or
    doesn't come back though the task has no end, and whatever error of ours the work raises.
    """
    if not blocks:
        return
    parts, concurrency = _deal(blocks, task.generators, parallel_phases)
    expected = {block["block"][0].as_py(): block.num_rows for block in blocks}
    for table in _map_parts(parts, task, concurrency):
        if _ERROR in table.column_names:
            name, message = table[_ERROR][0].as_py()
            raise getattr(errors, name)(message)
        for block, part in split_blocks(table):
            if expected.pop(block, None) != part.num_rows:
                raise GenerationError(f"block {block} came back with {part.num_rows} rows")
            info = ShardInfo(**part["stored"][0].as_py())
            yield part.drop_columns(["stored"]), info
        if stop and stop.is_set():
            return
    if expected and task.until is None:
        raise GenerationError(f"blocks {sorted(expected)} did not come back")


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


def split_blocks(table: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """The durable blocks that lie one after another in a table, with their numbers."""
    numbers = table["block"].to_pylist()
    start = 0
    for end in range(1, len(numbers) + 1):
        if end == len(numbers) or numbers[end] != numbers[start]:
            yield numbers[start], table.slice(start, end - start)
            start = end


def _deal(
    blocks: list[pa.Table], generators: Generators, parallel_phases: bool
) -> tuple[list[pa.Table], int]:
    """Parts of consecutive blocks, one for each Ray task, and how many tasks run at once."""
    concurrency, count = generators.tasks, generators.tasks
    if not parallel_phases:  # then one more task works while the last rows of another are awaited
        concurrency += 1
        window = sum(generators.windows().values())
        rows = sum(block.num_rows for block in blocks)
        count = max(concurrency, round(rows / (_WINDOWS * window)))
    count = min(count, len(blocks))
    bounds = [i * len(blocks) // count for i in range(count + 1)]
    parts = [
        pa.concat_tables(blocks[start:end]).combine_chunks()
        for start, end in itertools.pairwise(bounds)
    ]
    return parts, min(concurrency, count)


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
    """The task's rows, or a row with the error of ours that it raised.

    Raised in a task, it would reach the driver as its traceback in an error of Ray Data's.
    """
    try:
        return asyncio.run_coroutine_threadsafe(_run(table, task), _loop()).result()
    except RaySIError as error:
        return pa.table({_ERROR: [[type(error).__name__, str(error)]]})


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """The one event loop of this worker process, in a thread of its own, as Serve wants it."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="requests", daemon=True).start()
    return loop


async def _run(table: pa.Table, task: Task) -> pa.Table:
    """Answer and store the blocks of a table; their summaries, each row with a ``stored``."""
    windows = task.generators.windows()
    clients = {app: Client(app, window, task.order) for app, window in windows.items()}
    apps = task.generators.apps
    room = asyncio.Semaphore(2 * sum(windows.values()))
    started: list[asyncio.Task[Any]] = []

    def start(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        started.append(asyncio.create_task(work))
        return started[-1]

    def ask(request: Request) -> Awaitable[Completion]:
        return clients[apps[request.purpose]].ask(request)

    async def answer(row: dict[str, Any]) -> Any:
        try:
            return await task.work.answer(row, ask)
        except RaySIError:
            raise
        except Exception as error:  # noqa: BLE001 - it is that row's
            return task.work.failed(_as_completion(error))
        finally:
            room.release()

    async def finish(block: pa.Table, answers: list[asyncio.Task[Any]]) -> pa.Table:
        return await asyncio.to_thread(_store, task, block, await asyncio.gather(*answers))

    blocks: list[asyncio.Task[pa.Table]] = []
    summaries: list[pa.Table] = []
    async with AsyncExitStack() as stack:
        for client in clients.values():
            await stack.enter_async_context(client.watched())
        try:
            finished = await asyncio.to_thread(_finished, task)
            for number, block in split_blocks(table):
                if task.is_over or any(b.done() and b.exception() for b in blocks):
                    break  # what failed is raised below, with no more asked for
                if _key(task, number) in finished and (
                    stored := await asyncio.to_thread(_stored, task, block)
                ):
                    summaries.append(stored)
                    continue
                answers = []
                for row in block.to_pylist():
                    await room.acquire()
                    answers.append(start(answer(row)))
                blocks.append(start(finish(block, answers)))
            summaries += await asyncio.gather(*blocks)
            return pa.concat_tables(summaries or [table.slice(0, 0)])
        finally:
            for each in started:
                each.cancel()


def _finished(task: Task) -> set[str]:
    """Blocks that stand already: those of this very task, if its first worker died."""
    return set(open_objects(task.location).list(f"{task.work.folder}/block-"))


def _stored(task: Task, block: pa.Table) -> pa.Table | None:
    """Summary of a block that stands already; None where it is one of other rows."""
    key, ids = _key(task, block["block"][0].as_py()), task.work.row_id
    stored, info = read_stored(open_objects(task.location), key)
    return _summary(task, stored, info) if stored[ids].equals(block[ids]) else None


def _store(task: Task, block: pa.Table, answers: list[Any]) -> pa.Table:
    """Store a block, unless somebody was first; a summary of what stands then."""
    complete, ids = _complete(task.work, block, answers), task.work.row_id
    objects, number = open_objects(task.location), block["block"][0].as_py()
    stored, info = claim_table(objects, _key(task, number), complete)
    if not stored[ids].equals(complete[ids]):  # a superseded driver's, cut short where it stopped
        key = block_key(task.work.folder, number, task.fencing)
        stored, info = claim_table(objects, key, complete)
    return _summary(task, stored, info)


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


def _summary(task: Task, stored: pa.Table, info: ShardInfo) -> pa.Table:
    """What goes to the driver; row by row, since Ray Data knows only rows."""
    summary = task.work.summary(stored)
    return summary.append_column("stored", pa.array([asdict(info)] * summary.num_rows))
