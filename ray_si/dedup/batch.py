"""The order within a batch, resolved exactly: what its texts do to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ray_si.dedup.embedding_index import ROUNDING, EmbeddingIndex, exact_cosines
from ray_si.dedup.rouge_index import RougeIndex, Similar, similar_to
from ray_si.dedup.segment import Best, near_pairs
from ray_si.dedup.tokens import Tokenizer

_CHUNK = 1024
"""Texts compared with each other pair by pair; accepted ones of earlier chunks are indexed."""


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
    (float64, shape (survivors,); -1 where there is none).
    """

    def __init__(self, texts: Sequence[str], rouge: float, tokenizer: Tokenizer) -> None:
        self._index = RougeIndex(rouge, tokenizer)  # of what is accepted here
        self._encoded = self._index.encode(texts)
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
            gate = _CosineGate(cosine, vectors, by_cosine, pool_size)
            self.cosines = gate.cosines
        row = 0
        for start in range(0, len(self._encoded), _CHUNK):
            indices = np.arange(start, min(start + _CHUNK, len(self._encoded)))
            chunk = self._encoded.take(indices)
            ids, lcs, totals = (part[indices] for part in by_rouge)
            refused_by_pool = ids >= 0
            earlier_ids, earlier_lcs, earlier_totals = self._index.best_encoded(chunk)
            nearer = earlier_lcs * totals > lcs * earlier_totals
            ids = np.where(nearer, earlier_ids + pool_size, ids)
            lcs = np.where(nearer, earlier_lcs, lcs)
            totals = np.where(nearer, earlier_totals, totals)
            pairs = _Pairs(*near_pairs(chunk, self._index.threshold, ids < 0), chunk.lengths)
            pool_ids: dict[int, int] = {}  # place in the chunk -> id of what was accepted
            if gate:
                gate.begin_chunk(row, int(row + (~refused_by_pool).sum()))
            for k, (id_, found, total) in enumerate(
                zip(ids.tolist(), lcs.tolist(), totals.tolist(), strict=True)
            ):
                for j, pair_lcs, pair_total in pairs.of(k):
                    if j in pool_ids and pair_lcs * total > found * pair_total:
                        id_, found, total = pool_ids[j], pair_lcs, pair_total
                survivor = row
                row += not refused_by_pool[k]
                if id_ >= 0:
                    refused.append(Match(start + k, "rouge", id_, 2 * found / total))
                    continue
                if gate:
                    match = gate.refuses(survivor)
                    if match:
                        refused.append(Match(start + k, "cosine", *match))
                        continue
                    gate.accept(survivor)
                pool_ids[k] = pool_size + len(accepted)
                accepted.append(start + k)
            self._index.add_encoded(chunk.take(np.fromiter(pool_ids, np.int64, len(pool_ids))))
        return accepted, refused

    def similar(self, accepted: list[int], k: int, pool_size: int) -> list[Similar]:
        """For each accepted text, the k nearest of those accepted before it in this batch."""
        kept = self._encoded.take(np.array(accepted, np.int64))
        ends = kept.offsets[1:]
        return [
            similar_to(kept.tokens[start:end], kept.first(i), k, pool_size)
            for i, (start, end) in enumerate(zip(kept.offsets, ends, strict=False))
        ]


class _Pairs:
    """Near pairs of a chunk, by the later one."""

    def __init__(
        self, later: np.ndarray, earlier: np.ndarray, lcs: np.ndarray, lengths: np.ndarray
    ) -> None:
        totals = lengths[later] + lengths[earlier]
        self._of: dict[int, list[tuple[int, int, int]]] = {}
        for i, *pair in zip(*(a.tolist() for a in (later, earlier, lcs, totals)), strict=True):
            self._of.setdefault(i, []).append(tuple(pair))

    def of(self, later: int) -> list[tuple[int, int, int]]:
        """(earlier, LCS, m+n) of each pair, in order."""
        return self._of.get(later, [])


class _CosineGate:
    """The cosine gate over the survivors of a batch, named by their rows in ``vectors``."""

    def __init__(
        self,
        threshold: float,
        vectors: np.ndarray,
        by_pool: tuple[np.ndarray, np.ndarray],
        pool_size: int,
    ) -> None:
        self._threshold, self._vectors = threshold, vectors
        self._ids, self.cosines = by_pool[0].copy(), by_pool[1].copy()
        self._pool_size = pool_size
        self._earlier = EmbeddingIndex(vectors.shape[1])  # accepted of earlier chunks
        self._taken: list[int] = []  # rows accepted of this chunk

    def begin_chunk(self, start: int, end: int) -> None:
        """Go on to the survivors from ``start`` to ``end``."""
        if self._taken:
            self._earlier.add(self._vectors[self._taken])
            self._taken = []
        self._start = start
        part = self._vectors[start:end]
        self._rough = part @ part.T
        ids, cosines = self._earlier.nearest(part)
        nearer = np.flatnonzero(cosines > self.cosines[start:end])
        self._ids[start + nearer] = ids[nearer] + self._pool_size
        self.cosines[start + nearer] = cosines[nearer]

    def refuses(self, row: int) -> tuple[int, float] | None:
        """Id and cosine of the nearest earlier text where that is above the threshold."""
        if self._taken:
            taken = np.array(self._taken)
            rough = self._rough[row - self._start, taken - self._start]
            near = np.flatnonzero(rough >= rough.max() - 2 * ROUNDING)
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
