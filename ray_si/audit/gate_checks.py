"""Checks of the gate's decisions, each with a gate of its own beside the run's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from ray_si.audit.stored_round import BY_THE_GATE, StoredCandidate, StoredRound
from ray_si.config import RunConfig
from ray_si.dedup import CONTAMINATED, EMBEDDED, Deduplicator, Duplicate
from ray_si.dedup.pool import EXACT_KINDS
from ray_si.dedup.rouge import rouge_l
from ray_si.pipeline.contamination import excluded_texts
from ray_si.pipeline.embeddings import InputEmbeddings
from ray_si.pipeline.gate import gate_options
from ray_si.records import SeedTask
from ray_si.run.audit import Check
from ray_si.run.evaluation import EvaluationSet
from ray_si.run.schemas import AcceptedRow, RejectedRow, embeddings_of

_MOST = 1 + 1e-5
"""Cosines of equal texts come to no more, in single precision."""


class EvaluationSetCheck:
    """Nothing that came to the gate resembles an evaluation set, but what was refused for it."""

    def __init__(
        self,
        config: RunConfig,
        sets: Sequence[EvaluationSet],
        inputs: InputEmbeddings | None = None,
    ) -> None:
        self.check = Check("evaluation sets")
        self._limit = config.dedup.cosine
        self._by_rouge = excluded_texts(config, sets)
        self._excluded = self._by_rouge
        self._texts = {(item.name, text) for item in sets for text in item.texts}
        if not sets:
            self.check.notes.append("the run has none")
        elif inputs is not None:
            self._excluded = excluded_texts(config, sets, inputs.sets)
        elif self._limit is not None:
            self.check.notes.append(
                "their embeddings are not stored: cosines with them are not computed again"
            )

    def look_at(self, stored: StoredRound) -> None:
        """Hold everything that came to the gate against the sets again."""
        candidates = stored.gated(*BY_THE_GATE)
        if self._texts:
            self.check.count += len(candidates)
        texts, vectors = [candidate.text for candidate in candidates], stored.vectors(candidates)
        excluded = self._by_rouge if vectors is None else self._excluded
        is_complete = excluded is not self._by_rouge or self._limit is None
        nearest = {match.index: match for match in excluded.find(texts, vectors)}
        for i, candidate in enumerate(candidates):
            match = nearest.get(i)
            if candidate.reason not in (CONTAMINATED, EMBEDDED):
                if match:
                    how = "share " if match.reason == EMBEDDED else ""
                    near = f'{how}{match.score:.4f} with "{match.match}"'
                    message = f"{candidate.id} is too close to {match.source}: {near}"
                    self.check.find(candidate.key, message)
            elif match:
                row = _rejected(candidate)
                told = (row["reason"], row["match"], row["score"], row["source"])
                if told != (match.reason, match.match, match.score, match.source):
                    message = f"{candidate.id} matches {match.source} otherwise than it says"
                    self.check.find(candidate.key, message)
            elif candidate.reason == EMBEDDED:
                message = f"{candidate.id} holds nothing of {_rejected(candidate)['source']}"
                self.check.find(candidate.key, message)
            elif is_complete:
                self.check.find(candidate.key, f"{candidate.id} is close to no evaluation text")
            else:
                self._look_at_cosine(candidate)

    def _look_at_cosine(self, candidate: StoredCandidate) -> None:
        """What ROUGE-L lets pass must have been refused by its cosine with one of the texts."""
        row = _rejected(candidate)
        if (row["source"], row["match"]) not in self._texts:
            self.check.find(candidate.key, f"{candidate.id} matches what is in no evaluation set")
        elif not _is_above(row["score"], self._limit):
            self.check.find(candidate.key, f"{candidate.id} is close to nothing in {row['source']}")


class RougeCheck:
    """ROUGE-L lets the accepted pass and refuses what it refused, with the same matches."""

    def __init__(self, config: RunConfig, seeds: Sequence[SeedTask]) -> None:
        self.check = Check("rouge gate")
        self._gate = Deduplicator(**gate_options(config.dedup) | {"cosine": None})
        self._gate.add([seed.instruction for seed in seeds])

    def look_at(self, stored: StoredRound) -> None:
        """Decide anew, in order, on all that the cosine gate did not refuse."""
        candidates = stored.gated("rouge", "target_reached")
        self.check.count += len(candidates)
        result = self._gate.filter([candidate.text for candidate in candidates])
        _compare_refusals(self.check, candidates, result.rejected, "rouge", "ROUGE-L")
        for place, i in enumerate(result.accepted):
            candidate = candidates[i]
            if candidate.reason == "rouge":
                self.check.find(candidate.key, f"{candidate.id} is close to nothing")
            elif candidate.reason is None and result.neighbours:
                row_ = cast(AcceptedRow, candidate.row)
                near_ = result.neighbours[place]
                similar = row_["most_similar"] or ()
                named = [(item["instruction"], item["rouge"]) for item in similar]
                expected = list(zip(near_.texts, near_.scores, strict=True))
                if (named, row_["mean_rouge"]) != (expected, near_.mean):
                    self.check.find(candidate.key, f"{candidate.id} has other neighbours")


class CosineCheck:
    """The cosine gate lets the accepted pass and refuses what it refused, with the same matches.

    Where only embeddings of what was accepted are stored, as in runs of earlier versions, cosines
    are at most the threshold among the accepted, and above it where they refused.
    """

    def __init__(
        self,
        config: RunConfig,
        seeds: Sequence[SeedTask],
        inputs: InputEmbeddings | None = None,
        *,
        regated: bool = False,
    ) -> None:
        self.check = Check("cosine gate")
        self._dedup, self._knows_all = config.dedup, inputs is not None
        self._regated = regated
        self._pool = {seed.instruction for seed in seeds}
        self._gate: Deduplicator | None = None
        if self._dedup.cosine is None:
            self.check.notes.append("the run has no cosine gate")
        elif self._dedup.embedding_index not in EXACT_KINDS:
            self.check.notes.append(
                f"the index {self._dedup.embedding_index} is approximate: no cosine is computed "
                "again"
            )
        else:
            options = gate_options(self._dedup) | {"rouge": 1.0, "most_similar": 0}
            self._gate = Deduplicator(**options)
            if inputs is not None:
                self._gate.add([seed.instruction for seed in seeds], inputs.seeds)
            else:
                self._doubt("of seed tasks and of rejected candidates")

    def look_at(self, stored: StoredRound) -> None:
        """Check a round, and take what it accepted into the pool."""
        if self._dedup.cosine is None:
            for candidate in stored.gated("cosine"):
                if candidate.reason:
                    self.check.find(candidate.key, f"{candidate.id} needs a cosine gate")
            return
        candidates = stored.gated("cosine", "target_reached")
        vectors = stored.vectors(candidates)
        if self._knows_all and vectors is None:
            self._knows_all = False
            self._doubt(f"of rejected candidates, from round {stored.number} on,")
        if not self._knows_all:
            candidates = stored.candidates(())
            vectors = embeddings_of(stored.table)
        self.check.count += len(stored.accepted)
        if vectors is None and candidates:
            self.check.find(stored.accepted_key, "has no sound embeddings")
            self._gate = None
        elif self._gate is not None and candidates:
            assert vectors is not None
            self._decide(stored, self._gate, candidates, vectors)
        self._look_at_rejected(stored)
        self._pool |= {row["instruction"] for row in stored.accepted}

    def _doubt(self, whose: str) -> None:
        self.check.notes.append(
            f"embeddings {whose} are not stored: cosines with these are not computed again"
        )

    def _decide(
        self,
        stored: StoredRound,
        gate: Deduplicator,
        candidates: Sequence[StoredCandidate],
        vectors: np.ndarray,
    ) -> None:
        """Decide anew on candidates, in order, from their stored embeddings."""
        try:
            result = gate.filter([candidate.text for candidate in candidates], vectors)
        except ValueError as error:  # of another width than those before
            self.check.find(stored.accepted_key, str(error))
            self._gate = None
            return
        _compare_refusals(self.check, candidates, result.rejected, "cosine", "cosine")
        for place, i in enumerate(result.accepted):
            candidate = candidates[i]
            highest = None if result.cosines is None else float(result.cosines[place])
            if candidate.reason == "cosine":
                self.check.find(candidate.key, f"{candidate.id} is close to nothing")
            elif candidate.reason is None:
                self._look_at_highest(candidate, highest)

    def _look_at_highest(self, candidate: StoredCandidate, highest: float | None) -> None:
        """An accepted row says its highest cosine, as far as the index measures it."""
        cosine, limit = cast(AcceptedRow, candidate.row)["cosine"], self._dedup.cosine
        assert limit is not None
        message = f"{candidate.id} says cosine {cosine}, found {highest}"
        if highest is None:
            if cosine is not None:
                message = (
                    f"{candidate.id} says cosine {cosine}, which the exact index does not measure"
                )
                self.check.find(candidate.key, message)
        elif self._knows_all:
            if cosine != highest:
                self.check.find(candidate.key, message)
        elif cosine is None:
            if not self._regated:  # earlier versions could not know all
                self.check.find(candidate.key, message)
        elif not highest <= cosine <= limit:  # a seed task may be nearer
            self.check.find(candidate.key, message)

    def _look_at_rejected(self, stored: StoredRound) -> None:
        """What the gate refused is close, as it says, to what was in the pool by then."""
        dedup = self._dedup
        added: set[str] = set()  # by this round, so far
        for candidate in stored.gated("cosine", "target_reached"):
            if candidate.reason != "cosine":
                added.add(candidate.text)
                continue
            self.check.count += 1
            row = _rejected(candidate)
            score, match = row["score"], row["match"]
            wrong = None
            if match is None or not (match in self._pool or match in added):
                wrong = "matches what was not in the pool by then"
            elif not _is_above(score, dedup.cosine):
                wrong = f"has cosine {score}, not above {dedup.cosine}"
            elif rouge_l(row["text"], match, dedup.tokenizer) > dedup.rouge:
                wrong = "should have been refused by ROUGE-L"
            if wrong:
                self.check.find(candidate.key, f"{candidate.id} {wrong}")


def _compare_refusals(
    check: Check,
    candidates: Sequence[StoredCandidate],
    duplicates: Sequence[Duplicate],
    reason: str,
    measure: str,
) -> None:
    """What a gate refuses now must be stored as refused for ``reason``, with match and score."""
    for duplicate in duplicates:
        candidate = candidates[duplicate.index]
        near = f'{measure} {duplicate.score:.4f} with "{duplicate.match}"'
        if candidate.reason != reason:
            check.find(candidate.key, f"{candidate.id} is too close: {near}")
            continue
        row = _rejected(candidate)
        if (row["match"], row["score"]) != (duplicate.match, duplicate.score):
            stored_near = f'{row["score"]} with "{row["match"]}"'
            check.find(candidate.key, f"{candidate.id} has {near}, not {stored_near}")


def _rejected(candidate: StoredCandidate) -> RejectedRow:
    assert candidate.reason is not None
    return cast(RejectedRow, candidate.row)


def _is_above(cosine: float | None, limit: float | None) -> bool:
    """Whether a stored cosine is one that the limit refuses."""
    return limit is not None and cosine is not None and limit < cosine <= _MOST
