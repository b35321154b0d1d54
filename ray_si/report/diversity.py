"""How different the instructions are from each other: distinct-n, self-BLEU, the Vendi score."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from ray_si.dedup.vocabulary import Encoded

_ORDERS = 4
_Grams = Counter[tuple[int, ...]]
_Highest = dict[tuple[int, ...], tuple[int, int]]

_SMALL = 0.1
"""Stands for a count of no common n-grams (method 1 of Chen & Cherry 2014)."""


def distinct(texts: Encoded, orders: int = 3) -> list[float | None]:
    """Distinct-n for n = 1 ... ``orders``: different n-grams over all n-grams, within texts.

    Li et al. 2016, arXiv 1510.03055. None where no text is n tokens long. Falls as texts are
    added, so only sets of the same size compare.
    """
    tokens = texts.tokens.astype(np.int64)
    size = int(tokens.max(initial=0)) + 1
    left = np.repeat(texts.offsets[1:], texts.lengths) - np.arange(len(tokens))
    ids = tokens  # of the n-gram that begins at each place
    ratios: list[float | None] = []
    for n in range(1, orders + 1):
        places = np.flatnonzero(left >= n)
        if n > 1:
            whole = ids[places] * size + tokens[places + n - 1]
            distinct_grams, numbers = np.unique(whole, return_inverse=True)
            ids = np.zeros(len(tokens), np.int64)
            ids[places] = numbers
        else:
            distinct_grams = np.unique(tokens)
        ratios.append(round(len(distinct_grams) / len(places), 4) if len(places) else None)
    return ratios


def self_bleu(texts: Sequence[Sequence[int]]) -> float | None:
    """Mean BLEU-4 of each text with all others as references: 0 different, 1 the same.

    Zhu et al. 2018 (Texygen), arXiv 1802.01886; BLEU as in Papineni et al. 2002 with uniform
    weights, closest reference length and smoothing method 1. Exact, in time that grows with the
    texts rather than their pairs: of every n-gram the two highest counts in one text are enough
    to know the highest in all others. Texts are token ids; None for fewer than two.
    """
    texts = [text for text in texts if len(text)]
    if len(texts) < 2:
        return None
    grams = [[_grams(text, n) for n in range(1, _ORDERS + 1)] for text in texts]
    highest = [_highest(by_order[n] for by_order in grams) for n in range(_ORDERS)]
    lengths = Counter(len(text) for text in texts)
    scores = [
        _bleu(len(text), by_order, highest, lengths)
        for text, by_order in zip(texts, grams, strict=True)
    ]
    return round(math.fsum(scores) / len(scores), 4)


def _grams(text: Sequence[int], n: int) -> _Grams:
    return Counter(tuple(text[i : i + n]) for i in range(len(text) - n + 1))


def _highest(all_grams: Iterable[_Grams]) -> _Highest:
    """Of each n-gram: its two highest counts in one text, which may be equal."""
    highest: _Highest = {}
    for grams in all_grams:
        for gram, count in grams.items():
            first, second = highest.get(gram, (0, 0))
            if count > first:
                highest[gram] = (count, first)
            elif count > second:
                highest[gram] = (first, count)
    return highest


def _bleu(
    length: int, by_order: list[_Grams], highest: list[_Highest], lengths: Counter[int]
) -> float:
    logs = []
    for n, grams in enumerate(by_order):
        common = 0
        for gram, count in grams.items():
            first, second = highest[n][gram]
            common += min(count, second if count == first else first)
        if n == 0 and not common:
            return 0.0
        logs.append(math.log((common or _SMALL) / max(1, length - n)))
    others = [other for other, count in lengths.items() if count > (1 if other == length else 0)]
    closest = min(others, key=lambda other: (abs(other - length), other))
    penalty = 1.0 if length > closest else math.exp(1 - closest / length)
    return penalty * math.exp(math.fsum(logs) / _ORDERS)


class Vendi:
    """The Vendi score of embeddings in a stream: exp of the entropy of their similarity matrix.

    Friedman & Dieng 2022, arXiv 2210.02410, with the cosine as similarity: the effective number of
    different items, from 1 (all the same) to the number of items. The matrix K/n of the n items and
    the d x d matrix that is summed here have the same eigenvalues other than 0, so it is exact
    for any n, and never above the dimension d.
    """

    def __init__(self) -> None:
        self.count = 0
        self._sum: np.ndarray | None = None

    def add(self, vectors: np.ndarray) -> None:
        """Take embeddings, shape (n, d); those of length 0 are left out."""
        vectors = vectors.astype(np.float64)
        norms = np.linalg.norm(vectors, axis=1)
        vectors = vectors[norms > 0] / norms[norms > 0, None]
        if self._sum is None:
            self._sum = np.zeros((vectors.shape[1], vectors.shape[1]))
        self._sum += vectors.T @ vectors
        self.count += len(vectors)

    @property
    def dimension(self) -> int:
        """Of the embeddings; 0 while there are none."""
        return 0 if self._sum is None else len(self._sum)

    def score(self) -> float | None:
        """The score so far, to two decimals, in which no rounding of sums shows; or None."""
        if self._sum is None or not self.count:
            return None
        shares = np.linalg.eigvalsh(self._sum / self.count)
        shares = shares[shares > 1e-12]
        return round(float(np.exp(-(shares * np.log(shares)).sum())), 2)
