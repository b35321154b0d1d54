"""Rows of a cosine index on this machine's processors: codes in memory, rows in a file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO

import numpy as np

from ray_si.dedup.cosine import products
from ray_si.dedup.cosine.chunk import CAPACITY, Best, Chunk
from ray_si.dedup.cosine.codes import SAMPLE, Rotation, encode_queries, fit
from ray_si.dedup.cosine.scalar import normalized

_QUERIES = 480
"""Queries a thread takes at a time: their codes and some rows' stay in its fastest cache."""

_GROWTH = 8
"""The rotation is fitted anew whenever there are so many times as many rows as it was fitted to."""


class RowsFileError(OSError):
    """The file of the rows cannot grow; the message says where it stands, and what to do."""


class HostRows:
    """Rows by their codes, and the exact search among them.

    The rows themselves stand in a temporary file without a name, in ``folder`` (default: the
    system's), but for the last 16,384 at most. `search` uses ``threads`` of its own (default: the
    cores this process may use).
    """

    def __init__(
        self,
        dimension: int,
        folder: str | os.PathLike[str] | None = None,
        threads: int | None = None,
    ) -> None:
        self.dimension = dimension
        self._folder = folder
        self._threads = threads or len(os.sched_getaffinity(0))
        self._chunks: list[Chunk] = []
        self._file: IO[bytes] | None = None
        self._rotation: Rotation | None = None
        self._fitted = 0

    def __len__(self) -> int:
        return sum(map(len, self._chunks))

    @property
    def nbytes(self) -> int:
        """Bytes of the codes."""
        return sum(chunk.nbytes for chunk in self._chunks)

    def add(self, embeddings: np.ndarray) -> None:
        """See `CosineIndex.add`."""
        rows = self._checked(embeddings)
        while len(rows):
            if not self._chunks or len(self._chunks[-1]) == CAPACITY:
                self._begin_chunk()
            part = rows[: CAPACITY - len(self._chunks[-1])]
            if self._rotation is None:
                self._rotation, self._fitted = fit(part), len(part)
            self._chunks[-1].add(part, self._rotation)
            rows = rows[len(part) :]
        if len(self) >= _GROWTH * self._fitted:
            self._fit()

    def search(self, embeddings: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        """Cosines, or the threshold where none is above it, and ids, or -1; both of shape (n,)."""
        queries = self._checked(embeddings)
        best = Best(np.full(len(queries), threshold), np.full(len(queries), -1, np.int64))
        size = min(_QUERIES, max(1, -(-len(queries) // self._threads)))
        parts = [slice(start, start + size) for start in range(0, len(queries), size)]

        def search(part: slice) -> None:
            self._search(queries[part], Best(best.cosines[part], best.ids[part]))

        if len(parts) <= 1 or self._threads == 1:
            for part in parts:
                search(part)
        else:
            with ThreadPoolExecutor(self._threads) as threads:
                list(threads.map(search, parts))
        return best.cosines, best.ids

    def pairs(
        self, embeddings: np.ndarray, threshold: float, room: int
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """All pairs above the threshold; None where there are more than ``room``.

        Queries and ids, int64, shape (pairs, 2), and cosines, float64.
        """
        queries = self._checked(embeddings)
        found = [(np.zeros((0, 2), np.int64), np.zeros(0))]
        for start in range(0, len(queries), _QUERIES):
            for pairs, cosines in self._pairs(queries[start : start + _QUERIES], threshold, room):
                found.append((pairs + np.array([start, 0]), cosines))
                room -= len(pairs)
                if room < 0:
                    return None
        return np.concatenate([pairs for pairs, _ in found]), np.concatenate([c for _, c in found])

    def _pairs(
        self, vectors: np.ndarray, threshold: float, room: int
    ) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        """Those of each chunk, some of them where there are more than ``room``."""
        if self._rotation is None:
            return ()
        step, queries = self._rotation.step, encode_queries(self._rotation, vectors)
        factors = products.factors(queries.codes)

        def find(chunk: Chunk) -> tuple[np.ndarray, np.ndarray]:
            return chunk.above(vectors, queries, factors, step, threshold, room)

        if len(self._chunks) == 1 or self._threads == 1:
            return map(find, self._chunks)
        with ThreadPoolExecutor(self._threads) as threads:
            return list(threads.map(find, self._chunks))

    def parts(self) -> Iterator[np.ndarray]:
        """The rows as they were normalized, float32, in parts of shape (n, dimension)."""
        return (chunk.rows for chunk in self._chunks)

    def _search(self, vectors: np.ndarray, best: Best) -> None:
        if self._rotation is None:
            return
        queries = encode_queries(self._rotation, vectors)
        factors = products.factors(queries.codes)
        for chunk in self._chunks:
            chunk.search(vectors, queries, factors, self._rotation.step, best)

    def _begin_chunk(self) -> None:
        if self._chunks:
            try:
                if self._file is None:
                    self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
                memory = self._chunks[-1].move_to(self._file)
            except OSError as error:
                raise RowsFileError(self._full(error)) from error
        else:
            memory = np.empty((CAPACITY, self.dimension), np.float32)
        self._chunks.append(Chunk(memory, len(self)))

    def _fit(self) -> None:
        """Fit the rotation to rows of all chunks, and make all coarse codes anew."""
        step = -(-len(self) // SAMPLE)
        self._rotation = fit(np.concatenate([chunk.rows[::step] for chunk in self._chunks]))
        self._fitted = len(self)
        for chunk in self._chunks:
            chunk.encode(self._rotation)

    def _checked(self, embeddings: np.ndarray) -> np.ndarray:
        rows = normalized(embeddings)
        if rows.shape[1] != self.dimension:
            raise ValueError(
                f"embeddings have {rows.shape[1]} numbers, the index has {self.dimension}"
            )
        return rows

    def _full(self, error: OSError) -> str:
        folder = self._folder or tempfile.gettempdir()
        have = f"{len(self):,} embeddings of {self.dimension} numbers"
        return (
            f"{have} fill {folder}, and each further one takes {4 * self.dimension:,} bytes "
            f"({error.strerror}): free some space, or set TMPDIR to a larger disk"
        )
