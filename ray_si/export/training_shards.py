"""The training shards of a finished run, read back."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.json as pj

from ray_si.errors import RunError
from ray_si.run.run import Run


def shard_tables(run: Run, columns: list[str]) -> Iterator[pa.Table]:
    """The shards that stats.json names, a table each, in order, with these columns.

    Parquet where there is any, else JSONL. Raises RunError where the run isn't finished or a shard
    is missing or damaged.
    """
    stats = run.stats()
    if stats is None:
        raise RunError(f"{run.location} is not finished: run `ray-si build` on it again first")
    keys = [shard["key"] for shard in stats["shards"]]
    parquet = [key for key in keys if key.endswith(".parquet")]
    for key in parquet:
        yield run.read(key, columns)
    for key in [] if parquet else keys:
        try:
            data = run.objects.get(key)
            table = pj.read_json(pa.BufferReader(data), pj.ReadOptions(use_threads=False))
        except KeyError as error:
            raise RunError(f"{run.location} is damaged: {key} is missing") from error
        except pa.ArrowInvalid as error:
            raise RunError(f"{run.location}/{key} cannot be read: {error}") from error
        yield table.select(columns)
