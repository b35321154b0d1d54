"""A finished run, read with checks: what another gate decides on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from ray_si.errors import RunError
from ray_si.pipeline.decisions import Usable
from ray_si.pipeline.embeddings import InputEmbeddings, candidate_embeddings, compact, inputs_of
from ray_si.run.audit import Audit, Check
from ray_si.run.manifests import named_blocks
from ray_si.run.run import Run, optional_part_key, part_key
from ray_si.run.schemas import (
    ACCEPTED,
    INPUT_EMBEDDINGS,
    RAW_BLOCK,
    REFUSED_EMBEDDINGS,
    InstanceRow,
    RawRow,
    select,
)
from ray_si.run.seeds import seeds_of


class FinishedRun:
    """Everything raises RunError, with the first finding, where the run is damaged.

    ``inputs`` are the embeddings of seed tasks and evaluation sets; None unless everything that
    came to the gate has its embedding stored, too.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._audit = Audit(run)
        for check in (self._audit.check_manifests(), self._audit.check_objects()):
            self._refuse(check)
        self.rounds = len(self._audit.rounds)
        self.seeds = seeds_of(run.read("seeds.parquet"))
        self.sets = run.evaluation_sets()
        self.inputs = self._inputs()

    @property
    def accepted(self) -> int:
        """How many instructions it accepted."""
        return sum(manifest["accepted"] for manifest in self._audit.rounds)

    def blocks(self, round_: int) -> list[str]:
        """Keys of a round's raw blocks, in order."""
        return [
            key for _, key in sorted(named_blocks(self._audit.rounds[round_]["objects"]).items())
        ]

    def raw(self, round_: int) -> list[RawRow]:
        """A round's raw rows by request id."""
        tables = [self._table(key, RAW_BLOCK) for key in self.blocks(round_)]
        rows: list[RawRow] = [row for table in tables for row in table.to_pylist()]
        return sorted(rows, key=lambda row: row["request_id"])

    def embeddings(self, round_: int, usable: Sequence[Usable]) -> np.ndarray | None:
        """The embeddings of a round's candidates, float16.

        None where one has none, say because the run's own filters kept it from the gate.
        """
        key = self._part_key(round_, "embeddings")
        if self.inputs is None or key is None:
            return None
        columns = select(ACCEPTED, ["id", "embedding"])
        accepted = self._table(part_key(self._audit.rounds[round_], "accepted"), columns)
        stored = candidate_embeddings(accepted, self._table(key, REFUSED_EMBEDDINGS))
        if not all(candidate.id in stored for candidate in usable):
            return None
        vectors = [stored[candidate.id] for candidate in usable]
        return compact(np.stack(vectors)) if vectors else np.zeros((0, 0), np.float16)

    def instance_rows(self, schema: pa.Schema) -> Iterator[InstanceRow]:
        """The instance rows, in pool order."""
        for key in self._audit.instance_keys():
            yield from self._table(key, schema).to_pylist()

    def _inputs(self) -> InputEmbeddings | None:
        key = self._part_key(0, "inputs") if self.rounds else None
        if key is None or not all(self._part_key(r, "embeddings") for r in range(self.rounds)):
            return None
        return inputs_of(self._table(key, INPUT_EMBEDDINGS), self.seeds, self.sets)

    def _part_key(self, round_: int, name: str) -> str | None:
        return optional_part_key(self._audit.rounds[round_], name)

    def _table(self, key: str, schema: pa.Schema) -> pa.Table:
        check = Check(key)
        table = self._audit.table(key, schema, check)
        self._refuse(check)
        assert table is not None
        return table

    def _refuse(self, check: Check) -> None:
        if not check.ok:
            raise RunError(
                f"{self.run.location} is damaged ({check.findings[0]}); `ray-si verify` says more"
            )
