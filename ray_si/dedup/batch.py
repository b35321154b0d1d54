"""The order within a batch, resolved exactly: what its texts do to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ray_si.dedup.cosine.scalar import exact_cosines
from ray_si.dedup.embedding_index import ROUNDING
from ray_si.dedup.pool import EXACT, make_index, nearest
from ray_si.dedup.rouge_index import RougeIndex, Similar, similar_to
from ray_si.dedup.segment import Best, near_pairs
from ray_si.dedup.tokens import Tokenizer
from ray_si.dedup.vocabulary import Encoded

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
            gate = _CosineGate(cosine, vectors, by_cosine, pool_size, self._embedding_index)
            self.cosines = gate.cosines
        rows = np.cumsum(by_rouge[0] < 0)  # 1 + a survivor's row in ``vectors``
        for start in range(0, len(self._encoded), _CHUNK):
            indices = np.arange(start, min(start + _CHUNK, len(self._encoded)))
            chunk = _RougeChunk(
                self._encoded.take(indices), [part[indices] for part in by_rouge], self._index,
                pool_size,
            )  # fmt: skip
            if gate:
                gate.begin_chunk(int(rows[start - 1]) if start else 0, int(rows[indices[-1]]))
            for k, index in enumerate(indices.tolist()):
                reason, match = "rouge", chunk.match(k)
                if gate and not match:
                    reason, match = "cosine", gate.match(int(rows[index]) - 1)
                if match:
                    refused.append(Match(index, reason, *match))
                    continue
                chunk.accept(k, pool_size + len(accepted))
                if gate:
                    gate.accept(int(rows[index]) - 1)
                accepted.append(index)
            self._index.add_encoded(chunk.accepted())
        return accepted, refused

    def similar(self, accepted: list[int], k: int, pool_size: int) -> list[Similar]:
        """For each accepted text, the k nearest of those accepted before it in this batch."""
        kept = self._encoded.take(np.array(accepted, np.int64))
        ends = kept.offsets[1:]
        return [
            similar_to(kept.tokens[start:end], kept.first(i), k, pool_size)
            for i, (start, end) in enumerate(zip(kept.offsets, ends, strict=False))
        ]


class _RougeChunk:
    """The ROUGE-L gate over texts that are compared with each other pair by pair.

    ``by_pool`` is the pool's answer for each of them, ``earlier`` has what was accepted before in
    the batch, with ids from ``pool_size`` on.
    """

    def __init__(
        self, texts: Encoded, by_pool: Sequence[np.ndarray], earlier: RougeIndex, pool_size: int
    ) -> None:
        self._texts = texts
        by_batch = earlier.best_encoded(texts)
        (ids, lcs, totals), (batch_ids, batch_lcs, batch_totals) = by_pool, by_batch
        nearer = batch_lcs * totals > lcs * batch_totals
        ids = np.where(nearer, batch_ids + pool_size, ids)
        lcs, totals = np.where(nearer, batch_lcs, lcs), np.where(nearer, batch_totals, totals)
        self._best = list(zip(ids.tolist(), lcs.tolist(), totals.tolist(), strict=True))
        self._pairs: dict[int, list[tuple[int, int, int]]] = {}  # by the later text
        later, before, common = near_pairs(texts, earlier.threshold, ids < 0)
        sums = texts.lengths[later] + texts.lengths[before]
        for i, *pair in zip(*(a.tolist() for a in (later, before, common, sums)), strict=True):
            self._pairs.setdefault(i, []).append(tuple(pair))
        self._ids: dict[int, int] = {}  # place in the chunk -> id of what was accepted

    def match(self, k: int) -> tuple[int, float] | None:
        """Id and score of the nearest earlier text of text k, where that is too near."""
        id_, lcs, total = self._best[k]
        for j, pair_lcs, pair_total in self._pairs.get(k, ()):
            if j in self._ids and pair_lcs * total > lcs * pair_total:
                id_, lcs, total = self._ids[j], pair_lcs, pair_total
        return None if id_ < 0 else (id_, 2 * lcs / total)

    def accept(self, k: int, id_: int) -> None:
        """Count text k among the earlier ones, under this id."""
        self._ids[k] = id_

    def accepted(self) -> Encoded:
        """The accepted texts, in order."""
        return self._texts.take(np.fromiter(self._ids, np.int64, len(self._ids)))


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
        self._is_near = self._all_matter | (before > self._threshold - 2 * ROUNDING)
        ids, cosines = nearest(self._earlier, part, self._threshold)
        nearer = np.flatnonzero(cosines > self.cosines[start:end])
        self._ids[start + nearer] = ids[nearer] + self._pool_size
        self.cosines[start + nearer] = cosines[nearer]

    def match(self, row: int) -> tuple[int, float] | None:
        """Id and cosine of the nearest earlier text where that is above the threshold."""
        if self._taken and self._is_near[row - self._start]:
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
