"""The ROUGE-L gate in one process, over shards on Ray, and split without Ray; see gate.py."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from measuring import BATCH, batch_at, fresh, timed

THRESHOLD = 0.7
SHARDS, SHARDED_BATCHES = (1, 2), 3


def split_in_this_process(shards: int) -> Any:
    """The sharded gate without actors: its shards are objects here, a thread each.

    What it takes beyond the single gate is the price of splitting the pool, since every shard has
    to look at every candidate; what actors take beyond it is the price of Ray.
    """
    import ray

    from ray_si.build.sharding import ShardedDeduplicator, ShardedPool
    from ray_si.build.sharding.pool import Shard

    threads = ThreadPoolExecutor(shards)

    class Pool(ShardedPool):
        def _start(self, number: int, count: int) -> Any:
            return Shard(number, count, count, self._options)

        def _ask(self, method: str, *arguments: Any) -> list[Any]:
            values = [ray.get(a) if isinstance(a, ray.ObjectRef) else a for a in arguments]
            return list(threads.map(lambda shard: getattr(shard, method)(*values), self._shards))

        def close(self) -> None:
            threads.shutdown()

    from ray_si.build.sharding import deduplicator

    deduplicator.ShardedPool = Pool
    return ShardedDeduplicator(shards=shards, rouge=THRESHOLD, cosine=None)


def batches(pool: int, shards: int, actors: bool = True) -> tuple[dict[str, Any], list[list[int]]]:
    """Batches against a pool, by the single gate (``shards`` 0) or the sharded one.

    The first batch warms up and is not counted. Also returns what was accepted of each.
    """
    from ray_si.dedup import Deduplicator

    if shards:
        import ray

        from ray_si.build.sharding import ShardedDeduplicator

        ray.init(
            num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False, logging_level=40
        )
        opened = (
            ShardedDeduplicator(shards=shards, rouge=THRESHOLD, cosine=None)
            if actors
            else split_in_this_process(shards)
        )
    else:
        opened = contextlib.nullcontext(Deduplicator(rouge=THRESHOLD, cosine=None))
    with opened as gate:
        build = 0.0
        for start in range(0, pool, BATCH):
            build += timed(gate.add, batch_at(start, min(BATCH, pool - start)))[1]
        took, accepted = [], []
        for k in range(SHARDED_BATCHES + 1):
            result, elapsed = timed(gate.filter, batch_at(pool + k * BATCH))
            took.append(elapsed)
            accepted.append(list(result.accepted))
    batch = float(np.median(took[1:]))
    numbers = {
        "batch_seconds": batch,
        "microseconds_per_candidate": batch / BATCH * 1e6,
        "build_seconds": build,
        "first_batch_seconds": took[0],
    }
    return numbers, accepted


def sharded(pool: int) -> dict[str, Any]:
    """The single gate and the sharded ones."""
    single, accepted = fresh(batches, pool, 0)
    entries = {"single": single}
    split = {1: single}
    for shards in SHARDS:
        for actors in (False, True) if shards > 1 else (True,):
            numbers, sharded_accepted = fresh(batches, pool, shards, actors)
            if sharded_accepted != accepted:
                raise RuntimeError(f"{shards} shards decide otherwise than the single gate")
            numbers["overhead"] = numbers["batch_seconds"] / single["batch_seconds"] - 1
            if actors:
                base = split[shards]["batch_seconds"]
                numbers["overhead_beyond_the_split"] = numbers["batch_seconds"] / base - 1
                entries[f"{shards} shards"] = numbers
            else:
                split[shards] = entries[f"{shards} parts, no actors"] = numbers
    return entries
