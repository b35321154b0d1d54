"""Checks of a round's requests, candidates and demonstrations: all follow from what was asked."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ray_si.audit.stored_round import BY_THE_GATE, StoredCandidate, StoredRound
from ray_si.config import RunConfig
from ray_si.pipeline.decisions import candidates_of, instance_text
from ray_si.pipeline.prompting import Prompting
from ray_si.records import SeedTask
from ray_si.run.audit import Audit, Check
from ray_si.run.ids import instruction_id, request_id, request_seed
from ray_si.run.layout import block_key, round_folder
from ray_si.run.manifests import by_set, count_contaminated, from_by_set, named_blocks
from ray_si.run.schemas import RAW_BLOCK, RawRow, embeddings_of
from ray_si.self_instruct.parsing import Candidate


def check_requests(
    check: Check, config: RunConfig, audit: Audit, round_: int
) -> list[RawRow] | None:
    """Every request of a round is there, with its id and seed; its raw rows, None if some are lost.

    Tokens are those that the manifest says.
    """
    manifest, key = audit.rounds[round_], f"{round_folder(round_)}/manifest.json"
    rows = _raw_rows(check, config, audit, round_)
    if rows is not None:
        prompt = sum(row["prompt_tokens"] for row in rows)
        completion = sum(row["completion_tokens"] for row in rows)
        check.expect(key, "prompt_tokens", prompt, manifest["prompt_tokens"])
        check.expect(key, "completion_tokens", completion, manifest["completion_tokens"])
    check.expect(key, "requests", config.bootstrap.prompts_per_round, manifest["requests"])
    return rows


def _raw_rows(check: Check, config: RunConfig, audit: Audit, round_: int) -> list[RawRow] | None:
    size, total = config.bootstrap.block_size, config.bootstrap.prompts_per_round
    rows: list[RawRow] = []
    complete = True
    named = named_blocks(audit.rounds[round_]["objects"])
    for block, start in enumerate(range(0, total, size)):
        key = named.get(block, block_key(round_folder(round_), block))
        table = audit.table(key, RAW_BLOCK, check)
        if table is None:
            complete = False
            continue
        if table.num_rows != min(size, total - start):
            check.find(key, f"has {table.num_rows} rows, not {min(size, total - start)}")
            complete = False
        for index, row in enumerate(table.to_pylist(), start):
            check.count += 1
            rows.append(row)
            seed = request_seed(config.seed, round_, index)
            expected = (block, request_id(round_, index), seed)
            if (row["block"], row["request_id"], row["seed"]) != expected:
                check.find(key, f"row {index - start} is not request {index} of its round")
                complete = False
    return rows if complete else None


def check_counts(check: Check, stored: StoredRound) -> None:
    """The manifest counts what the accepted and the rejected rows are."""
    key, manifest = f"{stored.folder}/manifest.json", stored.manifest
    reasons = dict(Counter(row["reason"] for row in stored.rejected))
    count = len(stored.accepted) + len(stored.rejected)
    check.expect(key, "accepted", len(stored.accepted), manifest["accepted"])
    check.expect(key, "rejected", reasons, manifest["rejected"])
    contaminated = by_set(count_contaminated(stored.rejected, "instructions"))
    told = by_set(from_by_set(manifest["contaminated"], "instructions"))
    check.expect(key, "contaminated", contaminated, told)
    check.expect(key, "candidates", count, manifest["candidates"])


def check_candidates(
    check: Check, config: RunConfig, stored: StoredRound, raw: Sequence[RawRow]
) -> None:
    """Every candidate once among the accepted and the rejected, as its completion has it."""
    undecided: dict[tuple[str, int], StoredCandidate] = {}
    for candidate in stored.candidates():
        if candidate.place in undecided:
            check.find(candidate.key, f"{candidate.id} is there twice")
        undecided[candidate.place] = candidate
    for key, rows in (
        (stored.accepted_key, stored.accepted),
        (stored.rejected_key, stored.rejected),
    ):
        places = [(row["request_id"], row["position"]) for row in rows]
        if places != sorted(places):
            check.find(key, "its rows are out of order")
    for row in raw:
        for item in candidates_of(row, config):
            check.count += 1
            id_ = instruction_id(row["request_id"], item.position)
            decided = undecided.pop((row["request_id"], item.position), None)
            if decided is None:
                check.find(stored.folder, f"candidate {id_} was lost")
            elif wrong := _wrong_decision(row, item, decided):
                check.find(decided.key, f"{id_} {wrong}")
    for candidate in undecided.values():
        check.find(candidate.key, f"{candidate.id} is no candidate of any completion")


def _wrong_decision(raw: RawRow, item: Candidate, decided: StoredCandidate) -> str | None:
    """What of a decided row does not follow from its completion."""
    reason, stored_reason = item.reason, decided.reason
    if decided.text != item.text:
        return "has another text than its completion"
    if reason is not None and stored_reason != reason:
        standing = f"rejected as {stored_reason}" if stored_reason else "accepted"
        return f"was {standing}, but is {reason}"
    if stored_reason is not None:
        is_sound = reason is not None or stored_reason in BY_THE_GATE
        return None if is_sound else f"was rejected as {stored_reason}, which it is not"
    expected: dict[str, Any] = {
        "instance": instance_text(item),
        "request_seed": raw["seed"],
        "classification_prompt": raw["classification_prompt"],
        "demonstrations": raw["demonstrations"],
        "mean_logprob": raw["mean_logprob"],
    }
    row: dict[str, Any] = {**decided.row}
    for name, value in expected.items():
        if row[name] != value and not _are_nan(row[name], value):
            return f"has another {name} than its request"
    return None


def _are_nan(*values: Any) -> bool:
    return all(isinstance(value, float) and math.isnan(value) for value in values)


def check_ids(check: Check, stored: StoredRound) -> None:
    """Accepted rows have the id and the round of their request."""
    for row in stored.accepted:
        id_ = instruction_id(row["request_id"], row["position"])
        if row["id"] != id_ or row["round"] != stored.number:
            message = f"{row['id']} has another id or round than its request"
            check.find(stored.accepted_key, message)


class DemonstrationCheck:
    """Prompts showed what their seeds draw from the pool of their time.

    Where that pool is unknown (the run was regated, or embeddings that it was clustered by are
    lost), demonstrations must at least have been part of it.
    """

    def __init__(self, config: RunConfig, seeds: Sequence[SeedTask], *, regated: bool) -> None:
        self.check = Check("demonstrations")
        self._config, self._regated = config, regated
        self._seeds = {seed.id for seed in seeds}
        self._round_of: dict[str, int] = {}  # what may stand in later prompts, by id
        self._prompting: Prompting | None = None
        if regated:
            self.check.notes.append(
                "regated: the pool that demonstrations were drawn from is that of another run, so "
                "they are looked up only"
            )
        else:
            self._prompting = Prompting(config, seeds)

    def look_at(self, stored: StoredRound, raw: Sequence[RawRow]) -> None:
        """Check a round's prompts, before it is added to the pool."""
        latest = stored.number - 1 - self._config.bootstrap.lookahead
        drawn = [] if self._prompting is None else self._prompting.requests(stored.number)
        expected = {
            request.request_id: (
                request.classification_only,
                [source.id for source in request.demonstrations],
            )
            for request in drawn
        }
        for row in raw:
            late = False
            for source in row["demonstrations"]:
                self.check.count += 1
                if source in self._seeds or self._round_of.get(source, latest + 1) <= latest:
                    continue
                late = True
                what = f"was prompted with {source}, which was not in the pool by then"
                self.check.find(stored.folder, f"{row['request_id']} {what}")
            prompted = (row["classification_prompt"], row["demonstrations"])
            if not late and expected and prompted != expected[row["request_id"]]:
                what = "was not prompted with what its seed draws from the pool of its time"
                self.check.find(stored.folder, f"{row['request_id']} {what}")

    def extend(self, stored: StoredRound) -> None:
        """Later rounds draw from what this one accepted, unless that cannot be read."""
        self._round_of |= {row["id"]: stored.number for row in stored.accepted}
        if self._regated:  # its prompts came from a pool of other thresholds, and other filters
            refused = (item for item in stored.candidates() if item.reason)
            self._round_of |= {item.id: stored.number for item in refused}
        if self._prompting is None:
            return
        diverse = self._config.bootstrap.demonstration_sampling == "diverse"
        if diverse and stored.accepted and embeddings_of(stored.table) is None:
            self._prompting = None
            self.check.notes.append(f"looked up only after round {stored.number}: no embeddings")
        else:
            self._prompting.extend(stored.table)
