"""What has been accepted so far, searchable both ways; and the interface that a sharded one has."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import numpy as np

from ray_si.dedup.cosine import CosineIndex
from ray_si.dedup.embedding_index import EmbeddingIndex
from ray_si.dedup.rouge_index import RougeIndex, Similar
from ray_si.dedup.segment import Best
from ray_si.dedup.tokens import Tokenizer

EXACT = "exact"
"""The kind of embedding index that finds what is above a threshold, and nothing else."""

EXACT_KINDS = (EXACT, "Flat")
"""Kinds whose decisions are those of comparing with every embedding."""


class Pool(Protocol):
    """Texts with consecutive ids, in the order in which they were added."""

    def __len__(self) -> int: ...

    def add(self, texts: Sequence[str], embeddings: np.ndarray | None) -> None:
        """Append texts; ``embeddings`` are normalized, shape (n, dimension)."""

    def nearest_by_rouge(self, texts: Sequence[str]) -> Best:
        """The best match of each text above the threshold, the earliest of equals."""

    def nearest_by_cosine(
        self, normalized: np.ndarray, threshold: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids and cosines of the nearest text, the earliest of equals, shape (n,).

        -1 and -1.0 where the pool is empty, and for the index `EXACT` where the nearest is not
        above the threshold.
        """

    def most_similar(self, texts: Sequence[str], k: int) -> list[Similar]:
        """The k nearest by ROUGE-L of each text, whatever the threshold."""

    def texts(self, ids: Sequence[int]) -> list[str]:
        """The texts with these ids."""

    def set_rouge(self, threshold: float) -> None:
        """Search with another, not lower, threshold from now on."""


class LocalPool:
    """A pool in this process; ``device`` is where an exact index lies and searches."""

    def __init__(
        self,
        rouge: float,
        tokenizer: Tokenizer = "auto",
        embedding_index: str = EXACT,
        threads: int | None = None,
        device: str = "cpu",
    ) -> None:
        self._rouge = RougeIndex(rouge, tokenizer, threads=threads)
        self._make_index = partial(make_index, kind=embedding_index, threads=threads, device=device)
        self._embeddings: CosineIndex | EmbeddingIndex | None = None
        self._texts: list[str] = []

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, texts: Sequence[str], embeddings: np.ndarray | None) -> None:
        """See `Pool`."""
        if embeddings is not None and len(embeddings):
            if self._embeddings is None:
                self._embeddings = self._make_index(embeddings.shape[1])
            self._embeddings.add(embeddings)
        self._rouge.add(texts)
        self._texts.extend(texts)

    def nearest_by_rouge(self, texts: Sequence[str]) -> Best:
        """See `Pool`."""
        return self._rouge.best(texts)

    def nearest_by_cosine(
        self, normalized: np.ndarray, threshold: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Pool`."""
        if self._embeddings is None:
            return np.full(len(normalized), -1), np.full(len(normalized), -1.0)
        return nearest(self._embeddings, normalized, threshold)

    def most_similar(self, texts: Sequence[str], k: int) -> list[Similar]:
        """See `Pool`."""
        return self._rouge.most_similar(texts, k)

    def texts(self, ids: Sequence[int]) -> list[str]:
        """See `Pool`."""
        return [self._texts[i] for i in ids]

    def set_rouge(self, threshold: float) -> None:
        """See `Pool`."""
        self._rouge.raise_threshold(threshold)


def make_index(
    dimension: int, kind: str, threads: int | None = None, device: str = "cpu"
) -> CosineIndex | EmbeddingIndex:
    """An empty index of embeddings: `EXACT`, or a FAISS factory string; ValueError for others.

    Only `EXACT` heeds ``device``.
    """
    if kind == EXACT:
        return CosineIndex(dimension, threads=threads, device=device)
    return EmbeddingIndex(dimension, kind)


def nearest(
    index: CosineIndex | EmbeddingIndex, normalized: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """`Pool.nearest_by_cosine` of one index."""
    if isinstance(index, EmbeddingIndex):
        return index.nearest(normalized)
    cosines, ids = index.search(normalized, threshold)
    return ids, np.where(ids < 0, -1.0, cosines)
