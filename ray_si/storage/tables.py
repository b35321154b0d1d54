"""Arrow tables <-> Parquet and JSONL objects, with row counts and digests."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from ray_si.errors import RunError
from ray_si.storage.base import Objects

_EMBEDDED_ROWS = 8192
"""Rows of a group where there are embeddings: all of 100,000 at once take eight times their size in
memory to write, and getting that from the system takes longer than writing."""


@dataclass(frozen=True)
class ShardInfo:
    """What a manifest says of one object: ``sha256`` is hex, ``size`` is in bytes."""

    key: str
    rows: int
    size: int
    sha256: str


def write_table(objects: Objects, key: str, table: pa.Table) -> ShardInfo:
    """Write a table under a key that ends in .parquet or .jsonl, atomically.

    The bytes depend on the table and the pyarrow version only.
    """
    data = to_bytes(key, table)
    objects.put(key, data)
    return describe_bytes(key, table.num_rows, data)


def describe_table(key: str, table: pa.Table) -> ShardInfo:
    """What a manifest says of a Parquet table once it is written; writes nothing."""
    return describe_bytes(key, table.num_rows, to_parquet(table))


def read_named(objects: Objects, location: str, info: ShardInfo, manifest: str) -> bytes:
    """An object's bytes; RunError with the ``location`` unless they are what the manifest says."""
    try:
        data = objects.get(info.key)
    except KeyError as error:
        raise RunError(f"{location} is damaged: {info.key} is missing") from error
    if hashlib.sha256(data).hexdigest() != info.sha256:
        raise RunError(
            f"{location}/{info.key} is damaged: it has other content than {manifest} says"
        )
    return data


def claim_table(objects: Objects, key: str, table: pa.Table) -> tuple[pa.Table, ShardInfo]:
    """Write a Parquet table unless the key exists: the first writer wins.

    Returns what stands there then, this table or the earlier one.
    """
    data = to_parquet(table)
    if not objects.put_if_absent(key, data):
        return read_stored(objects, key)
    return table, describe_bytes(key, table.num_rows, data)


def read_stored(objects: Objects, key: str) -> tuple[pa.Table, ShardInfo]:
    """A Parquet object, and what a manifest says of it; KeyError where there is none."""
    data = objects.get(key)
    table = from_parquet(data, None)
    return table, describe_bytes(key, table.num_rows, data)


def to_bytes(key: str, table: pa.Table) -> bytes:
    """What `write_table` writes."""
    return _to_jsonl(table) if key.endswith(".jsonl") else to_parquet(table)


def read_table(objects: Objects, key: str, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet object; KeyError where there is none."""
    return from_parquet(objects.get(key), columns)


def from_bytes(key: str, data: bytes, columns: list[str], schema: pa.Schema) -> pa.Table:
    """Columns of what `to_bytes` made of a table with this schema."""
    if not key.endswith(".jsonl"):
        return from_parquet(data, columns)
    rows = [json.loads(line) for line in data.split(b"\n") if line]
    part = pa.schema([schema.field(name) for name in columns])
    return pa.Table.from_pylist([{name: row[name] for name in columns} for row in rows], part)


def describe_bytes(key: str, rows: int, data: bytes) -> ShardInfo:
    """What a manifest says of an object with these bytes; writes nothing."""
    return ShardInfo(key, rows, len(data), hashlib.sha256(data).hexdigest())


def from_parquet(data: bytes, columns: list[str] | None = None) -> pa.Table:
    """The table, or these columns of it, that `to_parquet` made the bytes of."""
    # on the calling thread alone: Arrow's pools, once started, can abort a short-lived process as
    # it exits (apache/arrow#34314)
    with pq.ParquetFile(pa.BufferReader(data)) as stored:
        return stored.read(columns, use_threads=False)


def to_parquet(table: pa.Table) -> bytes:
    """A table as Parquet; the bytes depend on it and the pyarrow version only.

    Embeddings, numbers of 16 bits, have no dictionary and no statistics, which would take ten times
    as long and more room: the first bytes of all, then the second ones, take less of both.
    """
    leaves = [leaf for field in table.schema for leaf in _leaves(field.name, field.type)]
    halves = [path for path, type_ in leaves if pa.types.is_float16(type_)]
    others = [path for path, _ in leaves if path not in halves]
    stream = io.BytesIO()  # grows in place, and gives its bytes away without a copy
    pq.write_table(
        table,
        stream,
        row_group_size=_EMBEDDED_ROWS if halves else None,
        compression="zstd",
        use_dictionary=others if halves else True,
        write_statistics=others if halves else True,
        column_encoding=dict.fromkeys(halves, "BYTE_STREAM_SPLIT") or None,
    )
    return stream.getvalue()


def _leaves(path: str, type_: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    """The columns that Parquet makes of one, by their paths there."""
    if pa.types.is_list(type_):
        yield from _leaves(f"{path}.list.element", type_.value_type)
    elif pa.types.is_struct(type_):
        for child in type_:
            yield from _leaves(f"{path}.{child.name}", child.type)
    else:
        yield path, type_


def _to_jsonl(table: pa.Table) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist()).encode()
