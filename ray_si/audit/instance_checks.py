"""Verification of instance blocks, some at a time, in this process or in several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate, count, islice, takewhile, zip_longest
from multiprocessing import get_context
from typing import NamedTuple

import pyarrow as pa

from ray_si.config import RunConfig
from ray_si.pipeline.contamination import excluded_texts_of_run
from ray_si.pipeline.instance_rows import block_schema, decided_columns
from ray_si.pipeline.instances import CAME_ALONG, NOT_ASKED, AcceptedInstruction, is_class_known
from ray_si.run.audit import Check, read_whole
from ray_si.run.ids import instance_seed
from ray_si.run.layout import round_folder
from ray_si.run.manifests import RoundManifest
from ray_si.scores.during import Passing
from ray_si.storage.objects import open_objects
from ray_si.storage.reading import read_ahead

_CHUNK = 250
"""Blocks that a process checks at a time: some seconds of work for some milliseconds of sending."""


class BlockToCheck(NamedTuple):
    """A block by number, where it is stored, and the instructions that it should be of."""

    number: int
    key: str
    instructions: list[AcceptedInstruction]


@dataclass
class CheckedBlocks:
    """What came of some blocks: findings, instances ``kept``, and whether others may build on it.

    ``damaged`` are the keys of those that cannot be read; ``passing`` is how many rows of each full
    one in which nothing is wrong hold ``select.during``, where there is such a condition.
    """

    check: Check = field(default_factory=lambda: Check("instances"))
    kept: int = 0
    is_sound: bool = True
    damaged: list[str] = field(default_factory=list)
    passing: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class BlockChecks:
    """Checks blocks of the run at ``location``; it travels to the processes that do it.

    ``is_complete`` says that the instances have their manifest, ``is_regated`` that another run
    wrote them, and ``is_read_again`` that instances are parsed and filtered again.
    """

    location: str
    fingerprint: str
    config: RunConfig
    is_complete: bool
    is_regated: bool
    is_read_again: bool

    def all_of(self, blocks: Sequence[BlockToCheck], processes: int) -> Iterator[CheckedBlocks]:
        """Check the blocks, some at a time, in order; in other processes where there are many."""
        chunks = _chunks(blocks)
        if processes < 2 or len(blocks) <= 2 * _CHUNK:
            yield from map(self.some_of, chunks)
            return
        with ProcessPoolExecutor(processes, get_context("spawn")) as workers:
            yield from read_ahead(
                lambda chunk: workers.submit(self.some_of, chunk).result(), chunks, processes
            )

    def some_of(self, blocks: Iterable[BlockToCheck]) -> CheckedBlocks:
        """Check these blocks."""
        objects, result = open_objects(self.location), CheckedBlocks()
        passing = Passing.of(self.config)
        for block in blocks:
            table = read_whole(objects, block.key, block_schema(self.config))
            if isinstance(table, str):
                result.check.find(block.key, table)
                result.damaged.append(block.key)
                result.is_sound = False
                continue
            expected = [item.id for item in block.instructions[: table.num_rows]]
            is_short = table.num_rows < len(block.instructions)
            if not self.is_complete and is_short and table["id"].to_pylist() == expected:
                note = f"unfinished: {block.key} was cut short and will be written again"
                result.check.notes.append(note)
                continue
            before = len(result.check.findings) + result.check.unlisted
            self._look_at(block, table, result)
            is_right = len(result.check.findings) + result.check.unlisted == before
            if passing and is_right and table.num_rows == self.config.instances.block_size:
                result.passing[block.number] = passing.count(table)
            result.is_sound &= table.num_rows == len(block.instructions)
        return result

    def _look_at(self, block: BlockToCheck, table: pa.Table, result: CheckedBlocks) -> None:
        """Check one block's rows against its instructions."""
        check, key, config = result.check, block.key, self.config
        start = block.number * config.instances.block_size
        for k, (row, source) in enumerate(zip_longest(table.to_pylist(), block.instructions)):
            check.count += 1
            if row is None or source is None:
                wrong = f"has {table.num_rows} rows for {len(block.instructions)} instructions"
                check.find(key, wrong)
                break
            result.kept += len(row["instances"])
            id_ = row["id"]
            if (id_, row["instruction"]) != source[:2]:
                check.find(key, f"row {k} is {id_}, where {source.id} was accepted")
            if row["block"] != block.number:
                check.find(key, f"{id_} says block {row['block']}")
            seed = instance_seed(config.seed, start + k)
            if row["seed"] != seed and not self.is_regated:
                check.find(key, f"{id_} has another seed than its place gives")
            if row["finish_reason"] == NOT_ASKED and not self.is_regated:
                check.find(key, f"{id_} was never asked for")
            if (row["finish_reason"] == CAME_ALONG) != (source.given is not None):
                check.find(key, f"{id_} was asked for an instance that it has, or has none")
            margin = row["classification_margin"]
            is_known = is_class_known(config, source)
            if is_known and row["is_classification"] != source.classification_prompt:
                check.find(key, f"{id_} is not classified as its prompt asked for")
            if margin is not None:
                answer = margin > config.classification.threshold
                if answer != row["is_classification"]:
                    check.find(key, f"{id_} is classified against its margin {margin}")
            if not self.is_read_again:
                continue
            excluded = excluded_texts_of_run(config, self.location, self.fingerprint)
            decided = decided_columns(config, source, row, excluded)
            if any(row[name] != value for name, value in decided.items()):
                check.find(key, f"{id_} has other instances than its completion gives")


def check_passed(
    check: Check, config: RunConfig, rounds: Sequence[RoundManifest], passing: dict[int, int]
) -> None:
    """Hold what rounds say of ``select.during`` against the rows of each block that hold it.

    A round goes by the full blocks of what the next one's prompts may show, from the first on.
    """
    size, lookahead = config.instances.block_size, config.bootstrap.lookahead
    accepted = [0, *accumulate(manifest["accepted"] for manifest in rounds)]
    known = takewhile(passing.__contains__, count())  # behind it one is damaged, or asked again
    held = [0, *accumulate(passing[block] for block in known)]
    for round_, manifest in enumerate(rounds):
        if not (said := manifest.get("passed")):
            continue
        key, blocks = f"{round_folder(round_)}/manifest.json", said["blocks"]
        last = accepted[max(0, round_ - lookahead)] // size
        if blocks > last:
            check.find(key, f"goes by {blocks} instance blocks, where it might by {last}")
        elif blocks < len(held):
            name = f"of the first {blocks} instance blocks, rows that hold select.during:"
            check.expect(key, name, held[blocks], said["rows"])


def _chunks(blocks: Sequence[BlockToCheck]) -> Iterator[list[BlockToCheck]]:
    rest = iter(blocks)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk
