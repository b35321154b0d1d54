"""Exact ROUGE-L search over a growing pool."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ray_si.dedup import index_file
from ray_si.dedup.rouge import Threshold, signatures
from ray_si.dedup.segment import Best, Segment, all_lcs, scan
from ray_si.dedup.tokens import Tokenizer
from ray_si.dedup.vocabulary import Encoded, Vocabulary, check_strings

_TAIL = 1024
"""Texts kept without postings: comparing all their signatures takes about a microsecond."""

_RATIO = 2
"""Least size of a segment relative to the next: more makes fewer segments, merged more often."""

_SLICE = 1024
"""Queries a thread takes at a time."""

_MEAN_UNIT = 1 << 40
"""Scores are summed as integers in this unit, so that their order does not matter."""


@dataclass(frozen=True)
class Similar:
    """The nearest texts of one query, whatever the threshold, and its mean similarity.

    ``ids`` and ``scores`` are parallel, nearest first, the earlier of equals first. ``total`` is
    the sum of the ROUGE-L F with all texts in units of 2**-40, so that parts add up exactly.
    """

    ids: list[int]
    scores: list[float]
    total: int

    def mean(self, count: int) -> float:
        """Mean ROUGE-L F over ``count`` texts, to 2**-41; 0 over none."""
        return self.total / _MEAN_UNIT / count if count else 0.0

    def merged(self, other: Similar, k: int) -> Similar:
        """The k nearest of both and the sum of both, for disjoint sets of texts."""
        pairs = zip(self.ids + other.ids, self.scores + other.scores, strict=True)
        nearest = sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:k]
        return Similar(
            [id_ for id_, _ in nearest], [score for _, score in nearest], self.total + other.total
        )


def no_match(n: int) -> Best:
    """For n queries that were compared with nothing yet."""
    return Best(np.full(n, -1, np.int64), np.zeros(n, np.int64), np.ones(n, np.int64))


class RougeIndex:
    """Finds, for each query, the text with the highest ROUGE-L F above a threshold.

    Exact: F = 2·LCS/(m+n) on tokens, compared with the threshold in integers, for texts of any
    length. Incremental: the last texts added are scanned as they are; from some thousand on they
    become a segment of their own, and segments are merged when they are of similar size, so each
    text is indexed again some log2(n / 1024) times in all. The newest segment is made in a thread
    beside what the caller does next; a search comes to it last. Not for several threads at once;
    `search` uses ``threads`` of its own (default: the cores this process may use).

    Raises ValueError for a threshold outside (0, 1] or an unknown tokenizer.
    """

    def __init__(
        self,
        threshold: float = 0.7,
        tokenizer: Tokenizer = "auto",
        *,
        threads: int | None = None,
    ) -> None:
        self.threshold = Threshold(threshold)
        self._vocabulary = Vocabulary(tokenizer)
        self._segments: list[Segment] = []
        self._newest: Future[Segment] | None = None  # after these
        self._sealed = 0  # texts in segments
        self._tail = Encoded.concatenate([])
        self._tail_bits = np.zeros(0, np.uint64)
        self._threads = threads or len(os.sched_getaffinity(0))

    def __len__(self) -> int:
        return self._sealed + len(self._tail)

    @property
    def tokenizer(self) -> Tokenizer:
        """How texts are cut into tokens."""
        return self._vocabulary.tokenizer

    @property
    def nbytes(self) -> int:
        """Bytes that the index holds."""
        own = self._tail.tokens.nbytes + self._tail.offsets.nbytes + self._tail_bits.nbytes
        own += self.threshold.nbytes + self._vocabulary.nbytes
        return own + sum(segment.nbytes for segment in self._finished())

    # Adding ------------------------------------------------------------------------------------

    def encode(self, texts: Sequence[str], *, grow: bool = True) -> Encoded:
        """Token ids for `add_encoded`, `best_encoded` and `similar`.

        Words never seen before become part of the vocabulary with ``grow`` (as `add_encoded`
        needs), and match nothing otherwise. Raises TypeError naming the first item that is no
        string.
        """
        return self._vocabulary.encode(texts, grow=grow)

    def add(self, texts: Sequence[str]) -> None:
        """Append texts; their ids go on from ``len(self)``. TypeError where one is no string."""
        self.add_encoded(self.encode(texts))

    def add_encoded(self, encoded: Encoded) -> None:
        """Append texts that `encode` made."""
        if not len(encoded):
            return
        self._cover(encoded)
        self._tail = Encoded.concatenate([self._tail, encoded])
        added = signatures(encoded.tokens, encoded.offsets)
        self._tail_bits = np.concatenate([self._tail_bits, added])
        if len(self._tail) >= _TAIL:
            self._seal()

    def _seal(self) -> None:
        """Give the tail postings, together with segments before it of up to `_RATIO` its size."""
        segments, size = self._finished(), len(self._tail)
        kept = len(segments)
        while kept and len(segments[kept - 1]) <= _RATIO * size:
            kept -= 1
            size += len(segments[kept])
        sealed = self._sealed + len(self._tail)
        thread = ThreadPoolExecutor(1)
        self._newest = thread.submit(
            _merged,
            segments[kept:],
            self._tail,
            sealed - size,
            len(self._vocabulary),
            self.threshold,
        )
        thread.shutdown(wait=False)
        del segments[kept:]
        self._sealed = sealed
        self._tail, self._tail_bits = Encoded.concatenate([]), np.zeros(0, np.uint64)

    def _finished(self) -> list[Segment]:
        """All segments, the newest included."""
        if self._newest is not None:
            self._segments.append(self._newest.result())
            self._newest = None
        return self._segments

    def _cover(self, encoded: Encoded) -> None:
        self.threshold.cover(int(encoded.lengths.max(initial=0)))

    def raise_threshold(self, threshold: float) -> None:
        """Search with a higher threshold from now on; ValueError for a lower one.

        The postings made for the lower one serve: they are more than are needed.
        """
        raised = Threshold(threshold)
        if raised.fraction < self.threshold.fraction:
            raise ValueError(f"{threshold} is below the index's {float(self.threshold.fraction)}")
        raised.cover(self.threshold.longest)
        self.threshold = raised

    # Searching ---------------------------------------------------------------------------------

    def search(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The best match of each text above the threshold, the earliest of equals.

        Returns scores (float64, 0 where there is none) and ids (int64, -1), both of shape (n,).
        Raises TypeError naming the first item that is no string.
        """
        ids, lcs, totals = self.best(texts)
        return 2 * lcs / totals, ids

    def best(self, texts: Sequence[str]) -> Best:
        """`search`, as ids, LCS lengths and summed token counts (1 where there is no match)."""
        check_strings(texts)
        starts = range(0, len(texts), _SLICE)
        parts = [texts[start : start + _SLICE] for start in starts]

        def find(part: Sequence[str]) -> Best:
            return self.best_encoded(self.encode(part, grow=False))

        if len(parts) <= 1 or self._threads == 1:
            found = list(map(find, parts))
        else:
            with ThreadPoolExecutor(self._threads) as threads:
                found = list(threads.map(find, parts))
        ids, lcs, totals = zip(no_match(0), *found, strict=True)
        return Best(np.concatenate(ids), np.concatenate(lcs), np.concatenate(totals))

    def best_encoded(self, queries: Encoded) -> Best:
        """`best` for encoded texts, on the calling thread."""
        self._cover(queries)
        found = no_match(len(queries))
        for segment in self._segments:
            segment.search(queries, self.threshold, found)
        if self._newest is not None:
            self._newest.result().search(queries, self.threshold, found)
        scan(queries, self.threshold, self._tail, self._tail_bits, self._sealed, found)
        return found

    def most_similar(self, texts: Sequence[str], k: int = 10) -> list[Similar]:
        """The k nearest texts of each, whatever their score, and the sum of all scores.

        Compares with every text; benchmarks/gate.json says what that costs.
        """
        return self.similar(self.encode(texts, grow=False), k)

    def similar(self, queries: Encoded, k: int) -> list[Similar]:
        """`most_similar` for encoded texts."""
        parts = [segment.encoded() for segment in self._finished()] + [self._tail]
        pool = Encoded.concatenate(parts)
        one = [
            queries.tokens[start:end]
            for start, end in zip(queries.offsets[:-1], queries.offsets[1:], strict=True)
        ]
        with ThreadPoolExecutor(self._threads) as threads:
            return list(threads.map(lambda query: similar_to(query, pool, k), one))

    # Keeping -----------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one file, atomically. OSError where that cannot be done."""
        parts = [segment.encoded() for segment in self._finished()] + [self._tail]
        index_file.save(path, self.threshold.fraction, self._vocabulary, Encoded.concatenate(parts))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        threshold: float | None = None,
        tokenizer: Tokenizer | None = None,
        threads: int | None = None,
    ) -> RougeIndex:
        """Read what `save` wrote; the postings are built anew.

        Raises ValueError where the file is damaged, is no index, or was made for another threshold
        or tokenizer than the one named; OSError where it cannot be read.
        """
        fraction, vocabulary, encoded = index_file.load(path)
        if threshold is not None and Threshold(threshold).fraction != fraction:
            raise ValueError(f"{path} was made for threshold {float(fraction)}, not {threshold}")
        if tokenizer is not None and vocabulary.tokenizer != tokenizer:
            raise ValueError(
                f"{path} was made with the {vocabulary.tokenizer} tokenizer, not {tokenizer}"
            )
        index = cls(float(fraction), vocabulary.tokenizer, threads=threads)
        index._vocabulary = vocabulary
        index.add_encoded(encoded)
        return index


def _merged(
    segments: list[Segment], tail: Encoded, first_id: int, words: int, threshold: Threshold
) -> Segment:
    """One segment with the texts of these, a list that is emptied, and of the tail."""
    parts = [segment.encoded() for segment in segments]
    segments.clear()  # their postings take memory
    encoded = Encoded.concatenate([*parts, tail])
    del parts
    return Segment(encoded, first_id, words, threshold)


def similar_to(query: np.ndarray, pool: Encoded, k: int, first_id: int = 0) -> Similar:
    """The k nearest of the pool's texts, which have the ids ``first_id``, ``first_id + 1``, ..."""
    lcs = all_lcs(query, pool).astype(np.int64)
    totals = np.maximum(pool.lengths + len(query), 1)
    scores = 2 * lcs / totals
    least = np.partition(scores, -k)[-k] if k < len(scores) else 0.0
    candidates = np.flatnonzero(scores >= least)
    nearest = candidates[np.argsort(-scores[candidates], kind="stable")][:k].tolist()
    rounded = (2 * lcs * _MEAN_UNIT + totals // 2) // totals
    low = (1 << 20) - 1  # summed in halves: 64 bits are too few for a hundred million
    total = (int((rounded >> 20).sum()) << 20) + int((rounded & low).sum())
    return Similar([first_id + i for i in nearest], [float(scores[i]) for i in nearest], total)
