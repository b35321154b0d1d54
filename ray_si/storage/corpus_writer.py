"""Writing corpora: records as they were stored, or new rows."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from ray_si.storage.corpus import format_of
from ray_si.storage.files import writing

_GROUP_ROWS = 100_000
_GROUP_BYTES = 64 << 20
"""A row group ends at whichever comes first."""


class JsonlWriter:
    """Writes lines to a local ``path``, compressed where its extension says so."""

    def __init__(self, path: str, location: str) -> None:
        self._location = location
        with writing(location):
            self._stream = fs.LocalFileSystem().open_output_stream(
                path, compression=format_of(path).codec
            )

    def write(self, lines: list[bytes]) -> None:
        """Append lines, which bring their ends."""
        with writing(self._location):
            self._stream.write(b"".join(lines))

    def write_rows(self, rows: list[dict[str, Any]]) -> None:
        """Append rows as JSON objects."""
        self.write([json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows])

    def close(self) -> None:
        """Flush and close."""
        with writing(self._location):
            self._stream.close()


class ParquetWriter:
    """Writes record batches of one schema to a local ``path``, in row groups of useful size."""

    def __init__(self, path: str, location: str, schema: pa.Schema) -> None:
        self._location = location
        self._schema = schema
        self._pending: list[pa.RecordBatch] = []
        with writing(location):
            self._writer = pq.ParquetWriter(
                path,
                schema,
                compression="zstd",
                use_compliant_nested_type=False,  # the names within lists stay too
            )

    def write(self, records: pa.RecordBatch) -> None:
        """Append rows; columns may come in another order, and strings of another kind."""
        if records.schema != self._schema:
            with writing(self._location):
                records = records.select(self._schema.names).cast(self._schema)
        self._pending.append(records)
        rows = sum(len(batch) for batch in self._pending)
        if rows >= _GROUP_ROWS or sum(batch.nbytes for batch in self._pending) >= _GROUP_BYTES:
            self._flush()

    def write_rows(self, rows: list[dict[str, Any]]) -> None:
        """Append rows given as mappings of column to value."""
        self.write(pa.RecordBatch.from_pylist(rows, self._schema))

    def close(self) -> None:
        """Write what is pending, and the footer."""
        self._flush()
        with writing(self._location):
            self._writer.close()

    def _flush(self) -> None:
        with writing(self._location):
            if self._pending:
                self._writer.write_table(pa.Table.from_batches(self._pending, self._schema))
        self._pending = []


def open_writer(path: str, location: str, schema: pa.Schema | None) -> JsonlWriter | ParquetWriter:
    """A writer of the format that ``path`` says; errors name ``location``.

    Parquet needs a ``schema``.
    """
    if format_of(path).kind == "JSONL":
        return JsonlWriter(path, location)
    return ParquetWriter(path, location, schema)
