"""Rows of a cosine index: 16,384 at most, coarse and fine codes in memory, themselves in a file."""

from __future__ import annotations

import mmap
import os
from typing import IO, Any, NamedTuple

import numpy as np
from numba import njit

from ray_si.dedup.cosine import products
from ray_si.dedup.cosine.codes import (
    PREFIX,
    SLACK,
    Fine,
    Queries,
    Rotation,
    encode_fine,
    encode_rows,
    fine_product,
    limits,
)
from ray_si.dedup.cosine.scalar import LONGEST, cosine

CAPACITY = 16_384
"""Rows of a chunk: its coarse codes, 1 MiB, stay in the cache while queries pass over them."""

_SLICE = 4096
"""Rows encoded at a time: bounds their copies in double precision."""

_ROOM = 1 << 17
"""Pairs of a query and a row that the coarse codes may find before they are looked into."""


class Best(NamedTuple):
    """Each query's best match so far: cosines (float64) and ids (int64), shape (n,).

    Where there is none the id is -1, and the cosine the threshold. Searching improves them in
    place.
    """

    cosines: np.ndarray
    ids: np.ndarray


class Chunk:
    """Rows with the ids ``first_id``, ``first_id + 1``, ...

    They stand in ``memory``, float32, shape (CAPACITY, dimension), until they are moved to a file.
    """

    def __init__(self, memory: np.ndarray, first_id: int) -> None:
        dimension = memory.shape[1]
        self._first_id = first_id
        self._size = 0
        self._rows = memory
        self._mapped: mmap.mmap | None = None
        self._coarse = products.empty(CAPACITY)
        self._fine = Fine(
            np.empty((CAPACITY, dimension), np.int8),
            np.empty(CAPACITY, np.float32),
            np.empty(CAPACITY, np.float32),
        )

    def __len__(self) -> int:
        return self._size

    @property
    def rows(self) -> np.ndarray:
        """Its rows, float32, shape (n, dimension), to be read from first to last."""
        if self._mapped is not None:
            self._mapped.madvise(mmap.MADV_WILLNEED)
        return self._rows[: self._size]

    @property
    def nbytes(self) -> int:
        """Bytes of its codes."""
        return sum(part[: self._size].nbytes for part in (*self._fine, self._coarse.biases)) + (
            self._size * PREFIX
        )

    def add(self, rows: np.ndarray, rotation: Rotation) -> None:
        """Append normalized rows, no more than there is room for."""
        end = self._size + len(rows)
        self._rows[self._size : end] = rows
        encode_fine(rows, Fine(*(part[self._size : end] for part in self._fine)))
        self._encode(rows, self._size, rotation)
        self._size = end

    def encode(self, rotation: Rotation) -> None:
        """Make the coarse codes anew, with another rotation."""
        self._encode(self.rows, 0, rotation)

    def _encode(self, rows: np.ndarray, start: int, rotation: Rotation) -> None:
        for first in range(0, len(rows), _SLICE):
            part = rows[first : first + _SLICE]
            products.put(self._coarse, start + first, *encode_rows(rotation, part))

    def move_to(self, file: IO[bytes]) -> np.ndarray:
        """Write the rows of a full chunk to the end of a file and read them from there.

        Returns the memory that they stood in, for the next chunk: given back to the system piece by
        piece it would stay with the process for long. OSError where the file cannot grow; it is as
        it was then.
        """
        assert self._size == CAPACITY
        start, size = os.fstat(file.fileno()).st_size, self._rows.nbytes
        try:
            os.posix_fallocate(file.fileno(), start, size)
            rest = self._rows.data.cast("B")
            while rest:
                rest = rest[os.pwrite(file.fileno(), rest, start + size - len(rest)) :]
        except OSError:
            file.truncate(start)
            raise
        # a multiple of the page, as the number of rows is one
        self._mapped = mmap.mmap(file.fileno(), size, offset=start, access=mmap.ACCESS_READ)
        self._mapped.madvise(mmap.MADV_RANDOM)  # searches read a row here and there
        memory = self._rows
        self._rows = np.frombuffer(self._mapped, np.float32).reshape(memory.shape)
        return memory

    def search(
        self,
        vectors: np.ndarray,
        queries: Queries,
        factors: products.Factors,
        step: float,
        best: Best,
    ) -> None:
        """Improve ``best`` for normalized queries and their coarse codes, of this step."""
        pairs = np.empty((self._room(vectors), 2), np.int32)
        group = 0
        while group * products.GROUP < self._size:
            least = limits(queries, best.cosines, step)
            count, group = products.pairs_above(
                self._coarse, self._size, factors, least, group, pairs
            )
            _settle(vectors, self._rows, self._fine, pairs[:count], self._first_id, best)

    def above(
        self, vectors: np.ndarray, queries: Queries, factors: products.Factors, step: float,
        threshold: float, most: int,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """All pairs of a query and a row's id above the threshold, and their cosines.

        Where there are more than ``most``, some that are more.
        """
        least = limits(queries, np.full(len(vectors), threshold), step)
        pairs = np.empty((self._room(vectors), 2), np.int32)
        found = [(np.zeros((0, 2), np.int64), np.zeros(0))]
        group, total = 0, 0
        while group * products.GROUP < self._size and total <= most:
            count, group = products.pairs_above(
                self._coarse, self._size, factors, least, group, pairs
            )
            cosines = _cosines(vectors, self._rows, self._fine, pairs[:count], threshold)
            kept = np.flatnonzero(cosines > threshold)
            found.append((pairs[kept] + np.array([0, self._first_id]), cosines[kept]))
            total += len(kept)
        return np.concatenate([pairs for pairs, _ in found]), np.concatenate([c for _, c in found])

    @staticmethod
    def _room(vectors: np.ndarray) -> int:
        """Pairs of these queries that are found before they are looked into."""
        return max(_ROOM, products.GROUP * (len(vectors) + products.QUERIES))


@njit(cache=True, nogil=True)
def _cosines(queries: Any, rows: Any, fine: Fine, pairs: Any, threshold: Any) -> Any:
    """Cosines of pairs that coarse codes let pass; the threshold where it is no more than that."""
    cosines = np.full(len(pairs), threshold)
    rounding = 2 * rows.shape[1] * 2.0**-24 + SLACK
    for i, (q, row) in enumerate(pairs):
        product = np.float64(fine.steps[row]) * fine_product(queries[q], fine.codes[row])
        if product + LONGEST * fine.errors[row] + rounding > threshold:
            cosines[i] = max(threshold, cosine(queries[q], rows[row]))
    return cosines


@njit(cache=True, nogil=True)
def _settle(queries: Any, rows: Any, fine: Fine, pairs: Any, first_id: Any, best: Best) -> None:
    """Compare pairs that coarse codes let pass by their fine ones, and what these let pass exactly.

    A query's rows come in the order of their ids, so of equal cosines the first stays.
    """
    rounding = 2 * rows.shape[1] * 2.0**-24 + SLACK
    for q, row in pairs:
        product = np.float64(fine.steps[row]) * fine_product(queries[q], fine.codes[row])
        if product + LONGEST * fine.errors[row] + rounding > best.cosines[q]:
            exact = cosine(queries[q], rows[row])
            if exact > best.cosines[q]:
                best.cosines[q], best.ids[q] = exact, first_id + row
