"""The cosine gate from stored rows alone: what they say of cosines, and where they say too little.

A run stores the embeddings of what it accepted, the highest cosine of each (unless its index is
"exact", which knows that it is not above the threshold), and match and cosine of what the cosine
gate refused; no embeddings of seed tasks or of rejected candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from ray_si.dedup import Deduplicator, DedupResult, Duplicate
from ray_si.pipeline.decisions import Usable, texts_of
from ray_si.run.ids import instruction_id
from ray_si.run.schemas import AcceptedRow, RejectedRow, embeddings_of


class StoredDecisions:
    """What a run decided in one round, by candidate id: accepted and rejected rows, embeddings."""

    def __init__(self, accepted: pa.Table, rejected: pa.Table) -> None:
        rows = accepted.drop_columns(["embedding"]).to_pylist()
        self.accepted: dict[str, AcceptedRow] = {row["id"]: row for row in rows}
        self.rejected: dict[str, RejectedRow] = {
            instruction_id(row["request_id"], row["position"]): row for row in rejected.to_pylist()
        }
        known = accepted.filter(accepted["embedding"].is_valid())
        vectors = embeddings_of(known)
        ids = known["id"].to_pylist()
        self.embeddings: dict[str, np.ndarray] = (
            {} if vectors is None else dict(zip(ids, vectors, strict=True))
        )


class StoredCosines:
    """Vectors for candidates with which a `Deduplicator` decides as their embeddings would.

    What was accepted has its own embedding. What the cosine gate refused borrows the vector of its
    match, so it is refused for as long as that is in the pool; a match without embedding (a seed
    task, or what came after the target) is given an axis of its own. All others are zero: cosine 0
    with everything. Sound as long as the pool is part of what it was, which holds unless something
    is accepted that has no embedding; that, and every other decision for which stored cosines do
    not suffice, is noted in ``undecided``, by candidate id. No accepted row's cosine is above
    ``highest``, where the row has none itself.
    """

    def __init__(
        self,
        rounds: Iterable[StoredDecisions],
        limit: float,
        *,
        same_limit: bool,
        highest: float | None = None,
    ) -> None:
        self._limit, self._same_limit, self._highest = limit, same_limit, highest
        self.undecided: list[str] = []
        self._intact = True  # the pool is all that it was
        self._vectors: dict[str, np.ndarray] = {}
        matches: dict[str, None] = {}
        embeddings: dict[str, np.ndarray] = {}
        for decisions in rounds:
            embeddings |= {
                decisions.accepted[id_]["instruction"]: vector
                for id_, vector in decisions.embeddings.items()
            }
            refused = (row for row in decisions.rejected.values() if row["reason"] == "cosine")
            matches |= dict.fromkeys(row["match"] for row in refused if row["match"])
        axes = [text for text in matches if text not in embeddings]
        width = max((len(vector) for vector in embeddings.values()), default=0)
        self._zero = np.zeros(width + len(axes) + 1, np.float32)
        for text, vector in embeddings.items():
            self._vectors[text] = self._zero.copy()
            self._vectors[text][: len(vector)] = vector
        for axis, text in enumerate(axes, width):
            self._vectors[text] = self._zero.copy()
            self._vectors[text][axis] = 1

    def of_texts(self, texts: Sequence[str]) -> np.ndarray:
        """The vectors of texts of the pool, float32, shape (n, dimension)."""
        return np.stack([self._vectors.get(text, self._zero) for text in texts])

    def filter(
        self, gate: Deduplicator, usable: Sequence[Usable], decisions: StoredDecisions, room: int
    ) -> DedupResult:
        """The gate's result on a round, of which the first ``room`` are accepted."""
        ids = [candidate.id for candidate in usable]
        if not ids:
            return gate.filter([])
        vectors = np.stack([self._vector(id_, decisions) for id_ in ids])
        result = gate.filter(texts_of(usable), vectors)
        for k, i in enumerate(result.accepted):
            row = decisions.accepted.get(ids[i])
            refused = decisions.rejected.get(ids[i])
            late = refused is not None and refused["reason"] == "target_reached"
            highest = self._highest if row is None or row["cosine"] is None else row["cosine"]
            if row is not None and highest is not None and highest <= self._limit:
                continue
            if not (late and k >= room and self._same_limit):
                self.undecided.append(ids[i])
        rejected = [self._explained(duplicate, ids, decisions) for duplicate in result.rejected]
        return replace(result, rejected=rejected)

    def known(self, accepted: pa.Table, decisions: StoredDecisions) -> list[float | None]:
        """Each accepted row's highest cosine; None where it can no longer be known."""
        ids = accepted["id"].to_pylist()
        self._intact = self._intact and ids == list(decisions.accepted)
        stored = [decisions.accepted[id_]["cosine"] for id_ in ids]
        pairs = zip(stored, accepted["cosine"].to_pylist(), strict=True)
        return [before if self._intact or before == now else None for before, now in pairs]

    def _vector(self, id_: str, decisions: StoredDecisions) -> np.ndarray:
        text = self._text_at(id_, decisions)
        return self._zero if text is None else self._vectors.get(text, self._zero)

    def _text_at(self, id_: str, decisions: StoredDecisions) -> str | None:
        """The text whose vector stands for a candidate's; None where it is close to nothing."""
        if id_ in decisions.accepted:
            return decisions.accepted[id_]["instruction"]
        row = decisions.rejected.get(id_)
        if row is None:
            return None
        if row["reason"] == "cosine":
            assert row["score"] is not None, "a cosine that refused is not stored"
            return row["match"] if row["score"] > self._limit else None
        return row["text"] if row["reason"] == "target_reached" else None

    def _explained(
        self, duplicate: Duplicate, ids: list[str], decisions: StoredDecisions
    ) -> Duplicate:
        if duplicate.reason != "cosine":
            return duplicate
        id_ = ids[duplicate.index]
        refused, accepted = decisions.rejected.get(id_), decisions.accepted.get(id_)
        if refused and refused["reason"] == "cosine" and refused["match"] == duplicate.match:
            assert refused["score"] is not None, "a cosine that refused is not stored"
            return replace(duplicate, score=refused["score"])
        before = accepted["cosine"] if accepted else None
        if before is None or duplicate.score < before:  # a seed task may be nearer
            self.undecided.append(id_)
        return duplicate
