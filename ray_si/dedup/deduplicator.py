"""Both gates with one-by-one semantics, batch after batch."""

from __future__ import annotations

import bisect
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np

from ray_si.dedup.batch import Batch, Match
from ray_si.dedup.cosine.scalar import normalized
from ray_si.dedup.layers import (
    Cosines,
    LayeredPool,
    Screened,
    nearer_by_cosine,
    nearer_by_rouge,
)
from ray_si.dedup.peers import Peers
from ray_si.dedup.peers.walk import BY_ROUGE
from ray_si.dedup.pool import EXACT, EXACT_KINDS, LocalPool, Pool
from ray_si.dedup.result import DedupResult, Duplicate, Neighbours, joined_results
from ray_si.dedup.rouge_index import Similar
from ray_si.dedup.segment import Best
from ray_si.dedup.tokens import Tokenizer

_BATCH = 16_384
"""Texts sent to the pool at once: bounds what is held beside it."""

Encoder = Callable[[list[str]], np.ndarray]
"""Texts -> embeddings of shape (n, dimension)."""


class Deduplicator:
    """Accepts a text if and only if it is far enough from all it accepted or was given before.

    A text is refused when its ROUGE-L F with an earlier one is above ``rouge``, or its cosine
    similarity above ``cosine`` (None switches that gate off; otherwise ``encoder`` or embeddings
    are needed). Decisions equal those of comparing one by one in order, however the texts are cut
    into batches. ROUGE-L comes first: embeddings are computed for what it lets pass against the
    pool alone, and a text refused by either gate refuses nothing itself.

    ``embedding_index`` "exact" finds the nearest text above the threshold (`CosineIndex`); a FAISS
    factory string finds the nearest of all, so that ``cosines`` are known: "Flat" exactly too, at
    many times the cost, all others approximately (the ROUGE-L gate is exact in any case).
    ``most_similar`` asks for that many neighbours of each accepted text, at
    the cost of comparing it with the whole pool. ``pool`` is where the texts live, in this process
    by default.

    With ``layers``, what needs no order can be found out before a batch is complete, by several
    threads: `screen` asks the pool as it was some batches ago, and `filter` then only what came
    since. Each batch is a layer; `settle` keeps the last ``layers`` of them apart. Not for an
    index that finds approximately, whose answers depend on where it is cut. Where `screen` is told
    of batches it compares their texts with each other, too, so that `filter` only walks over the
    pairs that are near; not with `most_similar` or an index that measures more than those.

    Raises ValueError for thresholds outside (0, 1], an unknown tokenizer or factory string.
    """

    def __init__(
        self,
        rouge: float = 0.7,
        cosine: float | None = 0.9,
        encoder: Encoder | None = None,
        *,
        tokenizer: Tokenizer = "auto",
        embedding_index: str = EXACT,
        most_similar: int = 0,
        pool: Pool | None = None,
        layers: int | None = None,
    ) -> None:
        _check_cosine(cosine)
        self._rouge, self._cosine, self._tokenizer = rouge, cosine, tokenizer
        self._encoder, self._embedding_index = encoder, embedding_index
        self._most_similar = most_similar
        self._pool = LocalPool(rouge, tokenizer, embedding_index) if pool is None else pool
        self._layers: LayeredPool | None = None
        if layers is not None:
            if cosine is not None and embedding_index not in EXACT_KINDS:
                raise ValueError(f"embedding_index {embedding_index} cannot be searched in layers")
            make = partial(LocalPool, rouge, tokenizer, embedding_index)
            self._pool = self._layers = LayeredPool(self._pool, layers, make)
        self._peers: Peers | None = None
        if layers is not None and not most_similar and (cosine is None or embedding_index == EXACT):
            self._peers = Peers(rouge, cosine, tokenizer)
        self._lock = threading.Lock()  # the pool is for one thread at a time
        self._peers_lock = threading.Lock()  # and so are they; taken last
        self._pool_s = self._peers_s = 0.0  # that `screen` had them, without what it waited for
        self._source_starts: list[int] = []  # ascending; parallel to the sources from there on
        self._sources: list[str | None] = []

    def __len__(self) -> int:
        return len(self._pool)

    @property
    def screening_s(self) -> tuple[float, ...]:
        """Seconds that `screen` has searched so far, without what it waited for.

        Those of the pool, and of what came before in a batch: both go on at a time.
        """
        return self._pool_s, self._peers_s

    def add(
        self,
        texts: Sequence[str],
        embeddings: np.ndarray | None = None,
        source: str | None = None,
    ) -> None:
        """Put texts into the pool without asking, say because nothing may resemble them.

        ``embeddings`` spares the encoder the work. ``source`` is told of every match with them.
        Raises TypeError where a text is no string, ValueError where embeddings do not fit.
        """
        vectors = None
        if self._cosine is not None and texts:
            vectors = self._encode(texts) if embeddings is None else _fitting(embeddings, texts)
        with self._lock:
            self._begin(source)
            for start in range(0, len(texts), _BATCH):
                part = slice(start, start + _BATCH)
                self._pool.add(texts[part], None if vectors is None else vectors[part])

    def filter(
        self,
        texts: Sequence[str],
        embeddings: np.ndarray | None = None,
        screened: Screened | None = None,
    ) -> DedupResult:
        """Decide on a batch in order and add what is accepted to the pool.

        ``embeddings`` has a row for every text; without it, and without what `screen` found of
        these texts, the encoder is asked for those that pass the ROUGE-L gate against the pool.
        Raises TypeError where a text is no string, ValueError where embeddings do not fit; nothing
        is added then.
        """
        vectors = None if embeddings is None else _fitting(embeddings, texts)
        with self._lock:
            self._begin(None)
            if screened and self._peers:
                with self._peers_lock:
                    if self._peers.has(screened.batch):
                        return self._walk(texts, screened)
            if screened and screened.vectors is not None:
                screened = replace(screened, vectors=np.asarray(screened.vectors))
            parts = []
            for start in range(0, len(texts), _BATCH):
                part = texts[start : start + _BATCH]
                known = screened and screened.part(start, start + len(part))
                parts.append(self._filter(part, vectors, start, known))
        return joined_results(parts)

    def screen(
        self,
        texts: Sequence[str],
        size: int,
        embeddings: np.ndarray | None = None,
        batch: int | None = None,
    ) -> Screened:
        """What the first ``size`` of the pool say of some texts; their order does not matter.

        Of those that pass the ROUGE-L gate against them, the encoder is asked for embeddings, where
        ``embeddings`` has none for every text. ``batch`` numbers the batch that they will be part
        of, in the order of decision. Safe to call from several threads, beside `filter` too. Needs
        ``layers``; ``size`` is where one of those begins that are kept apart, or the length of the
        pool, and the same for all of a batch.
        """
        assert self._layers is not None, "a pool without layers is not screened"
        with self._lock:
            began = time.monotonic()
            by_rouge = self._layers.nearest_by_rouge(texts, end=size)
            self._pool_s += time.monotonic() - began
        vectors, by_cosine = None, None
        survivors = np.flatnonzero(by_rouge.ids < 0).tolist()
        if self._cosine is not None and survivors:
            if embeddings is None:
                vectors = self._encode([texts[i] for i in survivors])
            else:
                vectors = _fitting(embeddings, texts)[survivors]
            with self._lock:
                began = time.monotonic()
                by_cosine = self._layers.nearest_by_cosine(vectors, self._cosine, end=size)
                self._pool_s += time.monotonic() - began
        numbers = None
        if self._peers is not None and batch is not None:
            with self._peers_lock:
                began = time.monotonic()
                numbers = self._peers.add(batch, texts, by_rouge.ids >= 0, vectors)
                self._peers_s += time.monotonic() - began
        found = Screened(len(texts), size, by_rouge, vectors, by_cosine)
        return replace(found, batch=batch, numbers=numbers)

    def settle(self) -> None:
        """Merge layers that are no longer asked apart; decisions do not depend on it."""
        if self._layers is not None:
            with self._lock:
                self._layers.settle()
                if self._peers is not None:
                    with self._peers_lock:
                        self._peers.forget(self._layers.settled)

    def rethreshold(self, *, rouge: float | None = None, cosine: float | None = None) -> None:
        """Use higher thresholds from the next batch on.

        That is sound: what is in the pool keeps even the lower ones. Lower thresholds are refused
        with ValueError, because the pool may hold texts that they would have kept out; filter the
        texts again with a new gate instead. ValueError with ``layers``, too, where candidates may
        have been compared by the thresholds of before.
        """
        if self._layers is not None:
            raise ValueError("a gate with layers keeps its thresholds: make a new one")
        _check_cosine(cosine)
        if rouge is not None and rouge < self._rouge:
            raise ValueError(f"rouge {rouge} is below the {self._rouge} the pool was made with")
        if cosine is not None and (self._cosine is None or cosine < self._cosine):
            raise ValueError(f"cosine {cosine} is below the {self._cosine} the pool was made with")
        if rouge is not None:
            self._pool.set_rouge(rouge)
            self._rouge = rouge
        self._cosine = self._cosine if cosine is None else cosine

    def _walk(self, texts: Sequence[str], screened: Screened) -> DedupResult:
        """Decide on a batch whose pairs are known."""
        assert self._layers is not None
        assert self._peers is not None
        assert screened.batch is not None
        assert screened.numbers is not None
        decided = self._peers.decided()
        by_rouge = self._nearest_by_rouge(texts, screened, decided)
        survivors = np.flatnonzero(by_rouge.ids < 0)
        by_cosine = None
        if self._cosine is not None and len(survivors):
            by_cosine = self._nearest_by_cosine(survivors, screened, decided)
        size = len(self._pool)
        reasons, ids, cosines = self._peers.decide(
            screened.batch, screened.numbers, by_rouge, by_cosine, size
        )
        accepted = np.flatnonzero(reasons == 0)
        scores = np.where(reasons == BY_ROUGE, 2 * by_rouge.lcs / by_rouge.totals, cosines)
        refused = np.flatnonzero(reasons)
        columns = (refused, reasons[refused], ids[refused], scores[refused])
        matches = [
            Match(index, "rouge" if reason == BY_ROUGE else "cosine", id_, score)
            for index, reason, id_, score in zip(*(c.tolist() for c in columns), strict=True)
        ]
        kept = [texts[i] for i in accepted.tolist()]
        explained = self._explain(matches, size, kept, 0)
        vectors = screened.vectors
        is_kept = (reasons == 0)[screened.by_rouge.ids < 0]
        if vectors is not None and 2 * len(kept) < len(vectors):  # those of the refused go at once
            vectors, is_kept = vectors[is_kept], np.ones(len(kept), bool)
        self._layers.add_later(kept, lambda: None if vectors is None else vectors[is_kept])
        return DedupResult(accepted.tolist(), explained)

    def _filter(
        self,
        texts: Sequence[str],
        embeddings: np.ndarray | None,
        offset: int,
        screened: Screened | None,
    ) -> DedupResult:
        batch = Batch(texts, self._rouge, self._tokenizer, self._embedding_index)
        by_rouge = self._nearest_by_rouge(texts, screened)
        survivors = np.flatnonzero(by_rouge[0] < 0)
        vectors = None
        by_cosine = None
        if self._cosine is not None and len(survivors):
            if screened is not None:
                vectors = np.asarray(screened.vectors)[screened.rows(survivors)]
                by_cosine = self._nearest_by_cosine(survivors, screened)
            else:
                vectors = (
                    self._encode([texts[i] for i in survivors.tolist()])
                    if embeddings is None
                    else embeddings[offset + survivors]
                )
                by_cosine = self._pool.nearest_by_cosine(vectors, self._cosine)
        size = len(self._pool)
        accepted, matches = batch.decide(size, by_rouge, self._cosine, vectors, by_cosine)
        kept = [texts[i] for i in accepted]
        rows = np.searchsorted(survivors, accepted)
        measured = self._embedding_index != EXACT
        result = DedupResult(
            accepted=[offset + i for i in accepted],
            rejected=self._explain(matches, size, kept, offset),
            embeddings=None if vectors is None else vectors[rows],
            cosines=None if vectors is None or not measured else batch.cosines[rows],
            neighbours=self._neighbours(batch, kept, accepted) if self._most_similar else None,
        )
        self._pool.add(kept, result.embeddings)
        return result

    def _nearest_by_rouge(
        self, texts: Sequence[str], screened: Screened | None, but: Collection[int] = ()
    ) -> Best:
        if screened is None:
            return self._pool.nearest_by_rouge(texts)
        assert self._layers is not None
        since = self._layers.nearest_by_rouge(texts, start=screened.size, but=but)
        return nearer_by_rouge(screened.by_rouge, since)

    def _nearest_by_cosine(
        self, survivors: np.ndarray, screened: Screened, but: Collection[int] = ()
    ) -> Cosines:
        """Nearest texts of those that pass the ROUGE-L gate.

        ``but`` leaves out layers, by the ids that they begin with.
        """
        assert self._layers is not None
        assert self._cosine is not None
        assert screened.by_cosine is not None
        rows = screened.rows(survivors)
        best = screened.by_cosine[0][rows], screened.by_cosine[1][rows]
        if self._layers.has_since(screened.size, but):
            vectors, start = np.asarray(screened.vectors)[rows], screened.size
            since = self._layers.nearest_by_cosine(vectors, self._cosine, start=start, but=but)
            best = nearer_by_cosine(best, since)
        return best

    def _explain(
        self, matches: list[Match], size: int, kept: list[str], offset: int
    ) -> list[Duplicate]:
        known = iter(self._pool.texts([m.match_id for m in matches if m.match_id < size]))
        return [
            Duplicate(
                offset + match.index,
                match.reason,
                match.match_id,
                next(known) if match.match_id < size else kept[match.match_id - size],
                match.score,
                self._source_of(match.match_id),
            )
            for match in matches
        ]

    def _neighbours(self, batch: Batch, kept: list[str], accepted: list[int]) -> list[Neighbours]:
        k, size, found = self._most_similar, len(self._pool), []
        before = self._pool.most_similar(kept, k) if size else [Similar([], [], 0)] * len(kept)
        within = batch.similar(accepted, k, size)
        merged = [a.merged(b, k) for a, b in zip(before, within, strict=True)]
        in_pool = sorted({id_ for similar in merged for id_ in similar.ids if id_ < size})
        texts = dict(zip(in_pool, self._pool.texts(in_pool), strict=True))
        texts |= {size + i: text for i, text in enumerate(kept)}
        for i, similar in enumerate(merged):
            names = [texts[id_] for id_ in similar.ids]
            found.append(Neighbours(names, similar.scores, similar.mean(size + i)))
        return found

    def _encode(self, texts: Sequence[str]) -> np.ndarray:
        if self._encoder is None:
            raise ValueError("the cosine gate needs an encoder or embeddings")
        return _fitting(self._encoder(list(texts)), texts)

    def _begin(self, source: str | None) -> None:
        """A batch follows."""
        if self._layers is not None:
            self._layers.begin()
        if not self._sources or self._sources[-1] != source:
            self._source_starts.append(len(self))
            self._sources.append(source)

    def _source_of(self, id_: int) -> str | None:
        return self._sources[bisect.bisect_right(self._source_starts, id_) - 1]


def warm_up() -> None:
    """Compile what the gate runs, or load it from numba's cache.

    Some ten seconds the first time after an installation, which may pass in a thread beside other
    work; without it they are spent at the first use. What goes wrong here goes wrong there again.
    """
    texts = ["é", *(f"{i} of {i % 7}" for i in range(1500))]  # enough for postings
    gate = Deduplicator(cosine=0.9, most_similar=1)
    with suppress(RuntimeError):  # a process that ends meanwhile starts no more threads
        gate.add(texts, np.ones((len(texts), 2)))
        gate.filter([*texts[:2], "another", "another one"], np.eye(4, 2))


def _check_cosine(cosine: float | None) -> None:
    if cosine is not None and not 0 < cosine <= 1:
        raise ValueError(f"cosine must lie in (0, 1], not {cosine}")


def _fitting(embeddings: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    vectors = normalized(embeddings)
    if len(vectors) != len(texts):
        raise ValueError(f"there are {len(vectors)} embeddings for {len(texts)} texts")
    return vectors
