"""One round of the bootstrap as it is stored: what the checks of a verification look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ray_si.dedup import CONTAMINATED, EMBEDDED
from ray_si.pipeline.embeddings import candidate_embeddings
from ray_si.run.audit import Audit, Check
from ray_si.run.ids import instruction_id
from ray_si.run.layout import round_folder
from ray_si.run.manifests import RoundManifest
from ray_si.run.run import optional_part_key, part_key
from ray_si.run.schemas import ACCEPTED, REFUSED_EMBEDDINGS, REJECTED, AcceptedRow, RejectedRow

BY_THE_GATE = (CONTAMINATED, EMBEDDED, "rouge", "cosine", "target_reached")
"""Reasons of candidates that the filters had let pass."""


@dataclass(frozen=True)
class StoredCandidate:
    """A candidate as its row has it: ``reason`` is None where it was accepted."""

    request_id: str
    position: int
    text: str
    reason: str | None
    key: str
    row: AcceptedRow | RejectedRow

    @property
    def place(self) -> tuple[str, int]:
        """Where it stands among the candidates of its round."""
        return self.request_id, self.position

    @property
    def id(self) -> str:
        """The id it has, or would have if it were accepted."""
        return instruction_id(self.request_id, self.position)


@dataclass(frozen=True)
class StoredRound:
    """A round's manifest and decisions.

    ``accepted`` has no embeddings; ``table`` is the accepted rows with these. ``embeddings`` are
    those of everything that came to the gate, by candidate id; None in runs of earlier versions.
    """

    number: int
    manifest: RoundManifest
    table: pa.Table
    accepted: list[AcceptedRow]
    rejected: list[RejectedRow]
    embeddings: dict[str, np.ndarray] | None = None

    @classmethod
    def read(cls, audit: Audit, number: int, check: Check) -> StoredRound | None:
        """A round's decisions; None, with a finding, where they cannot be read."""
        manifest = audit.rounds[number]
        accepted = audit.table(part_key(manifest, "accepted"), ACCEPTED, check)
        rejected = audit.table(part_key(manifest, "rejected"), REJECTED, check)
        if accepted is None or rejected is None:
            return None
        rows = accepted.drop_columns(["embedding"]).to_pylist()
        key, embeddings = optional_part_key(manifest, "embeddings"), None
        if key is not None:
            refused = audit.table(key, REFUSED_EMBEDDINGS, check)
            if refused is None:
                return None
            embeddings = candidate_embeddings(accepted, refused)
        return cls(number, manifest, accepted, rows, rejected.to_pylist(), embeddings)

    @property
    def folder(self) -> str:
        """Where it is stored."""
        return round_folder(self.number)

    @property
    def accepted_key(self) -> str:
        """Of the accepted rows."""
        return part_key(self.manifest, "accepted")

    @property
    def rejected_key(self) -> str:
        """Of the rejected rows."""
        return part_key(self.manifest, "rejected")

    def candidates(self, reasons: Sequence[str] | None = None) -> list[StoredCandidate]:
        """What was accepted, and what was rejected (for ``reasons``), as the rows stand."""
        accepted = [
            StoredCandidate(
                row["request_id"], row["position"], row["instruction"], None, self.accepted_key, row
            )
            for row in self.accepted
        ]
        rejected = [
            StoredCandidate(
                row["request_id"],
                row["position"],
                row["text"],
                row["reason"],
                self.rejected_key,
                row,
            )
            for row in self.rejected
            if reasons is None or row["reason"] in reasons
        ]
        return accepted + rejected

    def vectors(self, candidates: Sequence[StoredCandidate]) -> np.ndarray | None:
        """The embeddings of candidates, shape (n, dimension); None where one has none."""
        stored = self.embeddings
        if stored is None or not all(candidate.id in stored for candidate in candidates):
            return None
        vectors = [stored[candidate.id] for candidate in candidates]
        return np.stack(vectors) if vectors else np.zeros((0, 0), np.float32)

    def gated(self, *reasons: str) -> list[StoredCandidate]:
        """What was accepted, or rejected for these reasons, in the order of the candidates."""
        return sorted(self.candidates(reasons), key=lambda candidate: candidate.place)
