"""Phases 2 and 3 as one stream: classification flows into instance generation, block by block."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa

from ray_si.build.answering import Ask, Task
from ray_si.build.stages import write_blocks
from ray_si.config import RunConfig
from ray_si.engines.base import Completion
from ray_si.pipeline.contamination import excluded_texts_of_run
from ray_si.pipeline.instance_rows import Written, block_schema, instance_row
from ray_si.pipeline.instances import (
    AcceptedInstruction,
    Classified,
    ToWriteRow,
    answered_yes,
    is_class_known,
)
from ray_si.pipeline.progress import Progress, Reporter
from ray_si.pipeline.prompting import classification_request, instance_request
from ray_si.pipeline.steps import ask_in_steps, shown_in_run
from ray_si.pipeline.token_budget import Claim, TokenBudget
from ray_si.run.checkpoint import POOL_COLUMNS, CommittedRounds
from ray_si.run.ids import instance_seed
from ray_si.run.instance_parts import (
    BlockRecord,
    Counts,
    InstanceParts,
    part_table,
    records_of,
)
from ray_si.run.run import Run
from ray_si.serving.applications import Generators
from ray_si.serving.background import Alarm, in_thread
from ray_si.serving.replicas import AFTER_ROUNDS, BEFORE_ROUNDS
from ray_si.storage.reading import read_ahead
from ray_si.storage.tables import ShardInfo

WRITERS = 2
"""Threads that write blocks: one goes on while the other's last rows are awaited."""

_ROWS_AT_ONCE = 1 << 16
"""Rows that a writer takes at a time, so that the driver holds few; where slots are many, ..."""

_ROWS_A_SLOT = 32
"""... so many for each of them, so that none is idle."""


async def classify(row: ToWriteRow, config: RunConfig, ask: Ask) -> Classified | Completion:
    """Ask whether an instruction is a classification task, unless that `is_class_known`.

    Where that failed for good it is unknown, and the completion that says so comes back.
    """
    if is_class_known(config, AcceptedInstruction.of(row)):
        return Classified(row["classification_prompt"])
    completion = await ask(classification_request(config, row["instruction"], row["seed"]))
    if completion.finish_reason == "error":
        return completion
    is_yes, margin = answered_yes(config, completion)
    return Classified(
        is_yes,
        completion.error or completion.text,
        margin,
        completion.prompt_tokens,
        completion.completion_tokens,
    )


@dataclass(frozen=True)
class WriteInstances:
    """Instructions to instances, each classified first: the work of the tasks, see `Work`.

    ``location`` and ``fingerprint`` are the run's, for what it is decontaminated against.
    """

    config: RunConfig
    location: str
    fingerprint: str
    folder: str = "instances"
    row_id: str = "id"

    async def answer(self, row: ToWriteRow, ask: Ask) -> tuple[Classified, Written]:
        """Classify one instruction, then have its instances written, unless one came with it.

        One that could not be classified has failed, so that a resumed build asks it again.
        """
        classified = await classify(row, self.config, ask)
        if isinstance(classified, Completion):
            return self.failed(classified)
        if row["instance"] is not None:
            return classified, None
        if self.config.instances.method == "steps":
            shown = shown_in_run(self.config, self.location, self.fingerprint)
            steps = await ask_in_steps(self.config, row["instruction"], row["seed"], ask, shown)
            return classified, steps
        request = instance_request(
            self.config, row["instruction"], classified.is_classification, row["seed"]
        )
        return classified, await ask(request)

    def failed(self, error: Completion) -> tuple[Classified, Written]:
        """The error, for an instruction of which it isn't known what it is."""
        return Classified(False), error

    def complete(self, block: pa.Table, answers: list[tuple[Classified, Written]]) -> pa.Table:
        """An instance block: what was answered, parsed and filtered."""
        excluded = excluded_texts_of_run(self.config, self.location, self.fingerprint)
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
        return pa.Table.from_pylist(rows, block_schema(self.config))

    def summary(self, stored: pa.Table, info: ShardInfo) -> pa.Table:
        """What the manifest says of the block, and what it counts."""
        return part_table([BlockRecord.of(stored, info)])


class InstancePhase:
    """Writes the instances of the accepted instructions that have none yet.

    Blocks are consecutive accepted instructions in pool order, so each is known as soon as the
    ``rounds`` that it comes from are committed: `begin` has those written in the background, while
    the bootstrap leaves replicas idle; `run` has the rest written and waits for all. What stands
    already is read in the background too, while what is missing is asked for.
    """

    def __init__(
        self,
        config: RunConfig,
        run: Run,
        rounds: CommittedRounds,
        generators: Generators,
        reporter: Reporter,
        token_budget: TokenBudget,
        alarm: Alarm,
    ) -> None:
        self._config, self._run, self._rounds = config, run, rounds
        self._alarm, self._fencing = alarm, run.lease.number
        self._generators, self._reporter, self._token_budget = generators, reporter, token_budget
        self._size = config.instances.block_size
        self._parts = InstanceParts(run, self._size)
        self._unread = self._parts.unread(rounds.accepted)
        self._uncounted = set(self._unread)  # blocks that stood, and are not known to yet
        self._known = 0  # blocks that were looked at
        self._lock = threading.Lock()  # of the next two
        self._missing: deque[int] = deque()  # blocks that nobody writes yet
        self._again: set[int] = set()  # those that stand and are asked again all the same
        self._working: list[Future[None]] = []
        self._reading: dict[Future[None], int] = {}  # of these: the last block that it reads
        self._begun = self._writers = 0  # writers that ever were, and that are
        self._abandon = threading.Event()
        self._is_running = self._is_denied = False

    @property
    def counts(self) -> Counts:
        """What the blocks that are known to stand come to."""
        return self._parts.counts

    @property
    def written(self) -> Counts | None:
        """`counts`, once these are of all blocks that stand; None before."""
        self._uncounted = {block for block in self._uncounted if not self._parts.has(block)}
        return None if self._uncounted else self.counts

    def begin(self) -> None:
        """Have the blocks written that are full by now."""
        self._begin(self._rounds.accepted // self._size)

    def wait(self) -> None:
        """Until what was begun has ended, one way or another, or the alarm rings."""
        self._alarm.wait_for(*self._working)

    def abandon(self) -> None:
        """Let what was begun end early; what is stored by then stays."""
        self._abandon.set()

    def run(self) -> None:
        """Have all blocks written, then the manifest.

        Raises BudgetError where the budget has no room for another block, and RunError where the
        blocks that stand cannot be those of the run.
        """
        self._is_running = True
        total = self._rounds.accepted
        self._report()
        self._complete(0, -(-total // self._size), total)
        self.wait()  # for whoever is still writing a part
        self._parts.commit(total, {"rounds": len(self._rounds.manifests)})

    def blocks(self, first: int, last: int) -> Iterator[pa.Table]:
        """The full blocks from ``first`` to before ``last``, in order, once they are written.

        Raises BudgetError as `run` does.
        """
        if first >= last:
            return
        self._complete(first, last, last * self._size)
        yield from read_ahead(self._run.read, self._parts.keys(first, last))

    def _complete(self, first: int, last: int, instructions: int) -> None:
        """Have these blocks written, which the first so many instructions need."""
        left = self._left(first, last)
        while left:
            self._alarm.check()
            self._begin(last, first)
            working = self._working.copy()
            # what stands before them need not be read yet
            wanted = [f for f in working if self._reading.get(f, first) >= first] or working
            for future in wanted:
                self._alarm.result_of(future)
            before, left = left, self._left(first, last)
            if self._is_denied and left == before:
                for future in working:  # so that all that stands is counted
                    self._alarm.result_of(future)
                raise self._token_budget.error(
                    f"{self.counts.instructions} of {instructions} instructions have their "
                    "instances, which are kept"
                )

    def _left(self, first: int, last: int) -> int:
        """How many of these blocks are not known to stand."""
        return sum(not self._parts.has(block) for block in range(first, last))

    def _begin(self, blocks: int, first: int = 0) -> None:
        """Have the first ``blocks`` read where they stand, and else written.

        Those before the ``first`` that is wanted are read apart from the others.
        """
        self._working = [future for future in self._working if not future.done()]
        self._reading = {f: last for f, last in self._reading.items() if not f.done()}
        new = [b for b in range(self._known, blocks) if not self._parts.has(b)]
        self._known = max(self._known, blocks)
        stored = {block: self._unread.pop(block) for block in new if block in self._unread}
        with self._lock:
            self._missing += [block for block in new if block not in stored]
        for wanted in (True, False):
            if keys := {block: key for block, key in stored.items() if (block >= first) is wanted}:
                future = in_thread(self._guarded, self._read, keys)
                self._working.append(future)
                self._reading[future] = max(keys)
        self._is_denied = False
        for _ in range(min(WRITERS - self._writers, -(-len(self._missing) // self._most_at_once))):
            self._begun += 1
            with self._lock:
                self._writers += 1
            self._working.append(in_thread(self._guarded, self._write, self._begun))

    def _guarded(self, work: Callable[..., None], *arguments: Any) -> None:
        """Do a part of the work in the background; what it fails with rings the alarm."""
        try:
            work(*arguments)
        except BaseException as error:
            self._alarm.ring(error)
            raise

    def _read(self, keys: dict[int, str]) -> None:
        """Take the blocks that stand, unless requests of them failed or they are cut short.

        A last block that ``finish`` cut short is, once the bootstrap has gone on after all.
        """
        stored = read_ahead(self._run.read_stored, keys.values())
        for block, (table, info) in zip(keys, stored, strict=True):
            if self._abandon.is_set():
                return
            record = BlockRecord.of(table, info)
            if not record.failed and table["id"].equals(self._rows(block)["id"]):
                self._take(record)
                continue
            with self._lock:
                self._missing.append(block)
                self._again.add(block)

    def _write(self, number: int) -> None:
        """Write missing blocks until there are none, or as far as the budget goes.

        ``number`` is the writer's own, by which the budget serves them in turn.
        """
        order = AFTER_ROUNDS[0] + number
        try:
            with self._token_budget.claim("instances", order=order, stop=self._abandon) as claim:
                while not self._abandon.is_set() and (blocks := self._next_blocks()):
                    left = {block: self._to_write(block) for block in blocks}
                    try:
                        self._write_blocks(left, claim)
                    finally:  # those are anybody's again
                        with self._lock:
                            self._missing.extendleft(reversed(left))
                    if left:
                        self._is_denied = True
                        return
        finally:
            with self._lock:
                self._writers -= 1

    def _write_blocks(self, left: dict[int, pa.Table], claim: Claim) -> None:
        """Write the blocks that are ``left``, as far as they are granted, and take them out."""
        task = Task(
            WriteInstances(self._config, self._run.location, self._run.header["fingerprint"]),
            self._generators,
            self._run.location,
            BEFORE_ROUNDS if self._is_running else AFTER_ROUNDS,
            fencing=self._fencing,
            again=frozenset(left.keys() & self._again),
            until=self._token_budget.until,
        )
        while left and not self._abandon.is_set():
            granted = claim.grant([table.num_rows for table in left.values()])
            if not granted:
                return
            blocks = dict(islice(left.items(), granted))
            for block, summary, _ in write_blocks(
                blocks, task, parallel_phases=False, stop=self._abandon
            ):
                (record,) = records_of(summary)
                del left[block]
                claim.settle(record.info.rows, record.tokens)
                self._take(record)

    def _next_blocks(self) -> list[int]:
        """The missing blocks that a writer takes next."""
        with self._lock:
            count = min(self._most_at_once, len(self._missing))
            return [self._missing.popleft() for _ in range(count)]

    @property
    def _most_at_once(self) -> int:
        """Blocks."""
        slots = sum(self._generators.slots.values())
        return max(_ROWS_AT_ONCE, _ROWS_A_SLOT * slots) // self._size + 1

    def _take(self, record: BlockRecord) -> None:
        self._parts.add(record)
        self._report()

    def _report(self) -> None:
        if self._is_running:  # else the bootstrap reports
            done, instances = self.counts.instructions, self.counts.instances
            total = self._rounds.accepted
            self._reporter.report(Progress("instances", done, total, instances=instances))

    def _rows(self, block: int) -> pa.Table:
        return _rows_of(block, self._rounds, self._size)

    def _to_write(self, block: int) -> pa.Table:
        """A block as its task gets it."""
        rows, start = self._rows(block), block * self._size
        seeds = [instance_seed(self._config.seed, start + k) for k in range(rows.num_rows)]
        columns = {
            "block": pa.array([block] * rows.num_rows, pa.int64()),
            "seed": pa.array(seeds, pa.int64()),
            **{name: rows[name] for name in POOL_COLUMNS},
        }
        return pa.table(columns).combine_chunks()


def is_any_to_ask(run: Run, rounds: CommittedRounds, size: int) -> bool:
    """Whether a block of the accepted instructions is missing, or is to be asked again."""
    parts = InstanceParts(run, size)
    unread = parts.unread(rounds.accepted)
    left = [block for block in range(-(-rounds.accepted // size)) if not parts.has(block)]
    if not unread.keys() >= set(left):
        return True
    stored = zip(left, read_ahead(run.sound_block, [unread[block] for block in left]), strict=True)
    return any(
        found is None or not found[0]["id"].equals(_rows_of(block, rounds, size)["id"])
        for block, found in stored
    )


def _rows_of(block: int, rounds: CommittedRounds, size: int) -> pa.Table:
    """The accepted instructions of a block of that size."""
    return rounds.rows(block * size, min((block + 1) * size, rounds.accepted))
