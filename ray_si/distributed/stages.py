"""Ray Data adapters: durable blocks through chained maps, rows in = rows out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import ray.data

from ray_si import errors
from ray_si.config import RunConfig
from ray_si.errors import GenerationError, RaySIError

Stage = Callable[..., pa.Table]
"""One block's rows in, as many rows out; runs in a Ray task."""

_ERROR = "ray_si_error"
"""Column of the row that stands for a block whose stage raised an error of ours."""


def map_blocks(
    blocks: list[pa.Table],
    stages: list[tuple[Stage, dict[str, Any]]],
    *,
    concurrency: int,
    stop: threading.Event | None = None,
) -> Iterator[pa.Table]:
    """Run every block through the stages (function, keyword arguments), yielding as they finish.

    There is no barrier between blocks, and their order is not kept. Setting ``stop`` ends the
    iteration after the next block; what is running by then is dropped. Raises GenerationError when
    a block comes back with another number of rows than it had, or doesn't come back, and whatever
    error of ours a stage raises.
    """
    if not blocks:
        return
    # from_arrow would start a task that wants a whole CPU, which the replicas may have taken
    dataset: Any = ray.data.from_blocks(blocks)
    tasks = ray.data.TaskPoolStrategy(min(concurrency, len(blocks)))
    for stage, kwargs in stages:
        dataset = dataset.map_batches(
            _guarded,
            fn_kwargs={"stage": stage, "kwargs": kwargs},
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=0,  # they only wait for replicas, which may have taken every core
            compute=tasks,
        )
    expected = {block["block"][0].as_py(): block.num_rows for block in blocks}
    for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        if _ERROR in table.column_names:
            name, message = table[_ERROR][0].as_py()
            raise getattr(errors, name)(message)
        block = table["block"][0].as_py()
        if expected.pop(block, None) != table.num_rows:
            raise GenerationError(f"block {block} came back with {table.num_rows} rows")
        yield table
        if stop and stop.is_set():
            return
    if expected:
        raise GenerationError(f"blocks {sorted(expected)} did not come back")


def _guarded(table: pa.Table, *, stage: Stage, kwargs: dict[str, Any]) -> pa.Table:
    """The stage's rows, or a row with the error of ours that it raised.

    Raised in a task, it would reach the driver as its traceback in an error of Ray Data's.
    """
    if _ERROR in table.column_names:
        return table
    try:
        return stage(table, **kwargs)
    except RaySIError as error:
        return pa.table({_ERROR: [[type(error).__name__, str(error)]]})


def concurrent_blocks(config: RunConfig, block_size: int, pipelines: int) -> int:
    """Tasks to run at once so that each pipeline's share of the replicas' slots is used twice over.

    Twice, because a replica should find its next batch waiting; not more, because far more calls
    in flight than slots slow Serve down.
    """
    slots = 2 * config.generator.replicas * config.generator.max_batch
    return max(1, -(-slots // (block_size * pipelines)))
