"""Seeded samples drawn from a stream, the same for the same stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np


def priorities(start: int, count: int, seed: int = 0) -> np.ndarray:
    """A pseudo-random uint64 for each of the positions ``start``, ``start + 1``, ..., (count,).

    SplitMix64 (Steele, Lea, Flood 2014): a pure function of seed and position. The positions with
    the k lowest are a uniform sample, and those of a smaller k are among those of a larger one.
    """
    with np.errstate(over="ignore"):
        offset = np.uint64(start + 1) + (np.uint64(seed) << np.uint64(48))
        z = (np.arange(count, dtype=np.uint64) + offset) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


T = TypeVar("T")


class Sample(Generic[T]):
    """The k items of a stream with the lowest priorities, kept as the stream passes."""

    def __init__(self, size: int) -> None:
        self.seen = 0
        self._size = size
        self._kept: list[tuple[int, T]] = []
        self._limit: np.uint64 | None = None

    def add(self, lots: np.ndarray, take: Callable[[np.ndarray], list[T]]) -> None:
        """Offer items with these priorities; ``take`` makes those at some indices."""
        self.seen += len(lots)
        chosen = np.arange(len(lots))
        if self._limit is not None:
            chosen = np.flatnonzero(lots < self._limit)
        if len(chosen) > self._size:
            chosen = np.sort(np.argsort(lots, kind="stable")[: self._size])
        if not len(chosen):
            return
        self._kept += zip(lots[chosen].tolist(), take(chosen), strict=True)
        if len(self._kept) >= self._size:
            self._kept.sort(key=lambda pair: pair[0])
            del self._kept[self._size :]
            self._limit = np.uint64(self._kept[-1][0])

    def items(self) -> list[T]:
        """What is kept, by priority."""
        return [item for _, item in sorted(self._kept, key=lambda pair: pair[0])]


def draw(count: int, size: int) -> list[int]:
    """``size`` of the positions 0 to ``count - 1`` (all where there are fewer), by priority."""
    return [int(i) for i in np.argsort(priorities(0, count), kind="stable")[:size]]


class Part(Protocol):
    """A piece of a long sequence."""

    def __len__(self) -> int: ...

    def take(self: T, indices: np.ndarray, /) -> T:
        """What stands at these places of it."""


P = TypeVar("P", bound=Part)


def taken(parts: Sequence[P], places: Sequence[int]) -> list[P]:
    """From each part what stands at these places of the whole, in the order of the whole.

    The parts are never joined: an Arrow array of strings would end at 2 GiB of text.
    """
    ordered = np.sort(np.array(places, np.int64))
    ends = np.cumsum([0, *map(len, parts)])
    cuts = np.searchsorted(ordered, ends)
    return [
        part.take(ordered[first:last] - start)
        for part, first, last, start in zip(parts, cuts[:-1], cuts[1:], ends[:-1], strict=True)
    ]
