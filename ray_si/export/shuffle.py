"""Random numbers for rows, and a shuffle that holds one bucket of rows in memory at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

_BUFFER = 1 << 18
"""Bytes of a bucket that are written at once."""


def row_numbers(seed: int, purpose: str, start: int, count: int) -> np.ndarray:
    """A random number, uint64, for each of the rows from ``start`` on, shape (count,).

    SplitMix64 (Steele, Lea and Flood 2014) at the row's place, from a state that seed and purpose
    give: a row's number depends on nothing else.
    """
    state = int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8], "big")
    places = np.arange(start + 1, start + count + 1, dtype=np.uint64)
    mixed = np.uint64(state) + places * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: np.ndarray = mixed ^ (mixed >> np.uint64(31))
    return result


class Shuffle:
    """Puts lines in the order of their numbers, equal ones as they came.

    Lines are spilt into ``buckets`` files of a folder by the size of their numbers, then each
    bucket is sorted in memory. The order does not depend on how many buckets there are.
    """

    def __init__(self, folder: Path, buckets: int) -> None:
        folder.mkdir()
        self._paths = [folder / f"{bucket:05d}" for bucket in range(buckets)]
        self._lines: list[list[bytes]] = [[] for _ in range(buckets)]
        self._numbers: list[list[int]] = [[] for _ in range(buckets)]
        self._sizes = [0] * buckets

    def add(self, lines: Sequence[bytes], numbers: np.ndarray) -> None:
        """Take lines, which bring their ends, and their numbers, uint64."""
        width = np.uint64(-(-(1 << 64) // len(self._paths)) - 1)
        places = np.minimum(numbers // width, np.uint64(len(self._paths) - 1)).tolist()
        for line, number, bucket in zip(lines, numbers.tolist(), places, strict=True):
            self._lines[bucket].append(line)
            self._numbers[bucket].append(number)
            self._sizes[bucket] += len(line)
            if self._sizes[bucket] >= _BUFFER:
                self._spill(bucket)

    def _spill(self, bucket: int) -> None:
        path = self._paths[bucket]
        with path.open("ab") as stream:
            stream.write(b"".join(self._lines[bucket]))
        with path.with_suffix(".numbers").open("ab") as stream:
            stream.write(np.array(self._numbers[bucket], np.uint64).tobytes())
        self._lines[bucket], self._numbers[bucket], self._sizes[bucket] = [], [], 0

    def sorted(self) -> Iterator[list[bytes]]:
        """All lines in order, a bucket at a time; the next one is read meanwhile. Once only."""
        with ThreadPoolExecutor(1) as reader:
            upcoming = reader.submit(self._read, 0)
            for bucket in range(len(self._paths)):
                lines = upcoming.result()
                if bucket + 1 < len(self._paths):
                    upcoming = reader.submit(self._read, bucket + 1)
                yield lines

    def _read(self, bucket: int) -> list[bytes]:
        self._spill(bucket)
        path = self._paths[bucket]
        lines = path.read_bytes().splitlines(keepends=True)
        numbers = np.fromfile(path.with_suffix(".numbers"), np.uint64)
        path.unlink()
        path.with_suffix(".numbers").unlink()
        return [lines[i] for i in np.argsort(numbers, kind="stable").tolist()]
