"""A pool that can be asked as it was some rounds ago, and what was found by asking it then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ray_si.dedup.pool import LocalPool, Pool
from ray_si.dedup.rouge_index import Similar, no_match
from ray_si.dedup.segment import Best

if TYPE_CHECKING:
    from ray_si.dedup.deduplicator import Duplicate

Cosines = tuple[np.ndarray, np.ndarray]
"""Ids and cosines of the nearest texts, as `Pool.nearest_by_cosine` gives them."""


@dataclass(frozen=True)
class Screened:
    """What `Deduplicator.screen` found of ``count`` texts in the first ``size`` of the pool.

    Of those that are not ``refused`` already, ``by_rouge`` is the nearest text; of those without
    one, ``vectors`` and ``by_cosine`` are normalized embedding and nearest text, None where no
    cosine is asked for. ``embeddings`` are those of all texts, where whoever asked kept them.
    """

    count: int
    size: int
    by_rouge: Best
    vectors: np.ndarray | None
    by_cosine: Cosines | None
    refused: tuple[Duplicate, ...] = ()
    embeddings: np.ndarray | None = None

    def part(self, start: int, end: int) -> Screened:
        """That of some of the texts, of which none is refused."""
        first, last = np.searchsorted(np.flatnonzero(self.by_rouge.ids < 0), (start, end))
        return replace(
            self,
            count=end - start,
            by_rouge=Best(*(column[start:end] for column in self.by_rouge)),
            vectors=None if self.vectors is None else self.vectors[first:last],
            by_cosine=self.by_cosine
            and (self.by_cosine[0][first:last], self.by_cosine[1][first:last]),
        )


def joined(parts: Sequence[Screened]) -> Screened:
    """That of all texts, one part after the other; they were all asked of the same size."""
    assert len({part.size for part in parts}) == 1, "parts of a batch saw different pools"
    starts = np.cumsum([0, *(part.count for part in parts)]).tolist()
    vectors = [part.vectors for part in parts if part.vectors is not None]
    cosines = [part.by_cosine for part in parts if part.by_cosine is not None]
    embeddings = [part.embeddings for part in parts if part.embeddings is not None]
    of_some = [part for part in embeddings if len(part)] or embeddings[:1]
    return Screened(
        starts[-1],
        parts[0].size,
        Best(*(np.concatenate(c) for c in zip(*(p.by_rouge for p in parts), strict=True))),
        np.concatenate(vectors) if vectors else None,
        (np.concatenate([i for i, _ in cosines]), np.concatenate([c for _, c in cosines]))
        if cosines
        else None,
        tuple(
            replace(duplicate, index=start + duplicate.index)
            for start, part in zip(starts, parts, strict=False)
            for duplicate in part.refused
        ),
        np.concatenate(of_some) if of_some else None,
    )


class LayeredPool:
    """A `Pool` whose last additions lie in layers of their own, on a ``base`` with all before.

    Each layer is searched by itself, so that a question may leave out the first or the last ones:
    its ``start`` and ``end`` are ids with which a layer begins, or the length of the whole. `begin`
    begins a layer, `settle` gives all but the last ``depth`` of them to the base.
    """

    def __init__(self, base: Pool, depth: int, make: Callable[[], LocalPool]) -> None:
        self._base, self._depth, self._make = base, depth, make
        self._layers: list[_Layer] = []

    def __len__(self) -> int:
        return len(self._base) + sum(len(layer.pool) for layer in self._layers)

    def begin(self) -> None:
        """What is added from now on is a layer of its own."""
        if not self._layers or len(self._layers[-1].pool):
            self._layers.append(_Layer(len(self), self._make(), []))

    def settle(self) -> None:
        """Give the base what lies below the last ``depth`` layers."""
        while len(self._layers) > self._depth:
            for texts, embeddings in self._layers.pop(0).batches:
                self._base.add(texts, embeddings)

    def add(self, texts: Sequence[str], embeddings: np.ndarray | None) -> None:
        """See `Pool`."""
        if not texts:
            return
        if not self._layers:
            self.begin()
        self._layers[-1].batches.append((texts, embeddings))
        self._layers[-1].pool.add(texts, embeddings)

    def nearest_by_rouge(
        self, texts: Sequence[str], start: int = 0, end: int | None = None
    ) -> Best:
        """See `Pool`."""
        best = no_match(len(texts))
        for first, pool in self._between(start, end):
            ids, lcs, totals = pool.nearest_by_rouge(texts)
            best = nearer_by_rouge(best, Best(np.where(ids < 0, -1, ids + first), lcs, totals))
        return best

    def nearest_by_cosine(
        self, normalized: np.ndarray, threshold: float, start: int = 0, end: int | None = None
    ) -> Cosines:
        """See `Pool`."""
        best = np.full(len(normalized), -1), np.full(len(normalized), -1.0)
        for first, pool in self._between(start, end):
            ids, cosines = pool.nearest_by_cosine(normalized, threshold)
            best = nearer_by_cosine(best, (np.where(ids < 0, -1, ids + first), cosines))
        return best

    def most_similar(self, texts: Sequence[str], k: int) -> list[Similar]:
        """See `Pool`."""
        merged = [Similar([], [], 0)] * len(texts)
        for first, pool in self._between(0, None):
            found = pool.most_similar(texts, k)
            moved = [replace(s, ids=[first + id_ for id_ in s.ids]) for s in found]
            merged = [a.merged(b, k) for a, b in zip(merged, moved, strict=True)]
        return merged

    def texts(self, ids: Sequence[int]) -> list[str]:
        """See `Pool`."""
        found: dict[int, str] = {}
        for first, pool in self._between(0, None):
            here = [id_ for id_ in ids if first <= id_ < first + len(pool)]
            texts = pool.texts([id_ - first for id_ in here])
            found |= zip(here, texts, strict=True)
        return [found[id_] for id_ in ids]

    def set_rouge(self, threshold: float) -> None:
        """See `Pool`."""
        for _, pool in self._between(0, None):
            pool.set_rouge(threshold)

    def _between(self, start: int, end: int | None) -> list[tuple[int, Pool]]:
        """The first ids and pools of the layers from one id to another, empty ones left out."""
        every: list[tuple[int, Pool]] = [(0, self._base)]
        every += [(layer.first, layer.pool) for layer in self._layers]
        bounds = {first for first, _ in every} | {len(self)}
        end = len(self) if end is None else end
        assert {start, end} <= bounds, f"the pool has no layer from {start} to {end}"
        return [(first, pool) for first, pool in every if start <= first < end and len(pool)]


@dataclass(frozen=True)
class _Layer:
    first: int
    pool: LocalPool
    batches: list[tuple[Sequence[str], np.ndarray | None]]


def nearer_by_rouge(one: Best, other: Best) -> Best:
    """The nearer of two matches for each query, the earlier of equals."""
    (ids, lcs, totals), (other_ids, other_lcs, other_totals) = one, other
    mine, others = lcs * other_totals, other_lcs * totals
    earlier = (other_ids >= 0) & (other_ids < ids)
    nearer = (others > mine) | ((others == mine) & earlier)
    return Best(*(np.where(nearer, b, a) for a, b in zip(one, other, strict=True)))


def nearer_by_cosine(one: Cosines, other: Cosines) -> Cosines:
    """The nearer of two matches for each query, the earlier of equals."""
    (ids, cosines), (other_ids, other_cosines) = one, other
    earlier = (other_ids >= 0) & ((ids < 0) | (other_ids < ids))
    nearer = (other_cosines > cosines) | ((other_cosines == cosines) & earlier)
    return np.where(nearer, other_ids, ids), np.where(nearer, other_cosines, cosines)
