"""Phase 1: rounds of prompting, parsing, filtering and gating until enough is accepted."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ray_si.config import RunConfig, Sampling
from ray_si.dedup import Deduplicator
from ray_si.distributed.allowance import Allowance
from ray_si.distributed.decisions import COMPLETION_COLUMNS, decide_round, texts_of
from ray_si.distributed.progress import Progress, Reporter
from ray_si.distributed.stages import Ask, Generators, Task, write_blocks
from ray_si.engines.base import Completion, Request
from ray_si.errors import BudgetError, NoProgressError
from ray_si.records import SeedTask
from ray_si.self_instruct.prompts import instruction_prompt
from ray_si.self_instruct.sampling import derive_seed, sample_demonstrations
from ray_si.storage.run import Run, round_folder
from ray_si.storage.shards import ShardInfo
from ray_si.storage.spent import tokens_of

CompleteRound = tuple[list[dict[str, Any]], list[ShardInfo]]
"""The rows of a round in request order, and the blocks that they are stored in."""


def add_completions(table: pa.Table, completions: list[Completion]) -> pa.Table:
    """The table with the completions' columns appended; rows correspond."""
    for name, kind in COMPLETION_COLUMNS:
        values = [getattr(completion, name) for completion in completions]
        table = table.append_column(name, pa.array(values, kind))
    return table


@dataclass(frozen=True)
class CompleteRequests:
    """Instruction prompts to completions: the work of a round's tasks, see `Work`."""

    folder: str
    sampling: Sampling

    async def answer(self, row: dict[str, Any], ask: Ask) -> Completion:
        """Ask one prompt."""
        params = self.sampling.params(tuple(row["stop"]))
        return await ask(Request(json.loads(row["prompt"]), params, row["seed"]))

    def complete(self, block: pa.Table, answers: list[Completion]) -> pa.Table:
        """A raw block."""
        return add_completions(block.drop_columns(["prompt", "stop"]), answers)

    def summary(self, stored: pa.Table) -> pa.Table:
        """All of it: the driver decides on it."""
        return stored


class Bootstrap:
    """Runs rounds from where the run stands until its target is reached.

    Round r's machine-written demonstrations come from the pool at the end of round
    r - 1 - lookahead, so what it asks does not depend on timing. Commits happen in round order.
    """

    def __init__(
        self,
        config: RunConfig,
        run: Run,
        seeds: list[SeedTask],
        gate: Deduplicator,
        generators: Generators,
        reporter: Reporter,
        allowance: Allowance,
    ) -> None:
        self._config, self._run, self._generators = config, run, generators
        self._gate, self._reporter, self._allowance = gate, reporter, allowance
        self._human = _demonstration_texts(seeds, config)
        self._human_classification = _demonstration_texts(
            [seed for seed in seeds if seed.is_classification], config
        )
        self._seeds = len(seeds)
        self._machine: list[tuple[str, str]] = []
        self._pool_sizes: list[int] = []
        self._manifests = run.rounds()
        for table in run.accepted(["id", "instruction"]):
            self._extend_pool(table)

    def run(self) -> None:
        """Commit rounds until the target is reached.

        Raises NoProgressError after too many rounds in a row that accepted almost nothing, and
        BudgetError where the budget has no room for another block; then all that was asked for is
        stored.
        """
        width = self._config.bootstrap.lookahead + 1
        in_flight: dict[int, Future[CompleteRound]] = {}
        abandon = threading.Event()
        self._report()
        try:
            while len(self._machine) < self._config.target_instructions:
                self._check_progress()
                current = len(self._manifests)
                for round_ in range(current, current + width):
                    if round_ not in in_flight and self._is_wanted(round_, current):
                        in_flight[round_] = _in_thread(self._complete_round, round_, abandon)
                self._commit(current, *in_flight.pop(current).result())
        except BudgetError:
            for future in in_flight.values():
                future.exception()  # waits: what it has asked for will be paid for
            raise
        finally:
            abandon.set()

    def _is_wanted(self, round_: int, current: int) -> bool:
        """Whether the rounds before this one are likely to fall short of the target."""
        if round_ == current or not self._manifests:
            return True
        expected: int = self._manifests[-1]["accepted"] * (round_ - current)
        return len(self._machine) + expected < self._config.target_instructions

    # Asking ------------------------------------------------------------------------------------

    def _requests(self, round_: int) -> pa.Table:
        """A row for every request of a round."""
        bootstrap = self._config.bootstrap
        seen = round_ - 1 - bootstrap.lookahead
        machine = self._machine[: self._pool_sizes[seen]] if seen >= 0 else []
        if bootstrap.max_demonstration_words:
            limit = bootstrap.max_demonstration_words
            machine = [item for item in machine if len(item[1].split()) <= limit]
        texts = [text for _, text in machine]
        rows = []
        for index in range(bootstrap.prompts_per_round):
            share = bootstrap.classification_share
            only = int((index + 1) * share) > int(index * share)
            human = self._human_classification if only else self._human
            seed = derive_seed(self._config.seed, "instructions", round_, index)
            demonstrations = sample_demonstrations(
                [text for _, text in human],
                [] if only else texts,
                total=bootstrap.demonstrations,
                machine_count=bootstrap.machine_demonstrations,
                seed=seed,
            )
            prompt = instruction_prompt(
                [demonstration.text for demonstration in demonstrations],
                style=self._config.generator.prompt_style,
                classification_only=only,
                new=bootstrap.new_instructions,
            )
            sources = {"human": human, "machine": machine}
            rows.append(
                {
                    "block": index // bootstrap.block_size,
                    "request_id": f"r{round_:05d}-{index:05d}",
                    "seed": seed,
                    "classification_prompt": only,
                    "demonstrations": [sources[d.kind][d.index][0] for d in demonstrations],
                    "prompt": json.dumps(prompt.prompt),
                    "stop": list(prompt.stop),
                }
            )
        return pa.Table.from_pylist(rows)

    def _complete_round(self, round_: int, abandon: threading.Event) -> CompleteRound:
        """Answer what a round still lacks; all its rows in request order, and their blocks."""
        folder = round_folder(round_)
        requests = self._requests(round_)
        finished = {
            number: block
            for number, key in self._run.finished_blocks(folder).items()
            if (block := self._run.sound_block(key))
        }
        stored = list(finished.values())
        size = self._config.bootstrap.block_size
        missing = [
            requests.slice(start, size)
            for start in range(0, requests.num_rows, size)
            if start // size not in finished
        ]
        work = CompleteRequests(folder, self._config.generator.sampling.instructions)
        task = Task(work, self._generators, self._run.location, order=(round_,))
        while missing and not abandon.is_set():
            sizes = [block.num_rows for block in missing]
            granted = self._allowance.grant("bootstrap", sizes, order=round_, stop=abandon)
            if not granted:
                raise self._allowance.error(self._standing())
            for table, info in write_blocks(
                missing[:granted], task, parallel_phases=True, stop=abandon
            ):
                self._allowance.settle("bootstrap", table.num_rows, tokens_of(table))
                stored.append((table, info))
            missing = missing[granted:]
        rows = [row for table, _ in stored for row in table.to_pylist()]
        rows.sort(key=lambda row: row["request_id"])
        return rows, sorted((info for _, info in stored), key=lambda info: info.key)

    # Deciding ----------------------------------------------------------------------------------

    def _commit(self, round_: int, rows: list[dict[str, Any]], blocks: list[ShardInfo]) -> None:
        assert len(rows) == self._config.bootstrap.prompts_per_round, "a round lost rows"
        room = self._config.target_instructions - len(self._machine)
        accepted, rejected, manifest = decide_round(
            self._config, round_, rows, room, lambda usable: self._gate.filter(texts_of(usable))
        )
        manifest["pool"] = self._seeds + len(self._machine) + accepted.num_rows
        self._run.commit_round(round_, blocks, accepted, rejected, manifest)
        self._manifests.append(manifest)
        self._extend_pool(accepted)
        candidates = manifest["candidates"]
        share = 100 * accepted.num_rows / max(1, candidates)
        self._report(
            f"round {round_}: {candidates} candidates, {accepted.num_rows} accepted ({share:.0f} %)"
        )

    # Keeping count -----------------------------------------------------------------------------

    def _extend_pool(self, accepted: pa.Table) -> None:
        texts = zip(accepted["id"].to_pylist(), accepted["instruction"].to_pylist(), strict=True)
        self._machine.extend(texts)
        self._pool_sizes.append(len(self._machine))

    def _check_progress(self) -> None:
        options = self._config.bootstrap
        last = self._manifests[-options.stall_rounds :]
        if len(last) == options.stall_rounds and all(
            manifest["accepted"] <= options.stall_acceptance * manifest["candidates"]
            for manifest in last
        ):
            reasons: Counter[str] = Counter()
            for manifest in last:
                reasons.update(manifest["rejected"])
            common = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(3))
            raise NoProgressError(
                f"stopped: the last {len(last)} rounds accepted almost nothing "
                f"(rejected: {common or 'nothing'}). "
                f"{self._standing()}; add --finish to go on with these"
            )

    def _standing(self) -> str:
        target = self._config.target_instructions
        return f"{len(self._machine)} of {target} instructions are accepted and kept"

    def _report(self, note: str = "") -> None:
        self._reporter.report(
            Progress(
                "bootstrap",
                done=len(self._machine),
                total=self._config.target_instructions,
                candidates=sum(manifest["candidates"] for manifest in self._manifests),
                note=note,
            )
        )


def _in_thread(function: Callable[..., CompleteRound], *arguments: Any) -> Future[CompleteRound]:
    """Run in a thread that does not keep the process alive, as it would once Ray is lost to it."""
    future: Future[CompleteRound] = Future()

    def run() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:  # noqa: BLE001 - handed on to whoever asks for the result
            future.set_exception(error)

    threading.Thread(target=run, name="round", daemon=True).start()
    return future


def _demonstration_texts(seeds: list[SeedTask], config: RunConfig) -> list[tuple[str, str]]:
    """Ids and instructions that may stand in prompts; all of them where the short ones are few."""
    limit = config.bootstrap.max_demonstration_words
    every = [(seed.id, seed.instruction) for seed in seeds]
    short = [item for item in every if limit is None or len(item[1].split()) <= limit]
    return short if len(short) >= config.bootstrap.demonstrations else every
