"""Both gates with one-by-one semantics, batch after batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ray_si.dedup.embedding_index import EmbeddingIndex
from ray_si.dedup.rouge_index import RougeIndex

_CHUNK = 1024
"""Candidates decided together: bounds the matrix of their mutual scores."""

Encoder = Callable[[list[str]], np.ndarray]
"""Texts -> embeddings of shape (n, dimension)."""


@dataclass(frozen=True)
class Duplicate:
    """A text that came too close to an earlier one.

    ``reason`` is "rouge" or "cosine"; ``match_id`` is the earlier text's position in the pool.
    """

    index: int
    reason: str
    match_id: int
    match: str
    score: float


@dataclass(frozen=True)
class Nearest:
    """How close an accepted text came: ROUGE-L F and cosine of its nearest earlier texts."""

    rouge: float
    rouge_match: str | None
    cosine: float | None


@dataclass(frozen=True)
class DedupResult:
    """What one batch came to.

    ``accepted`` are indices into the batch, ascending; ``nearest`` is parallel to it, and so are
    the rows of ``embeddings`` (None where the cosine gate is off). ``rejected`` is ascending too.
    """

    accepted: list[int] = field(default_factory=list)
    nearest: list[Nearest] = field(default_factory=list)
    rejected: list[Duplicate] = field(default_factory=list)
    embeddings: np.ndarray | None = None


@dataclass
class _Best:
    """The nearest pool text of one candidate so far."""

    id: int
    lcs: int
    total: int

    def offer(self, id_: int, lcs: int, total: int) -> None:
        if lcs * self.total > self.lcs * total:
            self.id, self.lcs, self.total = id_, lcs, total


class Deduplicator:
    """Accepts a text if and only if it is far enough from all it accepted or was given before.

    A text is refused when its ROUGE-L F with an earlier one is above ``rouge``, or its cosine
    similarity above ``cosine`` (None switches that gate off; otherwise ``encoder`` is needed).
    Decisions equal those of comparing one by one in order, however the texts are cut into batches.
    Embeddings are computed for the survivors of the ROUGE-L gate against the pool alone.
    """

    def __init__(
        self, rouge: float = 0.7, cosine: float | None = 0.9, encoder: Encoder | None = None
    ) -> None:
        if cosine is not None and not 0 < cosine <= 1:
            raise ValueError(f"cosine must lie in (0, 1], not {cosine}")
        self._rouge = RougeIndex(rouge)
        self._cosine = cosine
        self._encoder = encoder
        self._embeddings: EmbeddingIndex | None = None
        self._texts: list[str] = []

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, texts: Sequence[str], embeddings: np.ndarray | None = None) -> None:
        """Put texts into the pool without asking; ``embeddings`` spares the encoder the work."""
        if not texts:
            return
        self._rouge.add(self._rouge.encode(texts))
        self._texts.extend(texts)
        if self._cosine is not None:
            self._add_embeddings(self._encode(list(texts)) if embeddings is None else embeddings)

    def _encode(self, texts: list[str]) -> np.ndarray:
        if self._encoder is None:
            raise ValueError("the cosine gate needs an encoder or embeddings")
        return EmbeddingIndex.normalize(self._encoder(texts))

    def _add_embeddings(self, embeddings: np.ndarray) -> None:
        if self._embeddings is None:
            self._embeddings = EmbeddingIndex(embeddings.shape[1])
        self._embeddings.add(EmbeddingIndex.normalize(embeddings))

    def filter(self, texts: Sequence[str], embeddings: np.ndarray | None = None) -> DedupResult:
        """Decide on a batch in order and add what is accepted to the pool.

        ``embeddings`` has a row for every text; without it the encoder is asked for those that
        survive the ROUGE-L gate against the pool.
        """
        parts = []
        for start in range(0, len(texts), _CHUNK):
            part = slice(start, start + _CHUNK)
            rows = None if embeddings is None else embeddings[part]
            parts.append(self._filter_chunk(texts[part], rows, start))
        kept = [part.embeddings for part in parts if part.embeddings is not None]
        return DedupResult(
            [i for part in parts for i in part.accepted],
            [near for part in parts for near in part.nearest],
            [duplicate for part in parts for duplicate in part.rejected],
            np.concatenate(kept) if kept else None,
        )

    def _filter_chunk(
        self, texts: Sequence[str], embeddings: np.ndarray | None, offset: int
    ) -> DedupResult:
        encoded = self._rouge.encode(texts)
        best = [_Best(*map(int, b)) for b in zip(*self._rouge.nearest(encoded), strict=True)]
        survivors = [
            i for i, near in enumerate(best) if not self._rouge.exceeds(near.lcs, near.total)
        ]
        vectors = self._vectors(texts, survivors, embeddings)
        lcs, totals = self._rouge.pairwise(encoded)
        pool_ids, pool_cosines = (
            self._embeddings.nearest(vectors)
            if vectors is not None and self._embeddings is not None
            else (np.full(len(survivors), -1), np.full(len(survivors), -1.0, np.float32))
        )
        pool_size = len(self._texts)
        accepted: list[int] = []
        taken: list[int] = []  # their rows among the survivors
        nearest: list[Nearest] = []
        rejected: list[Duplicate] = []
        row_of = {i: row for row, i in enumerate(survivors)}
        for i, near in enumerate(best):
            for k, other in enumerate(accepted):
                near.offer(pool_size + k, int(lcs[i, other]), int(totals[i, other]))
            if self._rouge.exceeds(near.lcs, near.total):
                rejected.append(self._by_rouge(offset + i, near))
                continue
            row, cosine = row_of[i], None
            if vectors is not None and self._cosine is not None:
                match, cosine = int(pool_ids[row]), float(pool_cosines[row])
                if taken:
                    inner = vectors[taken] @ vectors[row]
                    k = int(inner.argmax())
                    if inner[k] > cosine:
                        match, cosine = pool_size + k, float(inner[k])
                if cosine > self._cosine:
                    rejected.append(
                        Duplicate(offset + i, "cosine", match, self._texts[match], cosine)
                    )
                    continue
            accepted.append(i)
            taken.append(row)
            match_text = self._texts[near.id] if near.id >= 0 else None
            nearest.append(Nearest(2 * near.lcs / near.total, match_text, cosine))
            self._texts.append(texts[i])
        self._rouge.add([encoded[i] for i in accepted])
        kept = None
        if vectors is not None:
            kept = vectors[taken]
            self._add_embeddings(kept)
        return DedupResult([offset + i for i in accepted], nearest, rejected, kept)

    def _vectors(
        self, texts: Sequence[str], survivors: list[int], embeddings: np.ndarray | None
    ) -> np.ndarray | None:
        if self._cosine is None or not survivors:
            return None
        if embeddings is not None:
            return EmbeddingIndex.normalize(embeddings[survivors])
        return self._encode([texts[i] for i in survivors])

    def _by_rouge(self, index: int, near: _Best) -> Duplicate:
        match = self._texts[near.id] if near.id >= 0 else ""
        return Duplicate(index, "rouge", near.id, match, 2 * near.lcs / near.total)
