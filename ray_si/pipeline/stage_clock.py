"""How busy the stages of a build are, and which of them it waits for."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import zip_longest

FULL = 0.9
"""Share of its time from which a stage bounds the build."""

_RECENT_S = 30.0
"""Seconds over which shares are taken: rounds end in jerks."""


class StageClock:
    """Seconds that each stage has worked, of as many as have passed; 1 is all the time.

    Stages are told of as ``sources``, by name: what they have worked so far, a stage of several
    workers divided by their number. Of one that has parts, which go on at a time, there is that of
    each, and the busiest of late counts.
    """

    def __init__(self) -> None:
        self._sources: dict[str, Callable[[], tuple[float, ...]]] = {}
        self._decisions: tuple[float, float | None] = 0.0, None  # in one, for other threads
        self._recent: deque[tuple[float, dict[str, tuple[float, ...]]]] = deque()
        self.watch("decide", lambda: (self._has_decided(),))

    def watch(self, stage: str, worked: Callable[[], tuple[float, ...]]) -> None:
        """Take what a stage has worked from there, from now on."""
        self._sources[stage] = worked

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """The driver decides on a round and commits it."""
        self._decisions = self._has_decided(), time.monotonic()
        try:
            yield
        finally:
            self._decisions = self._has_decided(), None

    def _has_decided(self) -> float:
        """With the decision that is under way: it may take longer than the shares look back."""
        ended, since = self._decisions
        return ended if since is None else ended + time.monotonic() - since

    def shares(self) -> dict[str, float]:
        """Of each stage, in the last half minute; none before there is a first look to go by."""
        now = time.monotonic()
        worked = {stage: source() for stage, source in self._sources.copy().items()}
        self._recent.append((now, worked))
        while len(self._recent) > 2 and self._recent[1][0] <= now - _RECENT_S:
            self._recent.popleft()
        since, before = self._recent[0]
        if now <= since:
            return {}
        return {
            stage: min(1.0, max([0.0, *_between(before.get(stage, ()), parts)]) / (now - since))
            for stage, parts in worked.items()
        }


def _between(before: tuple[float, ...], now: tuple[float, ...]) -> Iterator[float]:
    """What each part of a stage has worked; one that was not known yet, all that it has."""
    return (after - first for first, after in zip_longest(before, now, fillvalue=0.0))


def bound_by(shares: dict[str, float]) -> str | None:
    """The stage that is full, if one is; the busiest of several."""
    if not shares:
        return None
    busiest = max(shares, key=lambda stage: shares[stage])
    return busiest if shares[busiest] >= FULL else None
