"""Nearest neighbours by cosine similarity, over FAISS."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from ray_si.dedup.cosine.scalar import exact_cosines, normalized

_POINTS_PER_LIST = 39
"""Training vectors that FAISS wants for each list of an inverted file (its own minimum)."""

_POINTS_OTHERWISE = 10_000
"""Training vectors for other trained kinds: 39 for each of a quantizer's 256 centroids."""


class EmbeddingIndex:
    """Nearest texts by cosine similarity; embeddings are scaled to length 1 here.

    ``factory`` is a FAISS index factory string. "Flat" is exact: candidates found in single
    precision are compared again in double precision in a fixed order, so ids and cosines do not
    depend on how texts are batched or sharded. Every other kind may miss neighbours or round
    cosines; kinds that need training are flat until the pool is large enough, then trained from it.

    Raises ValueError for an unknown factory string.
    """

    def __init__(self, dimension: int, factory: str = "Flat") -> None:
        self._dimension, self._factory = dimension, factory
        try:
            wanted = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            raise ValueError(f"FAISS knows no index {factory!r} for {dimension} numbers") from error
        self._untrained: Any = None if wanted.is_trained else wanted
        self._index: Any = wanted if wanted.is_trained else faiss.IndexFlatIP(dimension)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @staticmethod
    def normalize(embeddings: np.ndarray) -> np.ndarray:
        """Rows scaled to length 1, float32, shape (n, dimension); zero rows stay zero.

        Rows of that length already are kept bit for bit, so doing it twice changes nothing. Raises
        ValueError where the array has another shape, or a number is not finite.
        """
        return normalized(embeddings)

    def add(self, normalized: np.ndarray) -> None:
        """Append rows of shape (n, dimension); their ids go on from ``len(self)``.

        Raises ValueError where the width is another.
        """
        self._check(normalized)
        self._index.add(normalized)
        if self._untrained is not None and len(self) >= self._training_points():
            rows = self._index.reconstruct_n(0, len(self))
            self._untrained.train(rows)
            self._untrained.add(rows)
            self._index, self._untrained = self._untrained, None

    def _training_points(self) -> int:
        inverted = faiss.try_extract_index_ivf(self._untrained)
        return _POINTS_PER_LIST * int(inverted.nlist) if inverted else _POINTS_OTHERWISE

    def nearest(self, normalized: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(ids, cosines) of the nearest row for each query, the earliest of equals.

        int64 and float64, both of shape (n,); -1 and -1.0 where the index is empty. Raises
        ValueError where the width is another.
        """
        self._check(normalized)
        if not len(self):
            return np.full(len(normalized), -1), np.full(len(normalized), -1.0)
        if not isinstance(self._index, faiss.IndexFlat):
            cosines, ids = self._index.search(normalized, 1)
            return ids[:, 0], cosines[:, 0].astype(np.float64)
        ids, cosines = np.empty(len(normalized), np.int64), np.empty(len(normalized))
        rows, k = np.arange(len(normalized)), 2
        while len(rows):
            rough, near = self._index.search(normalized[rows], min(k, len(self)))
            # within rounding of the last one found there may be others, one of them the nearest
            open_ = (rough[:, -1] >= rough[:, 0] - 2 * rounding(self._dimension)) & (k < len(self))
            for row, found in zip(rows[~open_], near[~open_], strict=True):
                stored = np.stack([self._index.reconstruct(int(i)) for i in found])
                ids[row], cosines[row] = nearest_of(normalized[row], stored, found)
            rows, k = rows[open_], 8 * k
        return ids, cosines

    def _check(self, normalized: np.ndarray) -> None:
        if normalized.shape[1] != self._dimension:
            raise ValueError(
                f"embeddings have {normalized.shape[1]} numbers, the index has {self._dimension}"
            )


def rounding(dimension: int) -> float:
    """More than a single-precision inner product of unit vectors is off, whatever its order.

    Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1.
    """
    return 1.01 * dimension * 2.0**-24


def nearest_of(query: np.ndarray, rows: np.ndarray, ids: np.ndarray) -> tuple[int, float]:
    """Id and cosine of the row nearest to a query, the smallest id of equals; all normalized."""
    cosines = exact_cosines(query, rows)
    best = np.lexsort((ids, -cosines))[0]
    return int(ids[best]), float(cosines[best])
