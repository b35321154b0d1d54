"""Texts that nothing may resemble, kept apart from any pool: asked, never joined."""

from __future__ import annotations

import bisect
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ray_si.dedup.cosine.scalar import normalized
from ray_si.dedup.deduplicator import Deduplicator, Encoder
from ray_si.dedup.exclusions.ngrams import NgramIndex
from ray_si.dedup.layers import Screened
from ray_si.dedup.pool import LocalPool
from ray_si.dedup.result import DedupResult, Duplicate
from ray_si.dedup.tokens import Tokenizer

CONTAMINATED = "contaminated"
"""The reason of what resembles an excluded text as a whole, by whichever measure."""

EMBEDDED = "contaminated_within"
"""The reason of what holds an excluded text, or so many words of it in a row."""


class ExcludedTexts:
    """Evaluation texts, say, that a `Deduplicator`'s candidates must not come too close to.

    A text is too close when its ROUGE-L F with one of them is above ``rouge``, when it shares a run
    of ``words`` with one (None: not asked; see `NgramIndex`), or when its cosine similarity is
    above ``cosine`` (None: not asked). Unlike texts given to `Deduplicator.add`,
    these are nobody's neighbours: they show in no score but that of a match. What is found depends
    on nothing but the texts asked about, so it may be asked in any order and any number of parts,
    by several threads too.

    Raises ValueError for thresholds outside (0, 1], too few ``words`` or an unknown tokenizer.
    """

    def __init__(
        self,
        rouge: float = 0.7,
        cosine: float | None = None,
        *,
        words: int | None = None,
        tokenizer: Tokenizer = "auto",
        threads: int | None = None,
    ) -> None:
        if cosine is not None and not 0 < cosine <= 1:
            raise ValueError(f"cosine must lie in (0, 1], not {cosine}")
        self._cosine = cosine
        self._pool = LocalPool(rouge, tokenizer, threads=threads)
        self._runs = None if words is None else NgramIndex(words, tokenizer)
        self._starts: list[int] = []  # ascending; parallel to the sources from there on
        self._sources: list[str] = []
        self._lock = threading.Lock()  # the index is for one thread at a time
        self.searched_s = 0.0
        """Seconds that `find` has searched so far, without what it waited for."""

    def __len__(self) -> int:
        return len(self._pool)

    def add(
        self, texts: Sequence[str], embeddings: np.ndarray | None = None, *, source: str
    ) -> None:
        """Exclude more texts, of shape (n, dimension) where embedded; ``source`` names their set.

        Raises ValueError where the cosine is asked for and there are no fitting embeddings.
        """
        vectors = self._vectors(texts, embeddings)
        self._starts.append(len(self))
        self._sources.append(source)
        self._pool.add(texts, vectors)
        if self._runs is not None:
            self._runs.add(texts)

    def find(self, texts: Sequence[str], embeddings: np.ndarray | None = None) -> list[Duplicate]:
        """Those of the texts that are too close, in order, each with the text it is nearest to.

        Of equally near ones that is the earliest. ROUGE-L is asked first, then for shared runs, and
        the cosine only of what both let pass. The score of an `EMBEDDED` one is the share of the
        excluded text's words that stand in it in one piece. ``embeddings`` has a row for every
        text.
        """
        vectors = self._vectors(texts, embeddings)
        with self._lock:
            began = time.monotonic()
            ids, scores, is_embedded = self._nearest(texts, vectors)
            self.searched_s += time.monotonic() - began
        return [
            Duplicate(
                int(i),
                EMBEDDED if is_embedded[i] else CONTAMINATED,
                int(ids[i]),
                self._pool.texts([int(ids[i])])[0],
                float(scores[i]),
                self._sources[bisect.bisect_right(self._starts, int(ids[i])) - 1],
            )
            for i in np.flatnonzero(ids >= 0)
        ]

    def _nearest(
        self, texts: Sequence[str], vectors: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids (-1 where nothing is too close), scores, and which are by a shared run."""
        ids, lcs, totals = self._pool.nearest_by_rouge(texts)
        scores = 2 * lcs / totals
        is_embedded = np.zeros(len(texts), bool)
        if self._runs is not None:
            rest = np.flatnonzero(ids < 0)
            for run in self._runs.find([texts[i] for i in rest.tolist()]):
                place = rest[run.index]
                ids[place], scores[place], is_embedded[place] = run.text_id, run.share, True
        if vectors is not None and self._cosine is not None:
            rest = np.flatnonzero(ids < 0)
            near, cosines = self._pool.nearest_by_cosine(vectors[rest], self._cosine)
            above = cosines > self._cosine
            ids[rest[above]], scores[rest[above]] = near[above], cosines[above]
        return ids, scores, is_embedded

    def _vectors(self, texts: Sequence[str], embeddings: np.ndarray | None) -> np.ndarray | None:
        if self._cosine is None or not len(texts):
            return None
        if embeddings is None:
            raise ValueError("the cosine needs embeddings")
        vectors = normalized(embeddings)
        if len(vectors) != len(texts):
            raise ValueError(f"there are {len(vectors)} embeddings for {len(texts)} texts")
        return vectors


class GuardedGate:
    """A gate whose candidates are held against excluded texts before anything else.

    What is too close to those is refused, as `CONTAMINATED` or `EMBEDDED`, and refuses nothing
    itself; the rest is decided by the ``gate`` behind it. ``encode`` is needed where either
    compares cosines: then each candidate is embedded once, for both.
    """

    def __init__(
        self, excluded: ExcludedTexts, gate: Deduplicator, encode: Encoder | None = None
    ) -> None:
        self._excluded, self._gate, self._encode = excluded, gate, encode

    def __len__(self) -> int:
        return len(self._gate)

    def filter(
        self,
        texts: Sequence[str],
        embeddings: np.ndarray | None = None,
        screened: Screened | None = None,
    ) -> DedupResult:
        """Decide on a batch in order; see `Deduplicator.filter`."""
        vectors = embeddings
        if screened is not None:
            found: Sequence[Duplicate] = screened.refused
        else:
            vectors, found = self._find(texts, embeddings)

        def decide(rest: list[int]) -> DedupResult:
            part = None if vectors is None else vectors[rest]
            return self._gate.filter([texts[i] for i in rest], part, screened)

        return decide_rest(len(texts), found, decide)

    def screen(
        self,
        texts: Sequence[str],
        size: int,
        embeddings: np.ndarray | None = None,
        batch: int | None = None,
    ) -> Screened:
        """See `Deduplicator.screen`; what is too close to an excluded text is refused already."""
        vectors, found = self._find(texts, embeddings)
        refused = {duplicate.index for duplicate in found}
        rest = [i for i in range(len(texts)) if i not in refused]
        part = None if vectors is None else vectors[rest]
        screened = self._gate.screen([texts[i] for i in rest], size, part, batch)
        return replace(screened, count=len(texts), refused=tuple(found))

    @property
    def screening_s(self) -> tuple[float, ...]:
        """See `Deduplicator.screening_s`; with those of the excluded texts, which go on beside."""
        return *self._gate.screening_s, self._excluded.searched_s

    def settle(self) -> None:
        """See `Deduplicator.settle`."""
        self._gate.settle()

    def _find(
        self, texts: Sequence[str], embeddings: np.ndarray | None
    ) -> tuple[np.ndarray | None, list[Duplicate]]:
        """The texts' embeddings, where they are needed, and those that are too close."""
        vectors = embeddings
        if vectors is None and self._encode and len(texts):
            vectors = self._encode(list(texts))
        return vectors, self._excluded.find(texts, vectors)


def decide_rest(
    size: int, refused: Sequence[Duplicate], decide: Callable[[list[int]], DedupResult]
) -> DedupResult:
    """The result on a batch of which some are refused already: ``decide`` has the other indices."""
    taken = {duplicate.index for duplicate in refused}
    rest = [i for i in range(size) if i not in taken]
    result = decide(rest)
    rejected = [replace(duplicate, index=rest[duplicate.index]) for duplicate in result.rejected]
    return replace(
        result,
        accepted=[rest[i] for i in result.accepted],
        rejected=sorted([*refused, *rejected], key=lambda duplicate: duplicate.index),
    )
