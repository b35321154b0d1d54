"""Phases 2 and 3 as one stream: classification flows into instance generation, block by block."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass

import pyarrow as pa

from ray_si.build.classify import classify
from ray_si.build.stages import Ask, Task, write_blocks
from ray_si.config import RunConfig
from ray_si.engines.base import Completion
from ray_si.pipeline.contamination import excluded_texts_of_run
from ray_si.pipeline.instances import (
    POOL_COLUMNS,
    AcceptedInstruction,
    Classified,
    ToWriteRow,
    instance_row,
)
from ray_si.pipeline.progress import Progress, Reporter
from ray_si.pipeline.prompting import instance_request
from ray_si.pipeline.token_budget import TokenBudget
from ray_si.run.ids import instance_seed
from ray_si.run.run import Run
from ray_si.run.schemas import INSTANCE_BLOCK
from ray_si.run.tokens import TOKEN_COLUMNS, tokens_of
from ray_si.serving.applications import Generators
from ray_si.serving.background import Alarm, in_thread
from ray_si.storage.tables import ShardInfo

_FIRST, _LAST = -1, 1 << 40
"""Orders of instance requests: after those of any round while the bootstrap runs, and before what
is left of rounds that turned out not to be needed once it is over."""

_AT_ONCE = 2
"""Threads that write ahead: one goes on while the other's last rows are awaited."""


@dataclass(frozen=True)
class WriteInstances:
    """Instructions to instances, each classified first: the work of the tasks, see `Work`.

    ``location`` is the run's, for what it is decontaminated against.
    """

    config: RunConfig
    location: str
    folder: str = "instances"
    row_id: str = "id"

    async def answer(self, row: ToWriteRow, ask: Ask) -> tuple[Classified, Completion | None]:
        """Classify one instruction, then have its instances written, unless one came with it."""
        classified = await classify(row, self.config, ask)
        if row["instance"] is not None:
            return classified, None
        request = instance_request(
            self.config, row["instruction"], classified.is_classification, row["seed"]
        )
        return classified, await ask(request)

    def failed(self, error: Completion) -> tuple[Classified, Completion | None]:
        """The error, for an instruction of which it isn't known what it is."""
        return Classified(False), error

    def complete(
        self, block: pa.Table, answers: list[tuple[Classified, Completion | None]]
    ) -> pa.Table:
        """An instance block: what was answered, parsed and filtered."""
        excluded = excluded_texts_of_run(self.config, self.location)
        rows = [
            instance_row(
                self.config,
                AcceptedInstruction.of(row),
                row["block"],
                row["seed"],
                *answer,
                excluded,
            )
            for row, answer in zip(block.to_pylist(), answers, strict=True)
        ]
        return pa.Table.from_pylist(rows, INSTANCE_BLOCK)

    def summary(self, stored: pa.Table) -> pa.Table:
        """How many instances each instruction has, and the tokens it took."""
        counts = [len(instances) for instances in stored["instances"].to_pylist()]
        tokens = {name: stored[name] for name in TOKEN_COLUMNS}
        return pa.table({"block": stored["block"], "kept": pa.array(counts, pa.int64()), **tokens})


class InstancePhase:
    """Runs phases 2 and 3 over the accepted instructions that have no block yet.

    Blocks are consecutive accepted instructions in pool order, so each is known as soon as the
    rounds that it comes from are committed: `begin` writes those in the background, while the
    bootstrap leaves replicas idle; `run` waits for them and writes the rest. A failure in the
    background rings the alarm, and its blocks are anybody's again.
    """

    def __init__(
        self,
        config: RunConfig,
        run: Run,
        generators: Generators,
        reporter: Reporter,
        token_budget: TokenBudget,
        alarm: Alarm,
    ) -> None:
        self._config, self._run, self._alarm = config, run, alarm
        self._generators, self._reporter, self._token_budget = generators, reporter, token_budget
        self._fencing = run.lease.number
        self._finished = run.finished_blocks("instances")
        self._rest = pa.table({})  # rows of the block that is not full yet
        self._cut = 0  # blocks that are
        self._total = 0  # rows so far
        self._rounds = 0  # that they are from
        self._ready: list[tuple[int, pa.Table]] = []  # of those, the ones that nobody writes yet
        self._writing: list[Future[None]] = []
        self._abandon = threading.Event()
        self._is_running = False
        self._lock = threading.Lock()  # of what is counted below, and of what is ready
        self._done = self._instances = 0
        self._infos: list[ShardInfo] = []
        for table in run.accepted(POOL_COLUMNS):
            self.extend(table)

    def extend(self, accepted: pa.Table) -> None:
        """Take the accepted rows of the next committed round."""
        size = self._config.instances.block_size
        table = accepted.select(POOL_COLUMNS)
        self._rest = pa.concat_tables([self._rest, table]) if self._rest.num_rows else table
        self._total += accepted.num_rows
        self._rounds += 1
        while self._rest.num_rows >= size:
            self._cut_block(size)

    def begin(self) -> None:
        """Write the blocks that are known in a thread, unless some of these lag behind already."""
        if sum(not each.done() for each in self._writing) < _AT_ONCE:
            self._begin()

    def wait(self) -> None:
        """Until what was begun has ended, one way or another, or the alarm rings."""
        self._alarm.wait_for(*self._writing)

    def abandon(self) -> None:
        """Let what was begun end early; what is stored by then stays."""
        self._abandon.set()

    def run(self) -> None:
        """Write the missing blocks, then the manifest.

        Raises BudgetError where the budget has no room for another block.
        """
        if self._rest.num_rows:
            self._cut_block(self._rest.num_rows)
        self._is_running = True
        self._report()
        while True:
            before = self._done
            self._begin()
            for writing in self._writing:
                self._alarm.result_of(writing)
            if not self._ready:
                break
            if self._done == before:
                raise self._token_budget.error(
                    f"{self._done} of {self._total} instructions have their instances, which are "
                    "kept"
                )
        self._infos.sort(key=lambda info: info.key)
        counts = {"blocks": self._cut, "instructions": self._total, "instances": self._instances}
        counts["rounds"] = self._rounds
        self._run.commit_instances(self._infos, counts)

    def _begin(self) -> None:
        with self._lock:
            blocks, self._ready = self._ready, []
        if blocks:
            self._writing.append(in_thread(self._write, blocks, _LAST + len(self._writing)))

    def _write(self, blocks: list[tuple[int, pa.Table]], order: int) -> None:
        """Write those of the blocks that do not stand yet, as far as the budget goes.

        Those that still don't are ready again then, whatever happened.
        """
        missing = dict(blocks)
        try:
            again = self._count_stored(missing)
            self._write_missing(missing, again, order)
        except BaseException as error:
            self._alarm.ring(error)
            raise
        finally:
            with self._lock:
                self._ready += missing.items()

    def _count_stored(self, missing: dict[int, pa.Table]) -> frozenset[int]:
        """Take out the blocks that stand already; of the others, those in whose place one does."""
        again = set()
        for number, block in list(missing.items()):
            key = self._finished.get(number)
            if stored := self._stored(key, block):
                kept = sum(map(len, stored[0]["instances"].to_pylist()))
                self._count(block.num_rows, kept, stored[1])
                del missing[number]
            elif key:
                again.add(number)
        self._report()
        return frozenset(again)

    def _write_missing(
        self, missing: dict[int, pa.Table], again: frozenset[int], order: int
    ) -> None:
        work = WriteInstances(self._config, self._run.location)
        first = (_FIRST if self._is_running else _LAST,)
        task = Task(
            work,
            self._generators,
            self._run.location,
            first,
            fencing=self._fencing,
            again=again,
            until=self._token_budget.until,
        )
        with self._token_budget.claim("instances", order=order, stop=self._abandon) as claim:
            while missing and not self._abandon.is_set():
                granted = claim.grant([block.num_rows for block in missing.values()])
                if not granted:
                    return
                now = [self._to_write(*item) for item in list(missing.items())[:granted]]
                for table, info in write_blocks(
                    now, task, parallel_phases=False, stop=self._abandon
                ):
                    del missing[table["block"][0].as_py()]
                    claim.settle(table.num_rows, tokens_of(table))
                    self._count(table.num_rows, sum(table["kept"].to_pylist()), info)
                    self._report()

    def _count(self, done: int, instances: int, info: ShardInfo) -> None:
        with self._lock:
            self._done += done
            self._instances += instances
            self._infos.append(info)

    def _report(self) -> None:
        if self._is_running:  # else the bootstrap reports
            self._reporter.report(
                Progress("instances", self._done, self._total, instances=self._instances)
            )

    def _stored(self, key: str | None, block: pa.Table) -> tuple[pa.Table, ShardInfo] | None:
        """A block as it is stored; None where it must be written.

        A last block that ``finish`` cut short has to be, once the bootstrap has gone on after all.
        """
        if key is None:
            return None
        stored = self._run.sound_block(key)
        return stored if stored and stored[0]["id"].equals(block["id"]) else None

    def _cut_block(self, size: int) -> None:
        """Make the next block, of the first ``size`` rows that are in none."""
        with self._lock:
            self._ready.append((self._cut, self._rest.slice(0, size)))
        self._rest = self._rest.slice(size)
        self._cut += 1

    def _to_write(self, number: int, rows: pa.Table) -> pa.Table:
        """A block as its task gets it."""
        start = number * self._config.instances.block_size
        seeds = [instance_seed(self._config.seed, i) for i in range(start, start + rows.num_rows)]
        columns = {
            "block": pa.array([number] * rows.num_rows, pa.int64()),
            "seed": pa.array(seeds, pa.int64()),
            **{name: rows[name] for name in POOL_COLUMNS},
        }
        return pa.table(columns).combine_chunks()
