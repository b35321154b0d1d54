"""Batches of several corpora, one after the other: what a deduplication decides on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from ray_si.storage.corpus import Corpus, CorpusBatch

Place = tuple[int, int]
"""Of a batch: its part, of all parts of all corpora, and its number within that, both from 0."""


class Read(NamedTuple):
    """A batch of the corpus ``number``.

    ``embeddings`` are of its texts, float32, shape (n, dimension); None where nobody has asked for
    them yet.
    """

    number: int
    place: Place
    batch: CorpusBatch
    embeddings: np.ndarray | None = None


class Reader(Protocol):
    """Reads corpora in batches; ``cut`` says how: places mean the same under the same."""

    @property
    def cut(self) -> str: ...

    def read(self, corpora: Sequence[Corpus], known: Place | None = None) -> Iterator[Read]:
        """All batches in order, of which those up to ``known`` need no embeddings.

        Raises CorpusError where something cannot be read, EngineError where it cannot be embedded.
        """


@dataclass(frozen=True)
class LocalReader:
    """Reads in this process, at most ``rows`` at a time, one batch ahead, without embeddings."""

    rows: int

    @property
    def cut(self) -> str:
        """See `Reader`."""
        return f"files, {self.rows} rows"

    def read(self, corpora: Sequence[Corpus], known: Place | None = None) -> Iterator[Read]:
        """See `Reader`."""
        batches = (
            Read(number, (number, i), batch)
            for number, corpus in enumerate(corpora)
            for i, batch in enumerate(corpus.batches(self.rows))
        )
        with ThreadPoolExecutor(1) as thread:
            coming = thread.submit(next, batches, None)
            while (batch := coming.result()) is not None:
                coming = thread.submit(next, batches, None)
                yield batch
