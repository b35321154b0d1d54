"""Verification of the bootstrap rounds: requests, candidates, demonstrations, and the gate."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from ray_si.config import RunConfig
from ray_si.dedup import CONTAMINATED, Deduplicator
from ray_si.dedup.rouge import rouge_l
from ray_si.pipeline.contamination import excluded_texts
from ray_si.pipeline.decisions import (
    ACCEPTED,
    COMPLETION_NULLABLE,
    RAW,
    REJECTED,
    AcceptedInstruction,
    candidates_of,
    contaminated_by,
    embeddings_of,
    instruction_id,
)
from ray_si.pipeline.prompting import Prompting
from ray_si.records import SeedTask
from ray_si.run.audit import Audit, Check
from ray_si.run.evaluation import EvaluationSet
from ray_si.run.run import block_key, part_key, round_folder
from ray_si.self_instruct.parsing import Candidate
from ray_si.self_instruct.sampling import derive_seed

Rows = list[dict[str, Any]]

_BY_THE_GATE = (CONTAMINATED, "rouge", "cosine", "target_reached")
_OF_REJECTED = {"match", "score", "source"}
_OF_ACCEPTED = {"mean_logprob", "revision", "most_similar", "mean_rouge", "cosine", "embedding"}
_OF_ACCEPTED |= {"instance"}


class RoundAudit:
    """Goes through the committed rounds in order, with a gate of its own beside them.

    ``pool`` has everything accepted so far. From a round on whose decisions
    cannot be read, what depends on the pool is left out: ``stopped`` is its number then.
    """

    def __init__(
        self,
        config: RunConfig,
        audit: Audit,
        seeds: list[SeedTask],
        sets: list[EvaluationSet],
        regated: bool,
    ) -> None:
        self._config, self._audit, self._regated = config, audit, regated
        self.pool: list[AcceptedInstruction] = []
        self.stopped: int | None = None
        self._requests = Check("requests")
        self._candidates = Check("candidates")
        self._demonstrations = Check("demonstrations")
        self._sets = Check("evaluation sets")
        self._rouge = Check("rouge gate")
        self._cosine = Check("cosine gate")
        texts = [seed.instruction for seed in seeds]
        self._seeds = {seed.id for seed in seeds}
        self._prompting: Prompting | None = None
        if regated:
            self._demonstrations.notes.append(
                "regated: the pool that demonstrations were drawn from is that of another run, so "
                "they are looked up only"
            )
        else:
            self._prompting = Prompting(config, seeds)
        self._round_of: dict[str, int] = {}  # what may stand in later prompts, by id
        self._texts = set(texts)  # of the pool
        dedup = config.dedup
        self._excluded = excluded_texts(config, sets)
        self._evaluation_texts = {(one.name, text) for one in sets for text in one.texts}
        if not sets:
            self._sets.notes.append("the run has none")
        elif dedup.cosine is not None:
            self._sets.notes.append(
                "their embeddings are not stored: cosines with them are not computed again"
            )
        self._gate = Deduplicator(
            dedup.rouge, None, tokenizer=dedup.tokenizer, most_similar=dedup.most_similar
        )
        self._gate.add(texts)
        self._cosine_gate: Deduplicator | None = None
        if dedup.cosine is None:
            self._cosine.notes.append("the run has no cosine gate")
        else:
            self._cosine.notes.append(
                "embeddings of seed tasks and of rejected candidates are not stored: cosines with "
                "these are not computed again"
            )
            if dedup.embedding_index == "Flat":
                self._cosine_gate = Deduplicator(1.0, dedup.cosine, tokenizer=dedup.tokenizer)
            else:
                self._cosine.notes.append(
                    f"the index {dedup.embedding_index} is approximate: no cosine is computed again"
                )

    def run(self) -> list[Check]:
        """Check every committed round."""
        for round_ in range(len(self._audit.rounds)):
            self._check(round_)
        checks = [
            self._candidates,
            self._demonstrations,
            self._sets,
            self._rouge,
            self._cosine,
        ]
        if self.stopped is not None:
            for check in checks:
                check.notes.append(f"not checked from round {self.stopped} on, which is damaged")
        return [self._requests, *checks]

    def _check(self, round_: int) -> None:
        folder = round_folder(round_)
        manifest = f"{folder}/manifest.json"
        said = self._audit.rounds[round_]
        raw = self._raw_rows(round_)
        if raw is not None:
            for name in ("prompt_tokens", "completion_tokens"):
                self._requests.expect(manifest, name, sum(row[name] for row in raw), said[name])
        self._requests.expect(
            manifest, "requests", self._config.bootstrap.prompts_per_round, said["requests"]
        )
        if self.stopped is not None:
            return
        self._parts = {name: part_key(said, name) for name in ("accepted", "rejected")}
        accepted, rejected = self._parts["accepted"], self._parts["rejected"]
        tables = (
            self._audit.table(accepted, ACCEPTED, self._candidates, _OF_ACCEPTED),
            self._audit.table(rejected, REJECTED, self._candidates, _OF_REJECTED),
        )
        if tables[0] is None or tables[1] is None:
            self.stopped = round_
            return
        kept = tables[0].drop_columns(["embedding"]).to_pylist()
        left = tables[1].to_pylist()
        reasons = Counter(row["reason"] for row in left)
        self._candidates.expect(manifest, "accepted", len(kept), said["accepted"])
        self._candidates.expect(manifest, "rejected", dict(reasons), said["rejected"])
        self._candidates.expect(
            manifest, "contaminated", contaminated_by(left), said["contaminated"]
        )
        self._candidates.expect(manifest, "candidates", len(kept) + len(left), said["candidates"])
        if raw is not None:
            self._check_candidates(folder, raw, kept, left)
            self._check_demonstrations(round_, raw)
        self._check_sets(kept, left)
        self._check_rouge(folder, kept, left)
        self._check_cosine(folder, kept, left, embeddings_of(tables[0]))
        self._extend_pool(round_, kept, left)
        self._extend_prompting(round_, tables[0])

    # Requests and candidates -------------------------------------------------------------------

    def _raw_rows(self, round_: int) -> Rows | None:
        """A round's raw rows by request; None where some are lost."""
        options, check = self._config.bootstrap, self._requests
        size, total = options.block_size, options.prompts_per_round
        rows: Rows = []
        complete = True
        for block, start in enumerate(range(0, total, size)):
            key = block_key(round_folder(round_), block)
            table = self._audit.table(key, RAW, check, COMPLETION_NULLABLE)
            if table is None:
                complete = False
                continue
            if table.num_rows != min(size, total - start):
                check.find(key, f"has {table.num_rows} rows, not {min(size, total - start)}")
                complete = False
            for index, row in enumerate(table.to_pylist(), start):
                check.count += 1
                rows.append(row)
                seed = derive_seed(self._config.seed, "instructions", round_, index)
                found = (row["block"], row["request_id"], row["seed"])
                if found != (block, f"r{round_:05d}-{index:05d}", seed):
                    check.find(key, f"row {index - start} is not request {index} of its round")
                    complete = False
        return rows if complete else None

    def _check_candidates(self, folder: str, raw: Rows, kept: Rows, left: Rows) -> None:
        """Every candidate once among the accepted and the rejected, as its completion has it."""
        check = self._candidates
        decided: dict[tuple[str, int], tuple[str, dict[str, Any]]] = {}
        for key, rows, text in (
            (self._parts["accepted"], kept, "instruction"),
            (self._parts["rejected"], left, "text"),
        ):
            places = [_place(row) for row in rows]
            if places != sorted(places):
                check.find(key, "its rows are out of order")
            for place, row in zip(places, rows, strict=True):
                if place in decided:
                    check.find(key, f"{instruction_id(*place)} is there twice")
                decided[place] = (key, row | {"text": row[text]})
        for row in raw:
            for item in candidates_of(row, self._config):
                check.count += 1
                place = (row["request_id"], item.position)
                if place not in decided:
                    check.find(folder, f"candidate {instruction_id(*place)} was lost")
                    continue
                key, found = decided.pop(place)
                wrong = _wrong_decision(row, item, found)
                if wrong:
                    check.find(key, f"{instruction_id(*place)} {wrong}")
        for place, (key, _) in decided.items():
            check.find(key, f"{instruction_id(*place)} is no candidate of any completion")

    def _check_demonstrations(self, round_: int, raw: Rows) -> None:
        """Drawn anew from the pool of their time; where that is unknown, at least part of it."""
        folder, latest = round_folder(round_), round_ - 1 - self._config.bootstrap.lookahead
        drawn = [] if self._prompting is None else self._prompting.requests(round_)
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
                self._demonstrations.count += 1
                if source in self._seeds or self._round_of.get(source, latest + 1) <= latest:
                    continue
                late = True
                what = f"was prompted with {source}, which was not in the pool by then"
                self._demonstrations.find(folder, f"{row['request_id']} {what}")
            found = (row["classification_prompt"], row["demonstrations"])
            if not late and expected and found != expected[row["request_id"]]:
                what = "was not prompted with what its seed draws from the pool of its time"
                self._demonstrations.find(folder, f"{row['request_id']} {what}")

    def _extend_prompting(self, round_: int, accepted: pa.Table) -> None:
        """Later rounds draw from what this one accepted, unless that cannot be read."""
        if self._prompting is None:
            return
        diverse = self._config.bootstrap.demonstration_sampling == "diverse"
        if diverse and accepted.num_rows and embeddings_of(accepted) is None:
            self._prompting = None
            self._demonstrations.notes.append(f"looked up only after round {round_}: no embeddings")
        else:
            self._prompting.extend(accepted)

    # Evaluation sets ---------------------------------------------------------------------------

    def _check_sets(self, kept: Rows, left: Rows) -> None:
        """Hold everything that came to the gate against the sets again."""
        check = self._sets
        ask = [row | {"text": row["instruction"], "reason": None} for row in kept]
        ask += [row for row in left if row["reason"] in _BY_THE_GATE]
        ask.sort(key=_place)
        if self._evaluation_texts:
            check.count += len(ask)
        close = {match.index: match for match in self._excluded.find([row["text"] for row in ask])}
        for i, row in enumerate(ask):
            where = self._parts["rejected" if row["reason"] else "accepted"]
            match = close.get(i)
            if row["reason"] != CONTAMINATED:
                if match:
                    near = f'ROUGE-L {match.score:.4f} with "{match.match}"'
                    check.find(where, f"{_name(row)} is too close to {match.source}: {near}")
            elif match:
                said = (row["match"], row["score"], row["source"])
                if said != (match.match, match.score, match.source):
                    check.find(where, f"{_name(row)} matches {match.source} otherwise than it says")
            else:
                self._check_contaminated_by_cosine(where, row)

    def _check_contaminated_by_cosine(self, where: str, row: dict[str, Any]) -> None:
        limit, score = self._config.dedup.cosine, row["score"]
        if (row["source"], row["match"]) not in self._evaluation_texts:
            self._sets.find(where, f"{_name(row)} matches what is in no evaluation set")
        elif limit is None or score is None or not limit < score <= 1 + 1e-5:
            self._sets.find(where, f"{_name(row)} is close to nothing in {row['source']}")

    # The gate ----------------------------------------------------------------------------------

    def _check_rouge(self, folder: str, kept: Rows, left: Rows) -> None:
        """Decide anew, in order, on all that the cosine gate did not refuse."""
        check = self._rouge
        ask = [row | {"text": row["instruction"], "reason": None} for row in kept]
        ask += [row for row in left if row["reason"] in ("rouge", "target_reached")]
        ask.sort(key=_place)
        check.count += len(ask)
        result = self._gate.filter([row["text"] for row in ask])
        for duplicate in result.rejected:
            row = ask[duplicate.index]
            near = f'ROUGE-L {duplicate.score:.4f} with "{duplicate.match}"'
            if row["reason"] == "rouge":
                if (row["match"], row["score"]) != (duplicate.match, duplicate.score):
                    said = f'{row["score"]} with "{row["match"]}"'
                    check.find(self._parts["rejected"], f"{_name(row)} has {near}, not {said}")
            else:
                name = "rejected" if row["reason"] else "accepted"
                check.find(self._parts[name], f"{_name(row)} is too close: {near}")
        for k, i in enumerate(result.accepted):
            row = ask[i]
            if row["reason"] == "rouge":
                check.find(self._parts["rejected"], f"{_name(row)} is close to nothing")
            elif row["reason"] is None and result.neighbours:
                similar = result.neighbours[k]
                named = [(item["instruction"], item["rouge"]) for item in row["most_similar"] or ()]
                found = list(zip(similar.texts, similar.scores, strict=True))
                if (named, row["mean_rouge"]) != (found, similar.mean):
                    check.find(self._parts["accepted"], f"{_name(row)} has other neighbours")

    def _check_cosine(
        self, folder: str, kept: Rows, left: Rows, embeddings: np.ndarray | None
    ) -> None:
        limit, rouge = self._config.dedup.cosine, self._config.dedup.rouge
        check = self._cosine
        if limit is None:
            for row in left:
                if row["reason"] == "cosine":
                    check.find(self._parts["rejected"], f"{_name(row)} needs a cosine gate")
            return
        key = self._parts["accepted"]
        check.count += len(kept)
        if embeddings is None and kept:
            check.find(key, "has no sound embeddings")
            self._cosine_gate = None
        elif self._cosine_gate is not None and embeddings is not None:
            self._check_embeddings(key, kept, embeddings)
        pool = set(self._texts)
        order = [*kept, *(row for row in left if row["reason"] in ("cosine", "target_reached"))]
        for row in sorted(order, key=_place):
            if row.get("reason") != "cosine":
                pool.add(row["instruction"] if "instruction" in row else row["text"])
                continue
            check.count += 1
            where = self._parts["rejected"]
            score = row["score"]
            if row["match"] not in pool:
                check.find(where, f"{_name(row)} matches what was not in the pool by then")
            elif score is None or not limit < score <= 1 + 1e-5:
                check.find(where, f"{_name(row)} has cosine {score}, not above {limit}")
            elif rouge_l(row["text"], row["match"], self._config.dedup.tokenizer) > rouge:
                check.find(where, f"{_name(row)} should have been refused by ROUGE-L")

    def _check_embeddings(self, key: str, kept: Rows, embeddings: np.ndarray) -> None:
        assert self._cosine_gate is not None
        limit = self._config.dedup.cosine
        assert limit is not None
        try:
            result = self._cosine_gate.filter([row["instruction"] for row in kept], embeddings)
        except ValueError as error:  # of another width than those before
            self._cosine.find(key, str(error))
            self._cosine_gate = None
            return
        for duplicate in result.rejected:
            near = f'cosine {duplicate.score:.4f} with "{duplicate.match}"'
            self._cosine.find(key, f"{_name(kept[duplicate.index])} is too close: {near}")
        cosines = () if result.cosines is None else result.cosines.tolist()
        for i, least in zip(result.accepted, cosines, strict=False):
            said = kept[i]["cosine"]
            if said is None and self._regated:
                continue
            if said is None or not least <= said <= limit:  # a seed task may be nearer
                self._cosine.find(key, f"{_name(kept[i])} says cosine {said}, found {least}")

    def _extend_pool(self, round_: int, kept: Rows, left: Rows) -> None:
        key = self._parts["accepted"]
        for row in kept:
            if row["id"] != _name(row) or row["round"] != round_:
                self._candidates.find(key, f"{row['id']} has another id or round than its request")
            self.pool.append(AcceptedInstruction.of(row))
            self._texts.add(row["instruction"])
            self._round_of[row["id"]] = round_
        if self._regated:  # its prompts came from the pool of another run
            refused = (row for row in left if row["reason"] in _BY_THE_GATE)
            self._round_of |= {_name(row): round_ for row in refused}
        target = self._config.target_instructions
        full = any(row["reason"] == "target_reached" for row in left)
        if len(self.pool) > target or (full and len(self.pool) < target):
            self._candidates.find(key, f"leaves {len(self.pool)} accepted; the target is {target}")


def _place(row: dict[str, Any]) -> tuple[str, int]:
    return row["request_id"], row["position"]


def _name(row: dict[str, Any]) -> str:
    return instruction_id(*_place(row))


def _wrong_decision(raw: dict[str, Any], item: Candidate, found: dict[str, Any]) -> str | None:
    """What of a decided row does not follow from its completion."""
    reason = item.reason
    if found["text"] != item.text:
        return "has another text than its completion"
    said = found.get("reason")
    if reason is not None and said != reason:
        return f"was {'rejected as ' + said if said else 'accepted'}, but is {reason}"
    if reason is None and said is not None and said not in _BY_THE_GATE:
        return f"was rejected as {said}, which it is not"
    if said is None:
        for name, value in (
            ("instance", item.instance and asdict(item.instance)),
            ("request_seed", raw["seed"]),
            ("classification_prompt", raw["classification_prompt"]),
            ("demonstrations", raw["demonstrations"]),
            ("mean_logprob", raw["mean_logprob"]),
        ):
            if found[name] != value and not _both_nan(found[name], value):
                return f"has another {name} than its request"
    return None


def _both_nan(a: Any, b: Any) -> bool:
    return isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b)
