"""The order within a batch, resolved exactly: what its texts do to each other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ray_si.dedup.cosine.scalar import exact_cosines
from ray_si.dedup.embedding_index import rounding
from ray_si.dedup.pool import EXACT, make_index, nearest
from ray_si.dedup.rouge import Threshold
from ray_si.dedup.rouge_index import RougeIndex, Similar, no_match, similar_to
from ray_si.dedup.segment import Best, Segment, near_pairs
from ray_si.dedup.tokens import Tokenizer
from ray_si.dedup.vocabulary import Encoded

_CHUNK = 1024
"""Texts compared with each other pair by pair; accepted ones of earlier chunks are indexed."""

_SLICE = 1024
"""Texts that a thread takes at a time."""


@dataclass(frozen=True)
class Match:
    """A refused text of the batch, and the earlier text that it came nearest to.

    ``match_id`` counts the pool first, then what was accepted of the batch.
    """

    index: int
    reason: str
    match_id: int
    score: float


class Batch:
    """Texts to be decided in order, once their nearest texts in the pool are known.

    After `decide`, ``cosines`` has each survivor's highest cosine with an earlier accepted text
    (float64, shape (survivors,); -1 where there is none), as far as the pool's answers go.
    """

    def __init__(
        self,
        texts: Sequence[str],
        rouge: float,
        tokenizer: Tokenizer,
        embedding_index: str = EXACT,
    ) -> None:
        self._embedding_index = embedding_index
        self._index = RougeIndex(rouge, tokenizer)  # of what is accepted here and has a near one
        self._encoded = self._index.encode(texts)
        self._has_near = _have_near(self._encoded, self._index.threshold)
        self.cosines = np.zeros(0)

    def decide(
        self,
        pool_size: int,
        by_rouge: Best,
        cosine: float | None,
        vectors: np.ndarray | None,
        by_cosine: tuple[np.ndarray, np.ndarray] | None,
    ) -> tuple[list[int], list[Match]]:
        """Accepted indices and matches of the refused, both in order.

        ``by_rouge`` is the pool's answer for every text, ``vectors`` and ``by_cosine`` the
        normalized embeddings and the pool's answer for those without a match by ROUGE-L.
        """
        accepted: list[int] = []
        refused: list[Match] = []
        gate = None
        if cosine is not None and vectors is not None and by_cosine is not None:
            gate = _CosineGate(cosine, vectors, by_cosine, pool_size, self._embedding_index)
            self.cosines = gate.cosines
        rouge = _RougeGate(self._encoded, self._has_near, by_rouge, self._index)
        rows = np.cumsum(by_rouge.ids < 0).tolist()  # 1 + a survivor's row in ``vectors``
        for start in range(0, len(self._encoded), _CHUNK):
            end = min(start + _CHUNK, len(self._encoded))
            rouge.begin_chunk(start, end)
            if gate:
                gate.begin_chunk(rows[start - 1] if start else 0, rows[end - 1])
            for index in range(start, end):
                reason, match = "rouge", rouge.match(index)
                if gate and not match:
                    reason, match = "cosine", gate.match(rows[index] - 1)
                if match:
                    refused.append(Match(index, reason, *match))
                    continue
                rouge.accept(index, pool_size + len(accepted))
                if gate:
                    gate.accept(rows[index] - 1)
                accepted.append(index)
        return accepted, refused

    def similar(self, accepted: list[int], k: int, pool_size: int) -> list[Similar]:
        """For each accepted text, the k nearest of those accepted before it in this batch."""
        kept = self._encoded.take(np.array(accepted, np.int64))
        ends = kept.offsets[1:]
        return [
            similar_to(kept.tokens[start:end], kept.first(i), k, pool_size)
            for i, (start, end) in enumerate(zip(kept.offsets, ends, strict=False))
        ]


class _RougeGate:
    """The ROUGE-L gate over a batch, ``by_pool`` being the pool's answer for each of its texts.

    Only texts that have a near one in the batch can refuse each other, so only they are compared in
    order: pair by pair within a chunk, and with what was accepted of earlier chunks, which goes
    into ``earlier``.
    """

    def __init__(
        self, texts: Encoded, has_near: np.ndarray, by_pool: Best, earlier: RougeIndex
    ) -> None:
        self._texts, self._has_near = texts, has_near
        self._by_pool, self._earlier = by_pool, earlier
        self._best = list(zip(*(column.tolist() for column in by_pool), strict=True))
        self._earlier_ids: list[int] = []  # parallel to ``earlier``
        self._ids: dict[int, int] = {}  # of what was accepted of this chunk, with a near one
        self._pairs: dict[int, list[tuple[int, int, int]]] = {}  # by the later text

    def begin_chunk(self, start: int, end: int) -> None:
        """Go on to the texts from ``start`` to ``end``, and compare those with near ones."""
        if self._ids:
            self._earlier.add_encoded(self._texts.take(np.fromiter(self._ids, np.int64)))
            self._earlier_ids += self._ids.values()
            self._ids = {}
        indices = start + np.flatnonzero(self._has_near[start:end])
        texts = self._texts.take(indices)
        ids, lcs, totals = (column[indices] for column in self._by_pool)
        places, batch_lcs, batch_totals = self._earlier.best_encoded(texts)
        nearer = batch_lcs * totals > lcs * batch_totals
        ids[nearer] = np.array(self._earlier_ids, np.int64)[places[nearer]]
        lcs, totals = np.where(nearer, batch_lcs, lcs), np.where(nearer, batch_totals, totals)
        best = zip(ids.tolist(), lcs.tolist(), totals.tolist(), strict=True)
        for index, found in zip(indices.tolist(), best, strict=True):
            self._best[index] = found
        self._pairs = {}
        later, before, common = near_pairs(texts, self._earlier.threshold, ids < 0)
        sums = texts.lengths[later] + texts.lengths[before]
        pairs = (indices[later], indices[before], common, sums)
        for index, *pair in zip(*(a.tolist() for a in pairs), strict=True):
            self._pairs.setdefault(index, []).append(tuple(pair))

    def match(self, index: int) -> tuple[int, float] | None:
        """Id and score of the nearest earlier text of this one, where that is too near."""
        id_, lcs, total = self._best[index]
        for other, pair_lcs, pair_total in self._pairs.get(index, ()):
            if other in self._ids and pair_lcs * total > lcs * pair_total:
                id_, lcs, total = self._ids[other], pair_lcs, pair_total
        return None if id_ < 0 else (id_, 2 * lcs / total)

    def accept(self, index: int, id_: int) -> None:
        """Count this text among the earlier ones, under this id."""
        if self._has_near[index]:
            self._ids[index] = id_


def _have_near(texts: Encoded, threshold: Threshold) -> np.ndarray:
    """Which of the texts have another one that is too near, by threads: bool, shape (n,)."""
    found = no_match(len(texts))
    if len(texts):
        segment = Segment(texts, 0, int(texts.tokens.max(initial=-1)) + 1, threshold)

        def look(start: int) -> None:
            part = slice(start, start + _SLICE)
            queries = texts.take(np.arange(len(texts))[part])
            segment.search(queries, threshold, Best(*(a[part] for a in found)), first=start)

        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
            list(threads.map(look, range(0, len(texts), _SLICE)))
    return found.ids >= 0


class _CosineGate:
    """The cosine gate over the survivors of a batch, named by their rows in ``vectors``."""

    def __init__(
        self,
        threshold: float,
        vectors: np.ndarray,
        by_pool: tuple[np.ndarray, np.ndarray],
        pool_size: int,
        embedding_index: str,
    ) -> None:
        self._threshold, self._vectors = threshold, vectors
        self._ids, self.cosines = by_pool[0].copy(), by_pool[1].copy()
        self._pool_size = pool_size
        kind = EXACT if embedding_index == EXACT else "Flat"
        self._earlier = make_index(vectors.shape[1], kind, threads=1)  # accepted in earlier chunks
        self._all_matter = embedding_index != EXACT  # cosines below the threshold, too
        self._slack = 2 * rounding(vectors.shape[1])
        self._taken: list[int] = []  # rows accepted of this chunk

    def begin_chunk(self, start: int, end: int) -> None:
        """Go on to the survivors from ``start`` to ``end``."""
        if self._taken:
            self._earlier.add(self._vectors[self._taken])
            self._taken = []
        self._start = start
        part = self._vectors[start:end]
        self._rough = part @ part.T
        before = np.tril(self._rough, -1).max(axis=1, initial=0.0)
        self._is_near = self._all_matter | (before > self._threshold - self._slack)
        ids, cosines = nearest(self._earlier, part, self._threshold)
        nearer = np.flatnonzero(cosines > self.cosines[start:end])
        self._ids[start + nearer] = ids[nearer] + self._pool_size
        self.cosines[start + nearer] = cosines[nearer]

    def match(self, row: int) -> tuple[int, float] | None:
        """Id and cosine of the nearest earlier text where that is above the threshold."""
        if self._taken and self._is_near[row - self._start]:
            taken = np.array(self._taken)
            rough = self._rough[row - self._start, taken - self._start]
            near = np.flatnonzero(rough >= rough.max() - self._slack)
            exact = exact_cosines(self._vectors[row], self._vectors[taken[near]])
            best = int(exact.argmax())
            if exact[best] > self.cosines[row]:
                self._ids[row] = self._pool_size + len(self._earlier) + near[best]
                self.cosines[row] = exact[best]
        if self.cosines[row] > self._threshold:
            return int(self._ids[row]), float(self.cosines[row])
        return None

    def accept(self, row: int) -> None:
        """Count this row among the earlier ones."""
        self._taken.append(row)
