"""Ray Data adapters: durable blocks through chained maps, rows in = rows out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import ray.data

from ray_si.config import RunConfig
from ray_si.errors import GenerationError

Stage = Callable[..., pa.Table]
"""One block's rows in, as many rows out; runs in a Ray task."""


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
    a block comes back with another number of rows than it had, or doesn't come back.
    """
    if not blocks:
        return
    # from_arrow would start a task that wants a whole CPU, which the replicas may have taken
    dataset: Any = ray.data.from_blocks(blocks)
    tasks = ray.data.TaskPoolStrategy(min(concurrency, len(blocks)))
    for stage, kwargs in stages:
        dataset = dataset.map_batches(
            stage,
            fn_kwargs=kwargs,
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=0,  # they only wait for replicas, which may have taken every core
            compute=tasks,
        )
    expected = {block["block"][0].as_py(): block.num_rows for block in blocks}
    for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        block = table["block"][0].as_py()
        if expected.pop(block, None) != table.num_rows:
            raise GenerationError(f"block {block} came back with {table.num_rows} rows")
        yield table
        if stop and stop.is_set():
            return
    if expected:
        raise GenerationError(f"blocks {sorted(expected)} did not come back")


def concurrent_blocks(config: RunConfig, block_size: int, pipelines: int) -> int:
    """Tasks to run at once so that each pipeline's share of the replicas' slots is used twice over.

    Twice, because a replica should find its next batch waiting; not more, because far more calls
    in flight than slots slow Serve down.
    """
    slots = 2 * config.generator.replicas * config.generator.max_batch
    return max(1, -(-slots // (block_size * pipelines)))
