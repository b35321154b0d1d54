"""Exact ROUGE-L search, incremental."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

from ray_si.dedup.tokens import tokenize

_PAIRS = 1 << 24
"""Pairs compared in one call: bounds the score matrix to 64 MiB."""


class RougeIndex:
    """Compares texts with everything added so far, by ROUGE-L F = 2·LCS/(m+n) on tokens.

    Exhaustive: every pair is computed (rapidfuzz, bit-parallel LCS). ``threshold`` is a fraction in
    (0, 1]; comparisons with it are made in integers.
    """

    def __init__(self, threshold: float = 0.7) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold must lie in (0, 1], not {threshold}")
        self.threshold = Fraction(str(threshold))
        self._vocabulary: dict[str, int] = {}
        self._texts: list[list[int]] = []
        self._lengths = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._texts)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text; ids are this index's own."""
        ids = self._vocabulary
        return [[ids.setdefault(t, len(ids)) for t in tokenize(text)] for text in texts]

    def add(self, encoded: Sequence[list[int]]) -> None:
        """Append encoded texts; their ids go on from ``len(self)``."""
        self._texts.extend(encoded)
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        self._lengths = np.concatenate([self._lengths, lengths])

    def nearest(self, encoded: Sequence[list[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The nearest text of each query, the earliest where several are equally near.

        Returns three arrays of length n: ids (-1 where the index is empty or nothing overlaps),
        LCS lengths and summed token counts m+n. Exact: fractions are ranked in float64, whose
        rounding cannot reorder quotients of integers below 2**26.
        """
        n = len(encoded)
        ids = np.full(n, -1, np.int64)
        lcs, total = np.zeros(n, np.int64), np.ones(n, np.int64)
        if not self._texts:
            return ids, lcs, total
        step = max(1, _PAIRS // len(self._texts))
        for start in range(0, n, step):
            part = encoded[start : start + step]
            matrix = cdist(part, self._texts, scorer=LCSseq.similarity, dtype=np.int32, workers=-1)
            sums = self._lengths + np.fromiter(map(len, part), np.int64, len(part))[:, None]
            scores = matrix / np.maximum(sums, 1)
            best = scores.argmax(axis=1)
            rows = np.arange(len(part))
            found = matrix[rows, best] > 0
            where = slice(start, start + len(part))
            ids[where] = np.where(found, best, -1)
            lcs[where] = matrix[rows, best]
            total[where] = np.maximum(sums[rows, best], 1)
        return ids, lcs, total

    @staticmethod
    def pairwise(encoded: Sequence[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        """LCS lengths and summed token counts of all pairs, both of shape (n, n)."""
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        if not len(encoded):
            return np.zeros((0, 0), np.int32), np.zeros((0, 0), np.int64)
        lcs = cdist(encoded, encoded, scorer=LCSseq.similarity, dtype=np.int32, workers=-1)
        return lcs, np.maximum(lengths + lengths[:, None], 1)

    def exceeds(self, lcs: int, total: int) -> bool:
        """Whether 2·LCS/(m+n) lies above the threshold, in integers."""
        return 2 * int(lcs) * self.threshold.denominator > self.threshold.numerator * int(total)


def rouge_l(a: str, b: str) -> float:
    """ROUGE-L F of two texts, 2·LCS/(m+n); 0 where either has no token."""
    x, y = tokenize(a), tokenize(b)
    return 2 * LCSseq.similarity(x, y) / (len(x) + len(y)) if x and y else 0.0
