"""Lines of JSON into files: cut into shards, compressed or turned into Parquet, and hashed."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json as pj
import pyarrow.parquet as pq

_BLOCK = 4 << 20
"""Bytes of lines that are compressed at once, each block by itself."""
_GROUP = 32 << 20
"""Bytes of lines that become a row group of Parquet."""
_GZIP_LEVEL = 4
"""Four times as fast as gzip's own 6, for files 6 % larger."""
_WAITING = 4
"""Blocks for each thread that may wait to be written."""

KINDS = ("jsonl", "jsonl.gz", "jsonl.zst", "parquet")
"""Kinds of files, by their suffix."""


@dataclass(frozen=True)
class Written:
    """A finished shard; ``size`` is in bytes, ``sha256`` hex."""

    path: Path
    rows: int
    size: int
    sha256: str


class ShardFiles:
    """Writes lines to numbered files in a folder, in order; ``with`` ends its threads.

    A shard ends at ``rows``, or before the line with which it would exceed ``bytes_`` of JSON,
    whichever comes first; without either there is one. Compressed shards are sequences of gzip
    members or Zstandard frames, which every reader takes for one. The bytes of all but Parquet
    depend on the lines alone (and the compression library).
    """

    def __init__(
        self,
        folder: Path,
        kind: str,
        schema: pa.Schema,
        *,
        rows: int | None = None,
        bytes_: int | None = None,
    ) -> None:
        folder.mkdir()
        self._folder, self._kind, self._schema = folder, kind, schema
        self._most_rows, self._most_bytes = rows, bytes_
        self._block_size = _GROUP if kind == "parquet" else _BLOCK
        threads = len(os.sched_getaffinity(0))
        self._workers = ThreadPoolExecutor(threads)
        self._writer = ThreadPoolExecutor(1)  # one, so that blocks are written in order
        self._waiting: deque[Future[None]] = deque()
        self._most_waiting = 2 if kind == "parquet" else _WAITING * threads
        self._shards: list[_Shard] = []
        self._rows = self._bytes = 0  # of the shard being filled
        self._lines: list[bytes] = []
        self._pending = 0

    def __enter__(self) -> ShardFiles:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in (self._workers, self._writer):
            pool.shutdown(cancel_futures=True)

    def add(self, lines: Sequence[bytes]) -> None:
        """Append lines, which bring their ends."""
        while lines:
            fitting = self._fitting(lines)
            if not fitting:
                self._end_shard()
                continue
            self._take(lines[:fitting])
            lines = lines[fitting:]

    def finish(self) -> list[Written]:
        """Write what is pending; the shards, in order."""
        self._end_shard()
        while self._waiting:
            self._waiting.popleft().result()
        return [shard.written for shard in self._shards]

    def _fitting(self, lines: Sequence[bytes]) -> int:
        """How many of the lines the current shard still takes; one at least in an empty shard."""
        count = len(lines)
        if self._most_rows is not None:
            count = min(count, self._most_rows - self._rows)
        if self._most_bytes is None:
            return count
        total = self._bytes
        for i in range(count):
            total += len(lines[i])
            if total > self._most_bytes:
                return max(i, 1) if not self._rows else i
        return count

    def _take(self, lines: Sequence[bytes]) -> None:
        if not self._rows:
            path = self._folder / f"{len(self._shards):05d}"
            shard = _ParquetShard if self._kind == "parquet" else _Shard
            self._shards.append(shard(path, self._schema))
        size = sum(map(len, lines))
        self._rows += len(lines)
        self._bytes += size
        self._pending += size
        self._lines.extend(lines)
        if self._pending >= self._block_size:
            self._end_block()

    def _end_block(self) -> None:
        if not self._lines:
            return
        block, rows = b"".join(self._lines), len(self._lines)
        self._lines, self._pending = [], 0
        encode = _ENCODE.get(self._kind) or (lambda data: _parsed(data, self._schema))
        encoded = self._workers.submit(encode, block)
        self._waiting.append(self._writer.submit(_write, self._shards[-1], encoded, rows))
        while len(self._waiting) > self._most_waiting:
            self._waiting.popleft().result()

    def _end_shard(self) -> None:
        self._end_block()
        if self._rows:
            self._waiting.append(self._writer.submit(self._shards[-1].close))
        self._rows = self._bytes = 0


def _gzipped(data: bytes) -> bytes:
    return gzip.compress(data, _GZIP_LEVEL, mtime=0)


def _zstandard(data: bytes) -> bytes:
    compressed: bytes = pa.compress(data, "zstd", asbytes=True)
    return compressed


def _parsed(data: bytes, schema: pa.Schema) -> pa.Table:
    # one block, so that a line may be of any length; no thread of Arrow's: see `shards`
    read = pj.ReadOptions(use_threads=False, block_size=len(data) + 1)
    parse = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
    return pj.read_json(pa.BufferReader(data), read, parse)


_ENCODE: dict[str, Callable[[bytes], Any]] = {
    "jsonl": bytes,
    "jsonl.gz": _gzipped,
    "jsonl.zst": _zstandard,
}


def _write(shard: _Shard, encoded: Future[Any], rows: int) -> None:
    shard.write(encoded.result())
    shard.rows += rows


class _Shard:
    """One file, hashed as it is written; a sink for Arrow, too."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._stream = path.open("wb")
        self._digest = hashlib.sha256()
        self.rows = 0

    def write(self, data: Any) -> None:
        self._stream.write(data)
        self._digest.update(data)

    def close(self) -> None:
        self._stream.close()

    @property
    def written(self) -> Written:
        size = self._path.stat().st_size
        return Written(self._path, self.rows, size, self._digest.hexdigest())


class _ParquetShard(_Shard):
    """A Parquet file of one row group for each table."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        super().__init__(path, schema)
        self._parquet = pq.ParquetWriter(_Sink(super().write), schema, compression="zstd")

    def write(self, data: Any) -> None:
        self._parquet.write_table(data)

    def close(self) -> None:
        self._parquet.close()
        super().close()


class _Sink:
    """As much of a file as Arrow needs to write to."""

    closed = False

    def __init__(self, write: Callable[[Any], None]) -> None:
        self._write, self._place = write, 0

    def write(self, data: Any) -> int:
        self._write(data)
        self._place += len(data)
        return len(data)

    def tell(self) -> int:
        return self._place

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True
