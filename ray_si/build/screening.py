"""What the gate can say of candidates before their round is complete: nearly all."""

from __future__ import annotations

import itertools
import queue
from concurrent.futures import Future
from typing import NamedTuple

from ray_si.dedup import Deduplicator
from ray_si.dedup.layers import Screened
from ray_si.pipeline.gate import OpenGate
from ray_si.serving.background import in_thread

_END = -1
"""Before all rounds: what waits is left."""


class _Asked(NamedTuple):
    round: int
    number: int
    texts: list[str]
    size: int
    screened: Future[Screened]


class Screening:
    """Has blocks of candidates screened in the background; see `Deduplicator.screen`.

    ``at_once`` are under way at a time, since each waits for an embedder, an earlier round's before
    a later one's. What they raise their futures raise. ``with`` ends the work; what is not begun by
    then is left.
    """

    def __init__(self, gate: Deduplicator | OpenGate, at_once: int) -> None:
        self._gate, self._at_once = gate, at_once
        self._asked: queue.PriorityQueue[_Asked] = queue.PriorityQueue()
        self._numbers = itertools.count()

    def __enter__(self) -> Screening:
        for _ in range(self._at_once):
            in_thread(self._work)
        return self

    def __exit__(self, *error: object) -> None:
        for _ in range(self._at_once):
            self.submit([], 0, _END)

    def submit(self, texts: list[str], size: int, round_: int) -> Future[Screened]:
        """What the first ``size`` of the pool say of these texts of a round, once it is known."""
        future: Future[Screened] = Future()
        self._asked.put(_Asked(round_, next(self._numbers), texts, size, future))
        return future

    def _work(self) -> None:
        while (asked := self._asked.get()).round != _END:
            try:
                found = self._gate.screen(asked.texts, asked.size, batch=asked.round)
                asked.screened.set_result(found)
            except BaseException as error:  # noqa: BLE001 - whoever waits for the round raises it
                asked.screened.set_exception(error)
