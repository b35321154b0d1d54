"""A pool that can be asked as it was some rounds ago, and what was found by asking it then."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_si.dedup.pool import LocalPool, Pool
from ray_si.dedup.rouge_index import Similar, no_match
from ray_si.dedup.segment import Best

if TYPE_CHECKING:
    from ray_si.dedup.result import Duplicate

Cosines = tuple[np.ndarray, np.ndarray]
"""Ids and cosines of the nearest texts, as `Pool.nearest_by_cosine` gives them."""


class Parts:
    """Rows of one array that lie in several: they are copied when they are asked for."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self._parts = [part for part in parts if len(part)] or parts[:1]

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __getitem__(self, taken: np.ndarray) -> np.ndarray:
        """The rows that are ``taken``, bool, shape (n,)."""
        first = self._parts[0]
        rows = np.empty((int(np.count_nonzero(taken)), *first.shape[1:]), first.dtype)
        start, end = 0, 0
        for part in self._parts:
            own, taken = taken[: len(part)], taken[len(part) :]
            start, end = end, end + int(np.count_nonzero(own))
            np.compress(own, part, axis=0, out=rows[start:end])
        return rows

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate(self._parts, dtype=dtype)


@dataclass(frozen=True)
class Screened:
    """What `Deduplicator.screen` found of ``count`` texts in the first ``size`` of the pool.

    Of those that are not ``refused`` already, ``by_rouge`` is the nearest text; of those without
    one, ``vectors`` and ``by_cosine`` are normalized embedding and nearest text, None where no
    cosine is asked for. ``embeddings`` are those of all texts, where whoever asked kept them.
    ``batch`` is the one they belong to, where that was said, and ``numbers`` what those that are
    not refused are called there (see `ray_si.dedup.peers`).
    """

    count: int
    size: int
    by_rouge: Best
    vectors: np.ndarray | Parts | None
    by_cosine: Cosines | None
    refused: tuple[Duplicate, ...] = ()
    embeddings: np.ndarray | Parts | None = None
    batch: int | None = None
    numbers: np.ndarray | None = None

    def rows(self, survivors: np.ndarray) -> np.ndarray:
        """The places in ``vectors`` and ``by_cosine`` of some that passed, by their indices."""
        return np.searchsorted(np.flatnonzero(self.by_rouge.ids < 0), survivors)

    def part(self, start: int, end: int) -> Screened:
        """That of some of the texts, of which none is refused."""
        first, last = np.searchsorted(np.flatnonzero(self.by_rouge.ids < 0), (start, end))
        return replace(
            self,
            count=end - start,
            by_rouge=Best(*(column[start:end] for column in self.by_rouge)),
            vectors=None if self.vectors is None else np.asarray(self.vectors)[first:last],
            by_cosine=self.by_cosine
            and (self.by_cosine[0][first:last], self.by_cosine[1][first:last]),
        )


def joined(parts: Sequence[Screened]) -> Screened:
    """That of all texts, one part after the other; they were all asked of the same size."""
    assert len({(part.size, part.batch) for part in parts}) == 1, "parts saw different pools"
    starts = np.cumsum([0, *(part.count for part in parts)]).tolist()
    vectors = [np.asarray(part.vectors) for part in parts if part.vectors is not None]
    cosines = [part.by_cosine for part in parts if part.by_cosine is not None]
    embeddings = [np.asarray(part.embeddings) for part in parts if part.embeddings is not None]
    numbers = [part.numbers for part in parts if part.numbers is not None]
    return Screened(
        starts[-1],
        parts[0].size,
        Best(*(np.concatenate(c) for c in zip(*(p.by_rouge for p in parts), strict=True))),
        Parts(vectors) if vectors else None,
        (np.concatenate([i for i, _ in cosines]), np.concatenate([c for _, c in cosines]))
        if cosines
        else None,
        tuple(
            replace(duplicate, index=start + duplicate.index)
            for start, part in zip(starts, parts, strict=False)
            for duplicate in part.refused
        ),
        Parts(embeddings) if embeddings else None,
        parts[0].batch,
        np.concatenate(numbers) if numbers else None,
    )


class LayeredPool:
    """A `Pool` whose last additions lie in layers of their own, on a ``base`` with all before.

    Each layer is searched by itself, so that a question may leave out the first or the last ones:
    its ``start`` and ``end`` are ids with which a layer begins, or the length of the whole, and
    ``but`` the first ids of layers in between to leave out. `begin` begins a layer, `settle` gives
    all but the last ``depth`` of them to the base. A layer is indexed when it is first asked.
    """

    def __init__(self, base: Pool, depth: int, make: Callable[[], LocalPool]) -> None:
        self._base, self._depth, self._make = base, depth, make
        self._layers: list[_Layer] = []

    def __len__(self) -> int:
        return len(self._base) + sum(len(layer.texts) for layer in self._layers)

    @property
    def settled(self) -> int:
        """Texts that the base has."""
        return len(self._base)

    def begin(self) -> None:
        """What is added from now on is a layer of its own."""
        if not self._layers or self._layers[-1].texts:
            self._layers.append(_Layer(len(self), self._make))

    def settle(self) -> None:
        """Give the base what lies below the last ``depth`` layers."""
        while len(self._layers) > self._depth:
            for texts, embed in self._layers.pop(0).batches:
                self._base.add(texts, embed())

    def add(self, texts: Sequence[str], embeddings: np.ndarray | None) -> None:
        """See `Pool`."""
        self.add_later(texts, lambda: embeddings)

    def add_later(self, texts: Sequence[str], embed: Callable[[], np.ndarray | None]) -> None:
        """`add`, with embeddings that are asked for when they are needed."""
        if not texts:
            return
        if not self._layers:
            self.begin()
        self._layers[-1].batches.append((texts, embed))
        self._layers[-1].texts.extend(texts)

    def nearest_by_rouge(
        self,
        texts: Sequence[str],
        start: int = 0,
        end: int | None = None,
        but: Collection[int] = (),
    ) -> Best:
        """See `Pool`."""
        best = no_match(len(texts))
        for first, pool in self._between(start, end, but):
            ids, lcs, totals = pool.nearest_by_rouge(texts)
            best = nearer_by_rouge(best, Best(np.where(ids < 0, -1, ids + first), lcs, totals))
        return best

    def nearest_by_cosine(
        self,
        normalized: np.ndarray,
        threshold: float,
        start: int = 0,
        end: int | None = None,
        but: Collection[int] = (),
    ) -> Cosines:
        """See `Pool`."""
        best = np.full(len(normalized), -1), np.full(len(normalized), -1.0)
        for first, pool in self._between(start, end, but):
            ids, cosines = pool.nearest_by_cosine(normalized, threshold)
            best = nearer_by_cosine(best, (np.where(ids < 0, -1, ids + first), cosines))
        return best

    def has_since(self, start: int, but: Collection[int]) -> bool:
        """Whether there are layers from there on, but for those."""
        return any(
            layer.texts and layer.first >= start and layer.first not in but
            for layer in self._layers
        )

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
        below = [id_ for id_ in ids if id_ < len(self._base)]
        found = dict(zip(below, self._base.texts(below), strict=True))
        for layer in self._layers:
            end = layer.first + len(layer.texts)
            found |= {i: layer.texts[i - layer.first] for i in ids if layer.first <= i < end}
        return [found[id_] for id_ in ids]

    def set_rouge(self, threshold: float) -> None:
        """See `Pool`."""
        for _, pool in self._between(0, None):
            pool.set_rouge(threshold)

    def _between(
        self, start: int, end: int | None, but: Collection[int] = ()
    ) -> list[tuple[int, Pool]]:
        """The first ids and pools of the layers from one id to another, empty ones left out."""
        end = len(self) if end is None else end
        bounds = {0, len(self)} | {layer.first for layer in self._layers}
        assert {start, end} <= bounds, f"the pool has no layer from {start} to {end}"
        pools: list[tuple[int, Pool]] = []
        if start == 0 < min(end, len(self._base)):
            pools.append((0, self._base))
        for layer in self._layers:
            if start <= layer.first < end and layer.texts and layer.first not in but:
                pools.append((layer.first, layer.pool()))
        return pools


@dataclass
class _Layer:
    first: int
    make: Callable[[], LocalPool]
    batches: list[tuple[Sequence[str], Callable[[], np.ndarray | None]]] = field(
        default_factory=list
    )
    texts: list[str] = field(default_factory=list)
    made: LocalPool | None = None
    indexed: int = 0  # of the batches

    def pool(self) -> LocalPool:
        """All its texts, indexed now where they are not yet."""
        if self.made is None:
            self.made = self.make()
        for texts, embed in self.batches[self.indexed :]:
            self.made.add(texts, embed())
        self.indexed = len(self.batches)
        return self.made


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
