"""The rows of a finished run as lines of JSON, in the layout asked for."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from ray_si.errors import ConfigError, RunError
from ray_si.export.rows import schema_of_rows
from ray_si.export.shuffle import row_numbers
from ray_si.records import SeedTask
from ray_si.run.ids import training_row_id
from ray_si.run.run import Run
from ray_si.run.schemas import TRAINING_ROWS
from ray_si.run.seeds import seeds_of
from ray_si.storage.tables import ShardInfo, from_bytes, read_named

_CHUNK = 500
"""Rows that are encoded at once: few enough to stay in the processor's cache."""


class Layout(Protocol):
    """What a row looks like; see `ray_si.self_instruct.formats.Layout`."""

    @property
    def columns(self) -> tuple[str, ...]: ...

    @property
    def drops_equal_rows(self) -> bool: ...

    @property
    def rows(
        self,
    ) -> Callable[[Mapping[str, Sequence[Any]], Sequence[int]], Iterator[dict[str, Any]]]: ...


class Source:
    """A finished run's shards, each read whole and checked against its digest.

    After them, where asked for, come the run's ``seed_tasks``: rows with their instances, and
    nothing of what only generated ones have.
    """

    def __init__(self, run: Run, *, seed_tasks: bool = False) -> None:
        stats = run.stats()
        if stats is None:
            raise RunError(f"{run.location} is not finished: run `ray-si build` on it again first")
        infos = [ShardInfo(**entry) for entry in stats["shards"]]
        parquet = [info for info in infos if info.key.endswith(".parquet")]
        self._run, self._shards, self._schema = run, parquet or infos, schema_of_rows(run)
        seeds = seeds_of(run.read("seeds.parquet")) if seed_tasks else []
        self._seed_rows = _rows_of(seeds, self._schema)
        self.rows = sum(info.rows for info in self._shards) + self._seed_rows.num_rows
        self.instructions: int = stats["with_instance"] + len(seeds)

    def tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The shards in order; the next is read meanwhile."""
        with ThreadPoolExecutor(1) as reader:
            upcoming = deque(reader.submit(self._read, i, columns) for i in self._shards[:1])
            for info in self._shards[1:]:
                upcoming.append(reader.submit(self._read, info, columns))
                yield upcoming.popleft().result()
            if upcoming:
                yield upcoming.popleft().result()
        if self._seed_rows.num_rows:
            yield self._seed_rows.select(list(columns))

    def _read(self, info: ShardInfo, columns: Sequence[str]) -> pa.Table:
        data = read_named(self._run.objects, self._run.location, info, "stats.json")
        return from_bytes(info.key, data, list(columns), self._schema)

    @property
    def schema(self) -> pa.Schema:
        """Of the rows, with all their columns."""
        return self._schema

    @property
    def names(self) -> list[str]:
        """Columns of the rows."""
        return list(self.schema.names)

    def hold_out(self, seed: int, part: float | int) -> set[str]:
        """Ids of the instructions to hold out, a share or a number: those of the smallest hashes.

        ConfigError where that would be all of them.
        """
        count = max(1, round(part * self.instructions)) if isinstance(part, float) else part
        if count >= self.instructions:
            raise ConfigError(
                f"validation would take all: the run has {self.instructions} instructions with rows"
            )
        hashes = ((_hash(seed, id_), id_) for id_ in self._instruction_ids())
        return {id_ for _, id_ in heapq.nsmallest(count, hashes)}

    def _instruction_ids(self) -> Iterator[str]:
        """Each once: the rows of one follow each other, in the next shard too."""
        last = None
        for table in self.tables(["instruction_id"]):
            for id_ in table["instruction_id"].unique().to_pylist():
                if id_ != last:
                    yield id_
                last = id_


def _rows_of(seeds: Sequence[SeedTask], schema: pa.Schema) -> pa.Table:
    """Seed tasks as training rows with these columns."""
    rows = [
        {
            "id": training_row_id(seed.id, place),
            "instruction": seed.instruction,
            "input": instance.input,
            "output": instance.output,
            "is_classification": seed.is_classification,
            "instruction_id": seed.id,
        }
        for seed in seeds
        for place, instance in enumerate(seed.instances)
    ]
    return pa.Table.from_pylist(rows, schema)


def _hash(seed: int, instruction_id: str) -> int:
    digest = hashlib.blake2b(f"{seed}/{instruction_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def encoded_rows(
    source: Source, layout: Layout, seed: int, held_out: set[str]
) -> Iterator[tuple[list[bytes], np.ndarray, np.ndarray]]:
    """Lines of JSON in pool order, some at a time, each with its end.

    With them their numbers for a shuffle (uint64), and which are of instructions ``held_out``
    (bool), both of shape (lines,). A line that equals an earlier one is left out where the layout
    drops equal rows.
    """
    written: set[bytes] = set()  # digests of lines, where equal ones count
    columns = list(dict.fromkeys([*layout.columns, *(["instruction_id"] if held_out else [])]))
    encode = encoder(layout.columns, source.schema)
    before = 0
    for table in source.tables(columns):
        order = row_numbers(seed, "shuffle", before, table.num_rows)
        choices = row_numbers(seed, "layout", before, table.num_rows)
        before += table.num_rows
        start = 0
        for chunk in table.to_batches(max_chunksize=_CHUNK):
            end = start + chunk.num_rows
            values = {name: chunk.column(name).to_pylist() for name in columns}
            lines = [encode(row) for row in layout.rows(values, choices[start:end].tolist())]
            assert len(lines) == chunk.num_rows, "a layout lost rows"
            mask = np.zeros(len(lines), bool)
            if held_out:
                mask[:] = [id_ in held_out for id_ in values["instruction_id"]]
            numbers = order[start:end]
            if layout.drops_equal_rows:
                new = [i for i, line in enumerate(lines) if _is_new(line, written)]
                lines, numbers, mask = [lines[i] for i in new], numbers[new], mask[new]
            yield lines, numbers, mask
            start = end


def _is_new(line: bytes, written: set[bytes]) -> bool:
    """Whether no such line was written before; it has been from now on."""
    digest = hashlib.blake2b(line, digest_size=16).digest()
    before = len(written)
    written.add(digest)
    return len(written) > before


def encoder(
    columns: Sequence[str], schema: pa.Schema = TRAINING_ROWS
) -> Callable[[dict[str, Any]], bytes]:
    """A row -> a line of JSON, UTF-8, with its end; the same bytes whether orjson is there or not.

    orjson is five times as fast (benchmarks/export.json) but writes some floating-point numbers
    otherwise, so rows that may have any are left to the standard library.
    """
    if not any(
        pa.types.is_floating(kind) for name in columns for kind in _leaves(schema.field(name).type)
    ):
        try:
            import orjson
        except ImportError:
            pass
        else:
            return partial(orjson.dumps, option=orjson.OPT_APPEND_NEWLINE)
    text = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
    return lambda row: text(row).encode() + b"\n"


def _leaves(kind: pa.DataType) -> list[pa.DataType]:
    if pa.types.is_list(kind):
        kind = kind.value_type
    return [field.type for field in kind] if pa.types.is_struct(kind) else [kind]


def schema_of(layout: Layout, schema: pa.Schema = TRAINING_ROWS) -> pa.Schema:
    """The Arrow schema of the laid out rows, where theirs is ``schema``: that of an example."""
    example = {
        "most_similar": [{"instruction": "", "rouge": 0.5}],
        "demonstrations": [""],
    }
    simple = {pa.string(): "", pa.int64(): 0, pa.float64(): 0.5, pa.bool_(): False}
    values = {field.name: [example.get(field.name, simple.get(field.type))] for field in schema}
    return pa.Table.from_pylist(list(layout.rows(values, [0]))).schema
