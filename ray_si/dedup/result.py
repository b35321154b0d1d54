"""What the gate makes of a batch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Duplicate:
    """A text that came too close to an earlier one.

    ``index`` is its place in the batch; ``reason`` is "rouge" or "cosine"; ``match_id`` is the
    position in the pool of ``match``, the nearest earlier text (the earliest of equals), and
    ``score`` their ROUGE-L F or cosine. ``source`` is what `Deduplicator.add` was told of it.
    """

    index: int
    reason: str
    match_id: int
    match: str
    score: float
    source: str | None = None


@dataclass(frozen=True)
class Neighbours:
    """The nearest texts of an accepted one by ROUGE-L, whatever the threshold, nearest first.

    ``mean`` is its mean ROUGE-L F with the whole pool before it.
    """

    texts: list[str]
    scores: list[float]
    mean: float


@dataclass(frozen=True)
class DedupResult:
    """What one batch came to.

    ``accepted`` are indices into the batch, ascending; parallel to it are the rows of
    ``embeddings`` (None where whoever screened the batch by number has them), ``cosines``, each
    text's highest cosine with an earlier one (None where the cosine gate is off or its index
    "exact"; -1 for the very first), and ``neighbours`` (None unless asked for). ``rejected`` is
    ascending too.
    """

    accepted: list[int] = field(default_factory=list)
    rejected: list[Duplicate] = field(default_factory=list)
    embeddings: np.ndarray | None = None
    cosines: np.ndarray | None = None
    neighbours: list[Neighbours] | None = None


def joined_results(parts: list[DedupResult]) -> DedupResult:
    """That of a batch decided in parts, whose indices are into all of it."""
    if len(parts) == 1:
        return parts[0]
    embeddings = [part.embeddings for part in parts if part.embeddings is not None]
    cosines = [part.cosines for part in parts if part.cosines is not None]
    neighbours = [n for part in parts for n in part.neighbours or ()]
    return DedupResult(
        [i for part in parts for i in part.accepted],
        [duplicate for part in parts for duplicate in part.rejected],
        np.concatenate(embeddings) if embeddings else None,
        np.concatenate(cosines) if cosines else None,
        neighbours if any(part.neighbours is not None for part in parts) else None,
    )
