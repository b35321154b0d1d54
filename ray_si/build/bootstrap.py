"""Phase 1: rounds of prompting, parsing, filtering and gating until enough is accepted."""

from __future__ import annotations

import json
import threading
from collections import Counter
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import pyarrow as pa

from ray_si.build.answering import Ask, Task
from ray_si.build.gate import can_screen
from ray_si.build.instances import InstancePhase
from ray_si.build.screening import Screening
from ray_si.build.stages import write_blocks
from ray_si.config import RunConfig
from ray_si.config.rounds import BUSY
from ray_si.dedup.layers import Screened, joined
from ray_si.engines.base import Completion
from ray_si.errors import BudgetError, NoProgressError
from ray_si.pipeline.conditions import rounds_of_openings
from ray_si.pipeline.decisions import (
    Usable,
    are_openings_used_up,
    completion_row,
    decide_round,
    is_plateau,
    passed,
    read_candidates,
    texts_of,
    unread_note,
    with_candidates,
)
from ray_si.pipeline.gate import OpenGate
from ray_si.pipeline.progress import Progress, Reporter
from ray_si.pipeline.prompting import DRAWN, Prompting, PromptRow, instruction_request, rendered
from ray_si.pipeline.token_budget import TokenBudget
from ray_si.records import SeedTask
from ray_si.run.checkpoint import CommittedRounds
from ray_si.run.layout import round_folder
from ray_si.run.run import Run
from ray_si.run.schemas import RAW_BLOCK, RawRow
from ray_si.run.tokens import tokens_of
from ray_si.scores.during import EnoughRows
from ray_si.self_instruct.prompts import RenderedPrompt
from ray_si.serving.applications import Generators
from ray_si.serving.background import Alarm, in_thread
from ray_si.storage.reading import read_ahead
from ray_si.storage.tables import ShardInfo

_CUT_OFF = 0.9
"""Share of completions beyond which reaching the token limit is worth a word."""


_ALL = 1e12
"""Rows that no budget has room for."""


class CompleteBlock(NamedTuple):
    """The rows of a block, what they hold, how it is stored, and what the gate says beforehand."""

    rows: list[RawRow]
    candidates: list[Usable]
    info: ShardInfo
    screened: Future[Screened] | None


CompleteRound = list[CompleteBlock]
"""In request order."""


@dataclass(frozen=True)
class CompleteRequests:
    """Drawn demonstrations to candidates: the work of a round's tasks, see `StagedWork`."""

    folder: str
    config: RunConfig
    row_id: str = "request_id"

    def render(self, drawn: pa.Table) -> pa.Table:
        """The prompts of a block."""
        return pa.Table.from_pylist(rendered(self.config, drawn.to_pylist()))

    async def answer(self, row: PromptRow, ask: Ask) -> Completion:
        """Ask one prompt."""
        prompt = RenderedPrompt(json.loads(row["prompt"]), tuple(row["stop"]))
        return await ask(instruction_request(self.config, prompt, row["seed"]))

    def failed(self, error: Completion) -> Completion:
        """The error itself."""
        return error

    def complete(self, block: pa.Table, answers: list[Completion]) -> pa.Table:
        """A raw block."""
        rows = [
            {**row, **completion_row(completion)}
            for row, completion in zip(block.to_pylist(), answers, strict=True)
        ]
        return pa.Table.from_pylist(rows, RAW_BLOCK)

    def summary(self, stored: pa.Table, info: ShardInfo) -> pa.Table:
        """All of it: the driver decides on it."""
        return stored

    def parse(self, summary: pa.Table) -> pa.Table:
        """The block with the candidates of its completions, in one more column."""
        return with_candidates(self.config, summary)


class BootstrapPhase:
    """Runs rounds from where the run stands until its target is reached, or a plateau.

    Commits happen in round order; what a round asks depends on committed ones only: see
    `Prompting`. Slots that would idle write ``instances`` meanwhile: all once the rounds in flight
    are likely to be the last; from the start where rounds leave some, or cannot use them at all.
    Their requests come after those of every round, and leave a budget what this phase needs yet.
    """

    def __init__(
        self,
        config: RunConfig,
        run: Run,
        rounds: CommittedRounds,
        seeds: list[SeedTask],
        gate: OpenGate,
        generators: Generators,
        reporter: Reporter,
        token_budget: TokenBudget,
        instances: InstancePhase,
        enough: EnoughRows,
        alarm: Alarm,
    ) -> None:
        self._config, self._run, self._rounds = config, run, rounds
        self._generators = generators
        self._gate, self._reporter, self._token_budget = gate, reporter, token_budget
        self._instances, self._alarm = instances, alarm
        self._fencing = run.lease.number
        self._seeds = len(seeds)
        self._leaves_slots = config.busy_share < BUSY
        self._told_unread = False
        self._enough = enough
        self._screening: Screening | None = None
        self._opened = len(gate)
        self._candidates: int = sum(manifest["candidates"] for manifest in rounds.manifests)
        self._prompting = Prompting(config, seeds)
        is_diverse = self._prompting.needs_embeddings
        for table in rounds.with_embeddings() if is_diverse else rounds.tables:
            self._prompting.extend(table)

    def run(self) -> None:
        """Commit rounds until the target is reached, or a plateau with ``on_stall`` "finish".

        Raises NoProgressError at a plateau otherwise, BudgetError where the budget has no room for
        another block, once all that was asked for is stored, and at once what the alarm rings for.
        """
        abandon = threading.Event()
        self._report()
        with ExitStack() as stack:
            if can_screen(self._config.dedup):
                at_once = 2 * self._config.embedder.replicas + 1
                self._screening = stack.enter_context(Screening(self._gate, at_once))
                self._reporter.stages.watch("gate", lambda: self._gate.screening_s)
                stack.callback(self._let_go_of_gate)
            stack.callback(abandon.set)
            self._commit_rounds(abandon)

    def _let_go_of_gate(self) -> None:
        """What it has searched stays known; its memory is not needed for the instances."""
        searched = self._gate.screening_s
        self._reporter.stages.watch("gate", lambda: searched)

    def _commit_rounds(self, abandon: threading.Event) -> None:
        """The rounds one after another, those ahead under way meanwhile."""
        width = self._config.bootstrap.lookahead + 1
        in_flight: dict[int, Future[CompleteRound]] = {}
        try:
            while self._prompting.accepted < self._config.target_instructions:
                if self._has_enough() or self._is_plateau():
                    break
                current = len(self._rounds.manifests)
                for round_ in range(current, current + width):
                    if round_ not in in_flight and self._is_wanted(round_, current):
                        seen = max(self._opened, self._seeds + self._prompting.seen(round_))
                        in_flight[round_] = in_thread(self._complete_round, round_, seen, abandon)
                if self._enough:  # it counts what they write
                    self._instances.begin()
                elif self._may_fill(current, len(in_flight)):
                    self._keep_for_rounds()
                    self._instances.begin()
                self._gate.settle()
                self._commit(current, self._alarm.result_of(in_flight.pop(current)))
        except BudgetError:
            self._token_budget.keep(_ALL)
            self._alarm.wait_for(*in_flight.values())  # what it has asked for will be paid for
            self._instances.wait()
            raise
        finally:
            self._token_budget.keep(0)

    def _is_wanted(self, round_: int, current: int) -> bool:
        """Whether there is such a round, and those before it are likely to fall short."""
        last = rounds_of_openings(self._config.bootstrap)
        if last is not None and round_ >= last:
            return False
        if round_ == current or not self._rounds.manifests:
            return True
        expected: int = self._rounds.manifests[-1]["accepted"] * (round_ - current)
        return self._prompting.accepted + expected < self._config.target_instructions

    def _may_fill(self, current: int, in_flight: int) -> bool:
        """Whether instances are written by now, as replicas have too little to do otherwise."""
        apps = self._generators.apps
        own = apps["input_first"] != apps[self._config.bootstrap_purpose]
        return own or self._leaves_slots or not self._is_wanted(current + in_flight, current)

    def _keep_for_rounds(self) -> None:
        """Have instances leave the budget what this phase is likely to need yet."""
        prompts, accepted = self._config.bootstrap.prompts_per_round, self._prompting.accepted
        asked = prompts * len(self._rounds.manifests)
        missing = self._config.target_instructions - accepted
        self._token_budget.keep(asked / accepted * missing if accepted else _ALL)

    # Asking ------------------------------------------------------------------------------------

    def _complete_round(self, round_: int, seen: int, abandon: threading.Event) -> CompleteRound:
        """Answer what a round still lacks; its blocks, screened against the pool ``seen``."""
        folder = round_folder(round_)
        requests = pa.Table.from_pylist(self._prompting.drawn(round_), DRAWN)
        keys = self._run.finished_blocks(folder)
        sound = zip(keys, read_ahead(self._run.sound_block, keys.values()), strict=True)
        stored = {
            number: self._complete_block(
                with_candidates(self._config, block[0]), block[1], seen, round_
            )
            for number, block in sound
            if block
        }
        size = self._config.bootstrap.block_size
        missing = {
            start // size: requests.slice(start, size)
            for start in range(0, requests.num_rows, size)
            if start // size not in stored
        }
        work = CompleteRequests(folder, self._config)
        task = Task(
            work,
            self._generators,
            self._run.location,
            (round_,),
            fencing=self._fencing,
            again=frozenset(keys.keys() - stored.keys()),
            until=self._token_budget.until,
        )
        with self._token_budget.claim("bootstrap", order=round_, stop=abandon) as claim:
            while missing and not abandon.is_set():
                granted = claim.grant([block.num_rows for block in missing.values()])
                if not granted:
                    raise self._token_budget.error(self._standing())
                blocks = dict(islice(missing.items(), granted))
                written = write_blocks(blocks, task, parallel_phases=True, stop=abandon)
                for number, table, info in written:
                    del missing[number]
                    claim.settle(table.num_rows, tokens_of(table))
                    stored[number] = self._complete_block(table, info, seen, round_)
        return [stored[number] for number in sorted(stored)]

    def _complete_block(
        self, block: pa.Table, info: ShardInfo, seen: int, round_: int
    ) -> CompleteBlock:
        """Of a block `with_candidates`, which go to be screened."""
        rows, candidates = read_candidates(block)
        screened = None
        if self._screening:
            screened = self._screening.submit(texts_of(passed(candidates)), seen, round_)
        return CompleteBlock(rows, candidates, info, screened)

    # Deciding ----------------------------------------------------------------------------------

    def _commit(self, round_: int, complete: CompleteRound) -> None:
        known = [self._alarm.result_of(block.screened) for block in complete if block.screened]
        with self._reporter.stages.deciding():
            self._decide(round_, complete, joined(known) if known else None)

    def _decide(self, round_: int, complete: CompleteRound, screened: Screened | None) -> None:
        rows = [row for block in complete for row in block.rows]
        candidates = [candidate for block in complete for candidate in block.candidates]
        infos = [block.info for block in complete]
        assert len(rows) == self._config.bootstrap.prompts_per_round, "a round lost rows"
        room = self._config.target_instructions - self._prompting.accepted
        given = None
        if screened is None:
            given = self._gate.embed(texts_of(passed(candidates)))
        embeddings = given if screened is None else screened.embeddings
        decided = decide_round(
            self._config,
            round_,
            rows,
            room,
            lambda usable: self._gate.filter(texts_of(usable), given, screened),
            candidates,
            embeddings,
        )
        accepted, rejected, manifest, _ = decided
        manifest["pool"] = self._seeds + self._prompting.accepted + accepted.num_rows
        if self._enough:
            manifest["passed"] = self._enough.passed
        inputs = self._gate.inputs if round_ == 0 else None
        manifest = self._run.commit_round(round_, infos, *decided, inputs=inputs)
        self._prompting.extend(accepted)
        self._rounds.append(manifest, accepted)
        self._rounds.write()
        count = manifest["candidates"]
        self._candidates += count
        share = 100 * accepted.num_rows / max(1, count)
        self._report(
            f"round {round_}: {count} candidates, {accepted.num_rows} accepted "
            f"({share:.0f} %){_cut_off(rows)}{self._unread(accepted, rejected)}"
        )

    def _unread(self, accepted: pa.Table, rejected: pa.Table) -> str:
        """What to say, once, of candidates that the gate cannot read."""
        if self._told_unread:
            return ""
        texts = accepted["instruction"].to_pylist() + rejected["text"].to_pylist()
        note = unread_note(self._config, texts, "candidates")
        self._told_unread = bool(note)
        return note and f"; {note}"

    # Keeping count -----------------------------------------------------------------------------

    def _is_plateau(self) -> bool:
        """Whether the run ends phase 1 here; NoProgressError where it may not."""
        options = self._config.bootstrap
        if not is_plateau(self._rounds.manifests, options):
            return False
        if are_openings_used_up(self._rounds.manifests, options):
            return self._goes_on(
                f"every opening was used {options.prompts_per_opening} times. {self._standing()}"
            )
        last = self._rounds.manifests[-options.stall_rounds :]
        reasons: Counter[str] = Counter()
        for manifest in last:
            reasons.update(manifest["rejected"])
        common = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(3))
        return self._goes_on(
            f"the last {len(last)} rounds accepted almost nothing "
            f"(rejected: {common or 'nothing'}). {self._standing()}"
        )

    def _has_enough(self) -> bool:
        """Whether as many rows hold ``select.during`` as are wanted, which is reported."""
        if not self._enough.are_there(self._instances.blocks):
            return False
        self._report(str(self._enough))
        return True

    def _goes_on(self, plateau: str) -> bool:
        """True where the instances come next, which is reported; NoProgressError where not."""
        if not self._prompting.accepted:
            raise NoProgressError(f"stopped: {plateau}")
        if self._config.bootstrap.on_stall == "stop":
            raise NoProgressError(
                f"stopped: {plateau}; add --finish, or set bootstrap.on_stall=finish from the "
                "start, to go on with these"
            )
        self._report(f"plateau: {plateau}; going on with these")
        return True

    def _standing(self) -> str:
        target = self._config.target_instructions
        return f"{self._prompting.accepted} of {target} instructions are accepted and kept"

    def _report(self, note: str = "") -> None:
        self._reporter.report(
            Progress(
                "bootstrap",
                done=self._prompting.accepted,
                total=self._config.target_instructions,
                candidates=self._candidates,
                note=note,
            )
        )


def _cut_off(rows: list[RawRow]) -> str:
    """What to say of a round in which hardly any completion came to its end."""
    cut = sum(row["finish_reason"] == "length" for row in rows)
    if cut <= _CUT_OFF * len(rows):
        return ""
    return (
        f"; {cut} of {len(rows)} completions ran into max_tokens without a stop string: raise it, "
        "or try other prompts (ray-si preview shows them)"
    )
