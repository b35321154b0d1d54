"""Nearest neighbours by cosine similarity, over FAISS."""

from __future__ import annotations

import faiss
import numpy as np


class EmbeddingIndex:
    """An exact flat inner-product index over embeddings, which are scaled to length 1 here."""

    def __init__(self, dimension: int) -> None:
        self._index = faiss.IndexFlatIP(dimension)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @staticmethod
    def normalize(embeddings: np.ndarray) -> np.ndarray:
        """Rows scaled to length 1, float32, shape (n, dimension); zero rows stay zero."""
        embeddings = np.ascontiguousarray(embeddings, np.float32)
        norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
        return embeddings / np.where(norms == 0, 1, norms)

    def add(self, normalized: np.ndarray) -> None:
        """Append rows of shape (n, dimension); their ids go on from ``len(self)``."""
        self._index.add(normalized)

    def nearest(self, normalized: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(ids, cosines) of the nearest row for each query, both of length n; id -1 where empty."""
        if not len(self):
            return np.full(len(normalized), -1), np.zeros(len(normalized), np.float32)
        scores, ids = self._index.search(normalized, 1)
        return ids[:, 0], scores[:, 0]
