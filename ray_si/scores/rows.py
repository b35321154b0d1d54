"""The training rows of a finished run, in blocks of one size whatever its shards' is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator

import pyarrow as pa

from ray_si.errors import RunError
from ray_si.run.run import Run


def shards_digest(run: Run) -> str:
    """SHA-256, hex, over the digests of a finished run's shards: the same rows, the same digest."""
    stats = run.stats()
    if stats is None:
        raise RunError(f"{run.location} is not finished: run `ray-si build` on it again first")
    digests = json.dumps([shard["sha256"] for shard in stats["shards"]])
    return hashlib.sha256(digests.encode()).hexdigest()


def blocks_of_rows(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """The rows of the tables in order, ``size`` at a time; the last block has the rest."""
    pending: list[pa.Table] = []
    waiting = 0
    for table in tables:
        pending.append(table)
        waiting += table.num_rows
        if waiting < size:
            continue
        joined = pa.concat_tables(pending)
        whole = waiting - waiting % size
        for start in range(0, whole, size):
            yield joined.slice(start, size)
        pending, waiting = [joined.slice(whole)], waiting - whole
    if waiting:
        yield pa.concat_tables(pending)
