"""Phases 2 and 3 as one stream: classification flows into instance generation, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa

from ray_si.config import RunConfig
from ray_si.distributed.allowance import Allowance
from ray_si.distributed.bootstrap import add_completions
from ray_si.distributed.classify import Classified, classify
from ray_si.distributed.decisions import GIVEN, INSTANCE, KEPT, LEFT_OUT, instances_of
from ray_si.distributed.decontaminate import forbidden_of
from ray_si.distributed.progress import Progress, Reporter
from ray_si.distributed.prompting import instance_request
from ray_si.distributed.stages import Ask, Generators, Task, write_blocks
from ray_si.engines.base import Completion
from ray_si.records import Instance
from ray_si.self_instruct.sampling import derive_seed
from ray_si.storage.run import Run
from ray_si.storage.shards import ShardInfo
from ray_si.storage.spent import TOKEN_COLUMNS, tokens_of

_LAST = (1 << 40,)
"""Order of instance requests where a replica has others too: after those of any round."""

_CAME_ALONG = Completion("", cast(Any, GIVEN))
"""Stands for the answer where none was asked for."""


@dataclass(frozen=True)
class WriteInstances:
    """Instructions to instances, each classified first: the work of the tasks, see `Work`.

    ``location`` is the run's, for what it is decontaminated against.
    """

    config: RunConfig
    location: str
    folder: str = "instances"

    async def answer(self, row: dict[str, Any], ask: Ask) -> tuple[Classified, Completion]:
        """Classify one instruction, then have its instances written, unless one came with it."""
        classified = await classify(row, self.config, ask)
        if row["instance"] is not None:
            return classified, _CAME_ALONG
        request = instance_request(
            self.config, row["instruction"], classified.is_classification, row["seed"]
        )
        return classified, await ask(request)

    def complete(self, block: pa.Table, answers: list[tuple[Classified, Completion]]) -> pa.Table:
        """An instance block: what was answered, parsed and filtered."""
        forbidden = forbidden_of(self.config, self.location)
        kept, rejected = [], []
        for row, (classified, completion) in zip(block.to_pylist(), answers, strict=True):
            good, bad = instances_of(
                self.config,
                row["instruction"],
                classified.is_classification,
                completion.text,
                completion.finish_reason,
                row["instance"] and Instance(**row["instance"]),
                forbidden,
            )
            kept.append(good)
            rejected.append(bad)
        block = block.drop_columns(["classification_prompt", "instance"])  # accepted rows have them
        every = [classified for classified, _ in answers]
        columns = {
            "is_classification": pa.array([c.is_classification for c in every], pa.bool_()),
            "classification_answer": pa.array([c.answer for c in every], pa.string()),
            "classification_margin": pa.array([c.margin for c in every], pa.float64()),
            "classification_prompt_tokens": pa.array([c.prompt_tokens for c in every]),
            "classification_completion_tokens": pa.array([c.completion_tokens for c in every]),
        }
        for name, values in columns.items():
            block = block.append_column(name, values)
        block = add_completions(block, [completion for _, completion in answers])
        block = block.append_column("instances", pa.array(kept, KEPT))
        return block.append_column("rejected", pa.array(rejected, LEFT_OUT))

    def summary(self, stored: pa.Table) -> pa.Table:
        """How many instances each instruction has, and the tokens it took."""
        counts = [len(instances) for instances in stored["instances"].to_pylist()]
        tokens = {name: stored[name] for name in TOKEN_COLUMNS}
        return pa.table({"block": stored["block"], "kept": pa.array(counts, pa.int64()), **tokens})


class Instances:
    """Runs phases 2 and 3 over the accepted instructions that have no block yet."""

    def __init__(
        self,
        config: RunConfig,
        run: Run,
        generators: Generators,
        reporter: Reporter,
        allowance: Allowance,
    ) -> None:
        self._config, self._run = config, run
        self._generators, self._reporter, self._allowance = generators, reporter, allowance

    def run(self) -> None:
        """Write the missing blocks, then the manifest.

        Raises BudgetError where the budget has no room for another block.
        """
        finished = self._run.finished_blocks("instances")
        blocks = list(self._blocks())
        done = instances = 0
        missing: dict[int, pa.Table] = {}
        infos: list[ShardInfo] = []
        for number, block in enumerate(blocks):
            stored = self._stored(finished.get(number), block)
            if stored is None:
                missing[number] = block
            else:
                done += block.num_rows
                instances += sum(map(len, stored[0]["instances"].to_pylist()))
                infos.append(stored[1])
        total = sum(block.num_rows for block in blocks)
        work = WriteInstances(self._config, self._run.location)
        task = Task(work, self._generators, self._run.location, _LAST, until=self._allowance.until)
        self._reporter.report(Progress("instances", done, total, instances=instances))
        while missing:
            sizes = [block.num_rows for block in missing.values()]
            granted = self._allowance.grant("instances", sizes)
            if not granted:
                standing = f"{done} of {total} instructions have their instances, which are kept"
                raise self._allowance.error(standing)
            now = list(missing.values())[:granted]
            for table, info in write_blocks(now, task, parallel_phases=False):
                del missing[table["block"][0].as_py()]
                infos.append(info)
                done += table.num_rows
                instances += sum(table["kept"].to_pylist())
                self._allowance.settle("instances", table.num_rows, tokens_of(table))
                self._reporter.report(Progress("instances", done, total, instances=instances))
        infos.sort(key=lambda info: info.key)
        self._run.commit_instances(
            infos, {"blocks": len(blocks), "instructions": total, "instances": instances}
        )

    def _stored(self, key: str | None, block: pa.Table) -> tuple[pa.Table, ShardInfo] | None:
        """A block as it is stored; None where it must be written.

        A last block that ``finish`` cut short has to be, once the bootstrap has gone on after all.
        """
        if key is None:
            return None
        stored = self._run.sound_block(key)
        if stored is None or stored[0]["id"].equals(block["id"]):
            return stored
        self._run.objects.delete(key)
        return None

    def _blocks(self) -> Iterator[pa.Table]:
        """Accepted instructions in pool order, cut into blocks of fixed size."""
        size = self._config.instances.block_size
        columns = ["id", "instruction", "classification_prompt", "instance"]
        rows = [row for table in self._run.accepted(columns) for row in table.to_pylist()]
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            values = {name: [row[name] for row in part] for name in columns[:3]}
            seeds = range(start, start + len(part))
            yield pa.table(
                {
                    "block": pa.array([start // size] * len(part), pa.int64()),
                    **values,
                    "seed": [derive_seed(self._config.seed, "instances", 0, i) for i in seeds],
                    "instance": pa.array([row["instance"] for row in part], INSTANCE),
                }
            )
