"""A cosine index as one file: a header of JSON, then its rows, float32, one after the other.

Nothing in a file is believed: its size has to be what the header says, its checksum right, and
every row of length 1, or zero.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from ray_si.dedup.cosine.scalar import normalized
from ray_si.dedup.index_file import parse_header, replacing

_KIND = "ray_si cosine index"
_FORMAT = 1
_HEADER = 4096
_READ = 16_384
_WIDEST = 1 << 16


def save(path: str | os.PathLike[str], header: dict[str, Any], parts: Iterable[np.ndarray]) -> None:
    """Write beside the path, make durable, then rename; OSError where that cannot be done.

    ``header`` has the dimension, the threshold, the model (or None) and the number of rows.
    """
    with replacing(path) as stream:
        stream.write(bytes(_HEADER))
        checksum = 0
        for part in parts:
            data = np.ascontiguousarray(part, "<f4").data.cast("B")
            checksum = zlib.crc32(data, checksum)
            stream.write(data)
        full = {"kind": _KIND, "format": _FORMAT, **header, "crc32": checksum}
        text = json.dumps(full).encode()
        if len(text) > _HEADER:
            raise ValueError("the model's name is too long for an index file")
        stream.seek(0)
        stream.write(text.ljust(_HEADER))


@contextmanager
def opened(
    path: str | os.PathLike[str],
) -> Iterator[tuple[dict[str, Any], Iterator[np.ndarray]]]:
    """The header of a file that `save` wrote, and its rows in parts, each of shape (n, dimension).

    ValueError where the file is damaged or something else, some of it as the parts are read;
    OSError.
    """
    with Path(path).open("rb") as stream:
        try:
            header = _header(stream)
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(path, error) from error
        yield header, _rows(path, stream, header)


def _damaged(path: str | os.PathLike[str], why: object) -> ValueError:
    return ValueError(f"{path} is damaged or not a cosine index: {why}")


def _header(stream: IO[bytes]) -> dict[str, Any]:
    header = parse_header(stream.read(_HEADER))
    if header["kind"] != _KIND:
        raise ValueError("its header is of another kind")
    if header["format"] != _FORMAT:
        raise ValueError(f"its format is {header['format']}, this version reads {_FORMAT}")
    dimension, rows = header["dimension"], header["rows"]
    if not (type(dimension) is type(rows) is type(header["crc32"]) is int):
        raise ValueError("a number of its header is of another type")
    size = os.fstat(stream.fileno()).st_size
    if not (0 < dimension <= _WIDEST and rows >= 0):
        raise ValueError(f"it says to have {rows} rows of {dimension} numbers")
    if size != _HEADER + 4 * dimension * rows:
        raise ValueError(f"{rows} rows of {dimension} numbers do not take {size} bytes")
    threshold = header["threshold"]
    if type(threshold) not in (int, float) or not 0 < threshold <= 1:
        raise ValueError(f"its threshold is {threshold!r}")
    if not isinstance(header["model"], str | None):
        raise ValueError("its model is no name")
    return header


def _rows(
    path: str | os.PathLike[str], stream: IO[bytes], header: dict[str, Any]
) -> Iterator[np.ndarray]:
    checksum, dimension = 0, header["dimension"]
    while data := stream.read(_READ * 4 * dimension):
        checksum = zlib.crc32(data, checksum)
        part = np.frombuffer(data, "<f4").reshape(-1, dimension).astype(np.float32)
        try:
            scaled = normalized(part)
        except ValueError as error:
            raise _damaged(path, error) from error
        if not np.array_equal(scaled, part):
            raise _damaged(path, "a row of it is not of length 1")
        yield part
    if checksum != header["crc32"]:
        raise _damaged(path, "its checksum is another")
