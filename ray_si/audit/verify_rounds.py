"""Verification of the bootstrap, round by round: what is checked, and in which order."""

from __future__ import annotations

from collections.abc import Callable

from ray_si._version import READING
from ray_si.audit.candidate_checks import (
    DemonstrationCheck,
    check_candidates,
    check_counts,
    check_ids,
    check_requests,
)
from ray_si.audit.gate_checks import CosineCheck, EvaluationSetCheck, RougeCheck
from ray_si.audit.stored_round import StoredRound
from ray_si.config import RunConfig
from ray_si.pipeline.embeddings import InputEmbeddings
from ray_si.pipeline.instances import AcceptedInstruction, pool_of
from ray_si.records import SeedTask
from ray_si.run.audit import Audit, Check
from ray_si.run.evaluation import EvaluationSet


class RoundAudit:
    """Goes through the committed rounds in order.

    ``pool`` has everything accepted so far. From a round on whose decisions
    cannot be read, what depends on the pool is left out: ``stopped`` is its number then.
    """

    def __init__(
        self,
        config: RunConfig,
        audit: Audit,
        seeds: list[SeedTask],
        sets: list[EvaluationSet],
        inputs: InputEmbeddings | None,
        regated: bool,
        listen: Callable[[str, int, int], None] = lambda *step: None,
    ) -> None:
        self._config, self._audit, self._listen = config, audit, listen
        self.pool: list[AcceptedInstruction] = []
        self.stopped: int | None = None
        self._read_otherwise = 0  # rounds whose answers earlier rules read
        self._requests = Check("requests")
        self._candidates = Check("candidates")
        self._demonstrations = DemonstrationCheck(config, seeds, regated=regated)
        self._sets = EvaluationSetCheck(config, sets, inputs)
        self._rouge = RougeCheck(config, seeds)
        self._cosine = CosineCheck(config, seeds, inputs, regated=regated)

    def run(self) -> list[Check]:
        """Check every committed round."""
        for round_ in range(len(self._audit.rounds)):
            self._look_at(round_)
            self._listen("rounds", round_ + 1, len(self._audit.rounds))
        if self._read_otherwise:
            self._candidates.notes.append(
                f"answers of {self._read_otherwise} rounds were read by earlier rules (now "
                f"{READING}): they are not read again"
            )
        checks = [
            self._candidates,
            self._demonstrations.check,
            self._sets.check,
            self._rouge.check,
            self._cosine.check,
        ]
        if self.stopped is not None:
            for check in checks:
                check.notes.append(f"not checked from round {self.stopped} on, which is damaged")
        return [self._requests, *checks]

    def _look_at(self, round_: int) -> None:
        raw = check_requests(self._requests, self._config, self._audit, round_)
        if self.stopped is not None:
            return
        stored = StoredRound.read(self._audit, round_, self._candidates)
        if stored is None:
            self.stopped = round_
            return
        check_counts(self._candidates, stored)
        if raw is not None:
            if stored.manifest["versions"].get("reading", 1) == READING:
                check_candidates(self._candidates, self._config, stored, raw)
            else:
                self._read_otherwise += 1
            self._demonstrations.look_at(stored, raw)
        self._sets.look_at(stored)
        self._rouge.look_at(stored)
        self._cosine.look_at(stored)
        check_ids(self._candidates, stored)
        self.pool += pool_of(stored.table)
        self._check_target(stored)
        self._demonstrations.extend(stored)

    def _check_target(self, stored: StoredRound) -> None:
        """The run stops at its target, and refuses candidates for it only there."""
        count, target = len(self.pool), self._config.target_instructions
        is_full = any(row["reason"] == "target_reached" for row in stored.rejected)
        if count > target or (is_full and count < target):
            message = f"leaves {count} accepted; the target is {target}"
            self._candidates.find(stored.accepted_key, message)
