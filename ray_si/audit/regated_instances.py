"""The instances of a run whose instructions were decided on anew: stored ones, or none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ray_si.audit.finished_run import FinishedRun
from ray_si.config import RunConfig
from ray_si.dedup import ExcludedTexts
from ray_si.pipeline.contamination import excluded_texts
from ray_si.pipeline.instance_rows import block_schema, decided_columns, instance_row
from ray_si.pipeline.instances import (
    NOT_ASKED,
    AcceptedInstruction,
    Classified,
    is_class_known,
)
from ray_si.run.ids import instance_seed
from ray_si.run.instance_parts import BlockRecord, InstanceParts
from ray_si.run.layout import INSTANCES, block_key
from ray_si.run.run import Run
from ray_si.run.schemas import InstanceRow
from ray_si.storage.tables import write_table


@dataclass
class WrittenInstances:
    """Blocks that were written, and counts of what is in all blocks, written or left to a build."""

    parts: InstanceParts
    kept: int = 0
    not_asked: int = 0


def write_instances(
    source: FinishedRun, new: Run, config: RunConfig, pool: list[AcceptedInstruction], open_: bool
) -> WrittenInstances:
    """Write instance blocks; if ``open_``, none that lacks an instruction's instances."""
    written = WrittenInstances(InstanceParts(new, config.instances.block_size))
    for number, (rows, kept) in enumerate(_instance_blocks(source, config, pool)):
        lacking = sum(row["finish_reason"] == NOT_ASKED for row in rows)
        written.kept += kept
        written.not_asked += lacking
        if not lacking or not open_:
            table = pa.Table.from_pylist(rows, block_schema(config))
            info = write_table(new.objects, block_key(INSTANCES, number), table)
            written.parts.add(BlockRecord.of(table, info))
    return written


def _instance_blocks(
    source: FinishedRun, config: RunConfig, pool: list[AcceptedInstruction]
) -> Iterator[tuple[list[InstanceRow], int]]:
    """Instance rows for the pool, block by block, and how many of each are stored ones.

    The others are of instructions that no model was asked about. Both pools are in the order of
    the candidates, so one pass over the stored rows is enough.
    """
    ids = {instruction.id for instruction in pool}
    stored = (row for row in source.instance_rows(block_schema(config)) if row["id"] in ids)
    upcoming = next(stored, None)
    excluded = excluded_texts(config, source.sets) if source.sets else None
    size = config.instances.block_size
    for start in range(0, len(pool), size):
        rows: list[InstanceRow] = []
        kept = 0
        for index, instruction in enumerate(pool[start : start + size], start):
            if upcoming is not None and upcoming["id"] == instruction.id:
                rows.append(_decided_anew(config, upcoming, instruction, start // size, excluded))
                kept += 1
                upcoming = next(stored, None)
            else:
                rows.append(_not_asked(config, instruction, start // size, index, excluded))
        yield rows, kept
    assert upcoming is None, "instances of a kept instruction were lost"


def _decided_anew(
    config: RunConfig,
    row: InstanceRow,
    instruction: AcceptedInstruction,
    block: int,
    excluded: ExcludedTexts | None,
) -> InstanceRow:
    """A stored row in its new block: evaluation sets go by the new threshold."""
    decided: Any = decided_columns(config, instruction, row, excluded)
    return {**row, "block": block, **decided}


def _not_asked(
    config: RunConfig,
    instruction: AcceptedInstruction,
    block: int,
    place: int,
    excluded: ExcludedTexts | None,
) -> InstanceRow:
    """A row for an instruction newly accepted: with the instance that came with it, or none."""
    is_known = is_class_known(config, instruction)
    return instance_row(
        config,
        instruction,
        block,
        instance_seed(config.seed, place),
        Classified(is_known and instruction.classification_prompt),
        None,
        excluded,
    )
