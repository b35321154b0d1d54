"""The operators that Ray Data carries: render, generate, parse; a durable block is a row of theirs.

A task of ``generate`` gets a row with many durable blocks, since a block of Ray Data is a barrier:
its last answer holds up its worker. It gives a row for each, as soon as that is stored and the ones
before it are. What became of every block stands in its own row, and is counted.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa
import ray
import ray.data

from ray_si import errors
from ray_si.build.answering import Task, Work, answered, event_loop
from ray_si.build.cost import living_nodes
from ray_si.errors import GenerationError, RaySIError
from ray_si.serving.applications import Generators
from ray_si.storage.tables import ShardInfo

_DEALT = pa.schema([("block", pa.list_(pa.int64())), ("rows", pa.list_(pa.large_binary()))])
"""Blocks as a task gets them, in one row: their numbers, and the rows of each as Arrow streams."""

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

_CORES = {"render": 0.5, "generate": 0.25, "parse": 0.5}
"""What a task of an operator reserves, where the models leave enough: ``generate`` mostly waits."""


@runtime_checkable
class StagedWork(Work, Protocol):
    """Work with operators of its own before and after the one that asks."""

    def render(self, drawn: pa.Table) -> pa.Table:
        """A block as it is asked, from what the driver knows of it."""

    def parse(self, summary: pa.Table) -> pa.Table:
        """What the driver needs, from what `Work.summary` says of a stored block."""


def cores_for(generators: Generators, executions: int) -> float:
    """Cores that the operators reserve at most, with so many calls of `write_blocks` at a time."""
    generating = executions * (generators.tasks + 1) * _CORES["generate"]
    return generating + _CORES["render"] + _CORES["parse"]


def write_blocks(
    blocks: Mapping[int, pa.Table],
    task: Task,
    *,
    parallel_phases: bool,
    stop: threading.Event | None = None,
) -> Iterator[tuple[int, pa.Table, ShardInfo]]:
    """Answer and store every block; yields each one's number, summary, and how it is stored.

    The blocks go to Ray tasks, several to each, whose rows are answered with no barrier between
    blocks; each block is stored as soon as its rows are there, by whoever comes first, and comes
    back when those before it in its task have. With ``parallel_phases`` other calls of this
    function fill the slots that the last rows of a task leave idle, so the blocks are dealt to as
    few tasks as keep the slots busy. Setting ``stop`` ends the iteration after the next block; what
    is running by then is dropped.

    Raises GenerationError when a block doesn't come back, or not written though the task has no
    end, and whatever error of ours the work raises.
    """
    if not blocks:
        return
    parts, concurrency = _deal(blocks, task.generators, parallel_phases)
    missing = set(blocks)
    for table in _map_parts(parts, task, concurrency):
        for row in table.to_pylist():
            if row["block"] not in missing:
                continue  # a task that was done again
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
    """What becomes of the blocks of these parts, as it is known."""
    # from_arrow would start a task that wants a whole CPU, which the replicas may have taken
    dataset: Any = ray.data.from_blocks(parts)
    dataset.context.target_max_block_size = 1  # a row goes on as soon as it is there
    is_staged = isinstance(task.work, StagedWork)
    reserves = task.generators.leave_cores

    def mapped(dataset: Any, operator: Any, **arguments: Any) -> Any:
        """Alike where nothing is reserved: then Ray Data makes one operator of all."""
        return dataset.map_batches(
            operator,
            fn_kwargs=arguments,
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=_CORES[operator.__name__] if reserves else 0,
            compute=ray.data.TaskPoolStrategy(concurrency),
        )

    if is_staged:
        dataset = mapped(dataset, render, work=task.work)
    dataset = mapped(dataset, generate, task=task)
    if is_staged:
        dataset = mapped(dataset, parse, work=task.work)
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
    numbers, rows = list(blocks), [_packed(block) for block in blocks.values()]
    parts = [
        pa.Table.from_pylist([{"block": numbers[start:end], "rows": rows[start:end]}], _DEALT)
        for start, end in itertools.pairwise(bounds)
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


def warm_up(count: int) -> set[str]:
    """Have so many worker processes started, and Ray Data's own, which takes seconds; their nodes.

    One on each node at the least: Ray Data spreads its tasks, and until every node has had one,
    each round would wait for another first one. For use before the replicas are there, to which it
    does no harm.
    """
    count = max(count, len(living_nodes()))
    blocks = [pa.table({"worker": [worker]}) for worker in range(count)]
    dataset: Any = ray.data.from_blocks(blocks)
    there = dataset.map_batches(
        _be_there,
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=0,
        compute=ray.data.TaskPoolStrategy(count),
    )
    return {row["node"] for row in there.iter_rows()}


def _be_there(table: pa.Table) -> pa.Table:
    """What a worker needs is imported by now; the sleep lets each of several get its own."""
    event_loop()
    time.sleep(1)
    return pa.table({"node": [ray.get_runtime_context().get_node_id()]})


# Operators ---------------------------------------------------------------------------------


def render(table: pa.Table, *, work: StagedWork) -> pa.Table:
    """The dealt blocks as they are asked."""
    rows = [
        {"block": row["block"], "rows": [_packed(work.render(_unpacked(b))) for b in row["rows"]]}
        for row in table.to_pylist()
    ]
    return pa.Table.from_pylist(rows, _DEALT)


def generate(table: pa.Table, *, task: Task) -> Iterator[pa.Table]:
    """A row of `_DONE` for each dealt block, in order.

    An error raised in a task would reach the driver as its traceback in an error of Ray Data's.
    """
    for dealt in table.to_pylist():
        blocks = dict(zip(dealt["block"], map(_unpacked, dealt["rows"]), strict=True))
        left = list(blocks)
        try:
            for done in answered(blocks, task):
                left.remove(done["block"])
                packed = {"summary": _packed(done["summary"])} if "summary" in done else {}
                yield pa.Table.from_pylist([done | packed], _DONE)
        except RaySIError as error:
            failed = {"error": type(error).__name__, "message": str(error)}
            for block in left:
                yield pa.Table.from_pylist([{"block": block, **failed}], _DONE)


def parse(table: pa.Table, *, work: StagedWork) -> pa.Table:
    """The rows with what the driver needs of their blocks."""
    rows = table.to_pylist()
    for row in rows:
        if row["summary"] is not None:
            row["summary"] = _packed(work.parse(_unpacked(row["summary"])))
    return pa.Table.from_pylist(rows, _DONE)
