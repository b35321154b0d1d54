"""Corpora: files of rows with a text in each, read in batches that keep the rows as stored.

JSON Lines (plain, gzip or Zstandard) and Parquet, told apart by extension, local or on S3. A file
without rows is a corpus too, as are the empty shards that jobs leave behind.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ray_si.errors import CorpusError, one_line
from ray_si.storage.files import File, reading

_BATCH_BYTES = 64 << 20
"""A batch ends at about this size, however few rows it has."""
_BUFFER = 4 << 20
"""Bytes read at once: one request on S3."""
PART_BYTES = 64 << 20
"""Least size of a part that may be read apart from the others, where a file can be cut."""
_BOM = b"\xef\xbb\xbf"
_HINT = "name one with --text-field"
_LISTED = 200
"""Characters that an error spends on the names of fields."""

Records: TypeAlias = list[bytes] | pa.RecordBatch
"""Rows as they are stored: lines of JSON with their ends (JSONL), or Arrow columns (Parquet)."""


@dataclass(frozen=True)
class Format:
    """How a corpus is stored."""

    suffix: str
    kind: Literal["JSONL", "Parquet"]
    codec: Literal["gzip", "zstd"] | None = None


FORMATS = (
    Format(".jsonl", "JSONL"),
    Format(".jsonl.gz", "JSONL", "gzip"),
    Format(".jsonl.zst", "JSONL", "zstd"),
    Format(".ndjson", "JSONL"),
    Format(".ndjson.gz", "JSONL", "gzip"),
    Format(".ndjson.zst", "JSONL", "zstd"),
    Format(".parquet", "Parquet"),
)

_METADATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
"""What the Hugging Face libraries put beside the rows."""


def format_of(location: str) -> Format:
    """The format that a file's extension says, in any case; CorpusError where it says none."""
    for format_ in FORMATS:
        if location.lower().endswith(format_.suffix):
            return format_
    known = ", ".join(format_.suffix for format_ in FORMATS)
    raise CorpusError(f"{location}: unknown extension; the name must end in one of {known}")


def holds_rows(location: str) -> bool:
    """Whether a file of this name holds rows: no hidden file, and no metadata of a dataset."""
    name = location.rpartition("/")[2]
    return not name.startswith(".") and name.lower() not in _METADATA


@dataclass(frozen=True)
class CorpusBatch:
    """Consecutive rows of a corpus.

    ``texts`` and ``numbers`` (of the line or row in the file, from 1) are parallel to ``records``.
    ``done`` says how much of the corpus is read, in the unit of its ``size``. ``unreadable`` are
    the rows that were passed over on the way: their numbers, and what is wrong with each. ``last``
    is the number of the last line or row read.
    """

    texts: list[str]
    numbers: list[int]
    records: Records
    done: int
    unreadable: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    last: int = 0

    def take(self, indices: Sequence[int]) -> Records:
        """The records at ``indices``, in that order."""
        if isinstance(self.records, list):
            return [self.records[i] for i in indices]
        return _taken(self.records, indices)

    def numbered_from(self, first: int) -> CorpusBatch:
        """With ``first`` lines or rows before those that it was counted with."""
        return dataclasses.replace(
            self,
            numbers=[first + number for number in self.numbers],
            unreadable=[(first + number, what) for number, what in self.unreadable],
            last=first + self.last,
        )


def _taken(records: pa.RecordBatch, indices: Sequence[int]) -> pa.RecordBatch:
    if not len(indices):
        return records.slice(0, 0)
    # slices, since Arrow cannot take string views
    runs = np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)
    slices = [records.slice(run[0], len(run)) for run in runs]
    (taken,) = pa.Table.from_batches(slices).combine_chunks().to_batches()
    return taken


class JsonlCorpus:
    """JSON objects, one a line; blank lines are passed over, as are byte order marks before lines.

    ``field`` is where the texts are, ``size`` the file's bytes as stored.
    """

    schema = None

    def __init__(
        self, file: File, fields: Sequence[str], hint: str = _HINT, *, skip: bool = False
    ) -> None:
        self.file = file
        self.size = file.size()
        self.field = fields[0] if fields else ""
        self.is_empty = True
        self.skips_unreadable = skip
        for number, line in self._all_lines():
            self.is_empty = False
            if not fields:
                break
            try:
                self.field = _choose(fields, list(_row(line)), file.location, hint)
                self._text(line)
            except _UnreadableError as error:
                if not skip:
                    raise self.unreadable(number, error) from error
            else:
                break

    def parts(self) -> list[range]:
        """What `batches` can read apart, in order: bytes of the file. Compressed it is one part."""
        if self.is_empty:
            return []
        step = self.size if format_of(self.file.location).codec else PART_BYTES
        return [range(i, min(i + step, self.size)) for i in range(0, self.size, step)]

    def batches(self, rows: int, part: range | None = None) -> Iterator[CorpusBatch]:
        """All rows in order, at most ``rows`` in a batch and fewer where they are long.

        Of a ``part`` those that begin in it, counted from its first line; then there is a batch at
        least. Raises CorpusError naming file and line for anything that cannot be read.
        """
        texts: list[str] = []
        numbers: list[int] = []
        lines: list[bytes] = []
        unreadable: list[tuple[int, str]] = []
        size = number = 0
        if self.is_empty:
            return
        with self._open() as (stored, stream):
            for number, line in self._lines(stream, part or range(self.size)):
                if not line.strip():
                    continue
                try:
                    text = self._text(line)
                except _UnreadableError as error:
                    if not self.skips_unreadable:
                        raise self.unreadable(number, error) from error
                    unreadable.append((number, str(error)))
                else:
                    texts.append(text)
                    numbers.append(number)
                    lines.append(line)
                size += len(line)
                if len(lines) + len(unreadable) == rows or size >= _BATCH_BYTES:
                    yield CorpusBatch(texts, numbers, lines, stored.tell(), unreadable, number)
                    texts, numbers, lines, unreadable, size = [], [], [], [], 0
        if lines or unreadable or part:
            done = part.stop if part else self.size
            yield CorpusBatch(texts, numbers, lines, done, unreadable, number)

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """All rows with the numbers of their lines, whatever they hold; CorpusError as above."""
        for number, line in self._all_lines():
            try:
                yield number, _row(line)
            except _UnreadableError as error:
                raise self.unreadable(number, error) from error

    def unreadable(self, number: int, what: object) -> CorpusError:
        """The error that a line of this number is, where such are not passed over."""
        where = f"{self.file.location}, line {number}"
        return CorpusError(f"{where}: {what}; mend or remove the line")

    def _all_lines(self) -> Iterator[tuple[int, bytes]]:
        """The lines that are not blank."""
        if self.size:  # else there is nothing that could be decompressed
            with self._open() as (_, stream):
                for number, line in self._lines(stream, range(self.size)):
                    if line.strip():
                        yield number, line

    @contextmanager
    def _open(self) -> Iterator[tuple[io.BufferedReader, io.BufferedReader]]:
        """The file as stored, and decompressed."""
        codec = format_of(self.file.location).codec
        with (
            reading(self.file.location),
            self.file.filesystem.open_input_file(self.file.path) as raw,
        ):
            stream = stored = io.BufferedReader(raw, _BUFFER)
            if codec:
                stream = io.BufferedReader(pa.CompressedInputStream(stored, codec), _BUFFER)
            yield stored, stream

    def _lines(self, stream: io.BufferedReader, part: range) -> Iterator[tuple[int, bytes]]:
        """The lines that begin in a part of the file, blank ones too, numbered from 1."""
        place, end = part.start, part.stop
        if place:  # a line that began before it ends with the first line end from there on
            stream.seek(place - 1)
            place += len(stream.readline()) - 1
        is_cut = end < self.size
        for number, line in enumerate(stream, 1):
            if is_cut and place >= end:
                return
            place += len(line)
            line = line.removeprefix(_BOM)  # within a file, too, where files were put together
            yield number, line if line.endswith(b"\n") else line + b"\n"

    def _text(self, line: bytes) -> str:
        row = _row(line)
        if self.field not in row:
            raise _UnreadableError(f"no field {self.field!r}; there are: {listed(row)}")
        text = row[self.field]
        if not isinstance(text, str):
            raise _UnreadableError(f"field {self.field!r} {_JSON_NAMES[type(text)]}, not a string")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise _UnreadableError(f"field {self.field!r} has half a surrogate pair") from error
        return text


class _UnreadableError(ValueError):
    """What is wrong with a line."""


def _row(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise _UnreadableError(f"not UTF-8 at byte {error.start + 1}") from error
    except json.JSONDecodeError as error:
        raise _UnreadableError(f"not valid JSON at {error.colno} ({error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise _UnreadableError(f"not JSON that can be read ({error})") from error
    if not isinstance(row, dict):
        raise _UnreadableError("not a JSON object")
    return row


class ParquetCorpus:
    """A Parquet file with its texts in a column of strings of any kind, dictionaries included.

    ``field`` is that column, ``size`` the number of rows. A file of no bytes has no columns.
    """

    def __init__(
        self, file: File, fields: Sequence[str], hint: str = _HINT, *, skip: bool = False
    ) -> None:
        self.file = file
        self.skips_unreadable = skip
        self.schema: pa.Schema = pa.schema([])
        self.size, self._row_bytes = 0, 0.0
        self._groups: list[tuple[int, int]] = []  # rows and bytes of each
        if file.size():
            with self._open() as stored:
                self.schema, self.size = stored.schema_arrow, stored.metadata.num_rows
                groups = (stored.metadata.row_group(i) for i in range(stored.num_row_groups))
                self._groups = [(group.num_rows, group.total_byte_size) for group in groups]
            self._row_bytes = max((size / max(n, 1) for n, size in self._groups), default=0.0)
        self.field = fields[0] if fields else ""
        self.is_empty = not self.size
        if self.is_empty or not fields:  # empty files' columns often have no type
            return
        self.field = _choose(fields, self.schema.names, file.location, hint)
        type_ = self.schema.field(self.field).type
        if not pa.types.is_string(plain_type(type_)):
            raise CorpusError(
                f"{file.location}: column {self.field!r} is of type {type_}, not string; {hint}"
            )

    def parts(self) -> list[range]:
        """What `batches` can read apart, in order: row groups of the file."""
        parts: list[range] = []
        begin = size = 0
        for number, (_, group_bytes) in enumerate(self._groups, 1):
            size += group_bytes
            if size >= PART_BYTES or number == len(self._groups):
                parts.append(range(begin, number))
                begin, size = number, 0
        return parts

    def batches(self, rows: int, part: range | None = None) -> Iterator[CorpusBatch]:
        """All rows in order, at most ``rows`` in a batch and fewer where they are long.

        Of a ``part`` its own, counted from its first. Raises CorpusError naming file and row for
        anything that cannot be read.
        """
        rows = max(1, min(rows, int(_BATCH_BYTES / max(self._row_bytes, 1))))
        if self.is_empty:
            return
        groups = range(len(self._groups)) if part is None else part
        before = sum(count for count, _ in self._groups[: groups.start])
        read = 0
        with self._open() as stored:
            # on this thread alone: Arrow's pools can abort a process as it exits (arrow#34314)
            for records in stored.iter_batches(rows, row_groups=list(groups), use_threads=False):
                column, first = records.column(self.field), read + 1
                read += len(records)
                texts, wrong = _texts_of(column)
                unreadable = [
                    (first + i, f"column {self.field!r} {what}") for i, what in wrong.items()
                ]
                for number, what in unreadable:
                    if not self.skips_unreadable:
                        raise self.unreadable(number, what)
                sound = [i for i in range(len(records)) if i not in wrong]
                numbers = [first + i for i in sound]
                kept = _taken(records, sound) if wrong else records
                yield CorpusBatch(texts, numbers, kept, before + read, unreadable, read)

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """All rows with their numbers, whatever they hold; CorpusError where they are damaged."""
        if self.is_empty:
            return
        number = 0
        with self._open() as stored:
            for records in stored.iter_batches(use_threads=False):
                try:
                    rows = records.to_pylist()
                except UnicodeDecodeError as error:
                    wrong = next(i for i in range(len(records)) if not _is_sound(records, i))
                    raise self.unreadable(number + wrong + 1, "a text is not UTF-8") from error
                yield from enumerate(rows, number + 1)
                number += len(rows)

    def unreadable(self, number: int, what: object) -> CorpusError:
        """The error that a row of this number is, where such are not passed over."""
        where = f"{self.file.location}, row {number}"
        return CorpusError(f"{where}: {what}; mend or remove the row")

    @contextmanager
    def _open(self) -> Iterator[pq.ParquetFile]:
        with (
            reading(self.file.location),
            self.file.filesystem.open_input_file(self.file.path) as source,
            pq.ParquetFile(source, buffer_size=_BUFFER) as stored,
        ):
            yield stored


Corpus = JsonlCorpus | ParquetCorpus


def plain_type(type_: pa.DataType) -> pa.DataType:
    """The type without how it is laid out: string for all strings and dictionaries of them."""
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    if pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        return pa.string()
    return (
        pa.binary() if pa.types.is_large_binary(type_) or pa.types.is_binary_view(type_) else type_
    )


def open_corpus(
    file: File, *fields: str, hint: str = _HINT, skip_unreadable: bool = False
) -> Corpus:
    """A corpus with its texts in the first of ``fields`` that it has; of none, rows alone.

    ``hint`` says what to do where it has none. Looks at the first line or the schema alone. With
    ``skip_unreadable`` rows that cannot be read are passed over and told of, see `CorpusBatch`.
    Raises CorpusError where the file is missing, of an unknown extension or not what that says, or
    has rows and none of the fields.
    """
    kind = format_of(file.location).kind
    corpus = ParquetCorpus if kind == "Parquet" else JsonlCorpus
    return corpus(file, fields, hint, skip=skip_unreadable)


_JSON_NAMES = {
    type(None): "is null",
    bool: "is a boolean",
    int: "is a number",
    float: "is a number",
    list: "is an array",
    dict: "is an object",
}


def _choose(fields: Sequence[str], names: list[str], where: str, hint: str) -> str:
    for field in fields:
        if names.count(field) == 1:
            return field
    raise CorpusError(f"{where}: no field {fields[0]!r}; there are: {listed(names)}; {hint}")


def listed(names: Iterable[str]) -> str:
    """Names of fields as an error has them, which may be any text: in a line, and not too long."""
    return one_line(", ".join(names) or "none", _LISTED)


def _texts_of(column: pa.Array) -> tuple[list[str], dict[int, str]]:
    """The texts in a column of strings; places of what is none, in order, and what it is."""
    try:
        values = column.to_pylist()
        if not column.null_count:
            return values, {}
    except UnicodeDecodeError:
        values = [_decoded(value) for value in column]
    wrong = {
        i: "is not UTF-8" if column[i].is_valid else "is null, not a string"
        for i, value in enumerate(values)
        if value is None
    }
    return [value for value in values if value is not None], wrong


def _is_sound(records: pa.RecordBatch, row: int) -> bool:
    """Whether the texts of a row can be read."""
    try:
        records.slice(row, 1).to_pylist()
    except UnicodeDecodeError:
        return False
    return True


def _decoded(value: pa.Scalar) -> str | None:
    try:
        text: str | None = value.as_py()
    except UnicodeDecodeError:
        return None
    return text
