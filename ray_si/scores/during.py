"""How many rows hold a condition while their run is still being built."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ray_si.config import RunConfig
from ray_si.config.scores import scores_of
from ray_si.errors import ConfigError
from ray_si.scores import registry
from ray_si.scores.base import RowScorer
from ray_si.scores.expression import Expression

SCORES = ("length", "logprob", "checks")
"""Kinds of score, at their default settings: those that cost nothing and need no model."""

_FLAG = "is_classification"


@dataclass(frozen=True)
class Passing:
    """Counts the rows of instance blocks that hold the condition of ``select.during``."""

    by: Expression
    scorers: dict[str, RowScorer]

    @classmethod
    def of(cls, config: RunConfig) -> Passing | None:
        """None where the configuration has no such condition; ConfigError for one without sense."""
        during = config.select.during
        if during is None:
            return None
        try:
            by = Expression.parse(during.by, [*SCORES, _FLAG])
        except ConfigError as error:
            raise ConfigError(f"select.during.by: {error}") from error
        if "logprob" in by.names and config.instances.method != "steps":
            raise ConfigError(
                "select.during.by: logprob is that of an answer asked apart: set instances.method "
                "to steps"
            )
        scorers = {}
        for name in by.names:
            if name != _FLAG:
                scorer = registry.create(scores_of({name: {}})[name])
                assert not registry.asks_a_model(scorer)
                scorers[name] = scorer
        return cls(by, scorers)

    def count(self, block: pa.Table) -> int:
        """Of an instance block, the training rows that hold it."""
        rows = list(_rows(block))
        if not rows:
            return 0
        columns = {_FLAG: np.array([row[_FLAG] for row in rows], np.float64)}
        for name, scorer in self.scorers.items():
            values = [given.value for given in scorer.score(rows)]
            columns[name] = np.array(values, np.float64)  # None becomes NaN
        held = self.by.values(columns)
        return int((np.nan_to_num(held) != 0).sum())


def _rows(block: pa.Table) -> Iterator[dict[str, Any]]:
    """The training rows that a block makes, as far as `SCORES` look at them."""
    for row in block.to_pylist():
        chosen = [answer for answer in row.get("answers", ()) if answer["is_chosen"]]
        for place, instance in enumerate(row["instances"]):
            logprob = chosen[place]["mean_logprob"] if chosen else None
            shared = {name: row[name] for name in ("instruction", _FLAG)}
            yield {**shared, **instance, "output_logprob": logprob}
