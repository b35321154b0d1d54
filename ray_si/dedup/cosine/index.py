"""The exact cosine index."""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import IO

import numpy as np

from ray_si.dedup.cosine import file, products
from ray_si.dedup.cosine.chunk import CAPACITY, Best, Chunk
from ray_si.dedup.cosine.codes import SAMPLE, Rotation, encode_queries, fit
from ray_si.dedup.cosine.scalar import normalized

_QUERIES = 480
"""Queries a thread takes at a time: their codes and some rows' stay in its fastest cache."""

_GROWTH = 8
"""The rotation is fitted anew whenever there are so many times as many rows as it was fitted to."""


class CosineIndex:
    """Finds, for each query, the embedding with the highest cosine above a threshold.

    Exact: scores, ids and whether there is one equal those of comparing with every row, one by one,
    in double precision (`ray_si.dedup.cosine.scalar`), however rows and queries come in batches.
    What cannot be above the threshold is passed over by products of 8-bit integers that bound the
    cosine from above (`ray_si.dedup.cosine.codes`); zero rows have a cosine of 0 with everything.

    In memory are the codes, dimension + 76 bytes a row. The rows themselves stand in a temporary
    file without a name, in ``folder`` (default: the system's), but for the last 16,384 at most. Not
    for several threads at once; `search` uses ``threads`` of its own (default: the cores this
    process may use). ``model`` names what made the embeddings, for `load` to compare.

    Raises ValueError for a threshold outside (0, 1].
    """

    def __init__(
        self,
        dimension: int,
        threshold: float = 0.9,
        *,
        model: str | None = None,
        folder: str | os.PathLike[str] | None = None,
        threads: int | None = None,
    ) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold must lie in (0, 1], not {threshold}")
        self.dimension, self.threshold, self.model = dimension, threshold, model
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
        """Append rows, shape (n, dimension), scaled to length 1; ids go on from ``len(self)``.

        Raises ValueError for another width, NaN or infinity; nothing is added then. OSError where
        the file of rows cannot grow; the first ``len(self)`` rows are in then.
        """
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

    def search(
        self, embeddings: np.ndarray, threshold: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best match of each row above the threshold, the earliest of equals.

        Returns cosines (float64, 0 where there is none) and ids (int64, -1), both of shape (n,).
        ``threshold`` replaces the index's own, say a higher one. Raises ValueError for another
        width, NaN or infinity.
        """
        queries = self._checked(embeddings)
        above = self.threshold if threshold is None else threshold
        best = Best(np.full(len(queries), above), np.full(len(queries), -1, np.int64))
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
        return np.where(best.ids < 0, 0.0, best.cosines), best.ids

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one file, atomically. OSError where that cannot be done."""
        header = {
            "dimension": self.dimension,
            "threshold": self.threshold,
            "model": self.model,
            "rows": len(self),
        }
        file.save(path, header, (chunk.rows for chunk in self._chunks))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        dimension: int | None = None,
        threshold: float | None = None,
        model: str | None = None,
        folder: str | os.PathLike[str] | None = None,
        threads: int | None = None,
    ) -> CosineIndex:
        """Read what `save` wrote; the codes are made anew.

        Raises ValueError where the file is damaged, is no index, or was made for another dimension,
        threshold or model than the one named; OSError where it cannot be read.
        """
        with file.opened(path) as (header, parts):
            for name, wanted in (
                ("dimension", dimension),
                ("threshold", threshold),
                ("model", model),
            ):
                if wanted is not None and header[name] != wanted:
                    raise ValueError(f"{path} was made for {name} {header[name]}, not {wanted}")
            index = cls(
                header["dimension"],
                header["threshold"],
                model=header["model"],
                folder=folder,
                threads=threads,
            )
            for rows in parts:
                index.add(rows)
        return index

    def _search(self, vectors: np.ndarray, best: Best) -> None:
        if self._rotation is None:
            return
        queries = encode_queries(self._rotation, vectors)
        factors = products.factors(queries.codes)
        for chunk in self._chunks:
            chunk.search(vectors, queries, factors, self._rotation.step, best)

    def _begin_chunk(self) -> None:
        if self._chunks:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
            memory = self._chunks[-1].move_to(self._file)
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
