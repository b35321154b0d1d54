"""Training rows with scores among their columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from ray_si.export.training_lines import Source
from ray_si.run.run import Run
from ray_si.scores.stored import StoredScores, Values


class ScoredSource(Source):
    """A finished run's rows, each with these scores, null where it has none.

    Raises ConfigError where there is no such score.
    """

    def __init__(self, run: Run, scores: StoredScores, names: Sequence[str]) -> None:
        super().__init__(run)
        self._scores = {name: scores.table(name) for name in names}

    @property
    def schema(self) -> pa.Schema:
        """Of the rows, the scores last."""
        further = [pa.field(name, pa.float64()) for name in self._scores]
        return pa.schema([*super().schema, *further])

    def tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The rows, a shard at a time."""
        scores = {name: Values(table) for name, table in self._scores.items()}
        stored = [name for name in columns if name not in scores]
        for table in super().tables(list(dict.fromkeys([*stored, "id"]))):
            joined = table
            for name, score in scores.items():
                values = score.of(table["id"])
                joined = joined.append_column(
                    name, pa.array(values, pa.float64(), mask=np.isnan(values))
                )
            yield joined.select(list(columns))
