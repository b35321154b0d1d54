"""How likely the output was to the model that wrote it."""

from __future__ import annotations

from collections.abc import Sequence

from ray_si.config.scores import LogprobScore
from ray_si.scores.base import Row, Scored


class Logprob:
    """The mean log-probability of the output's tokens, as stored while it was written."""

    version = 1
    columns = ("output_logprob",)

    def __init__(self, settings: LogprobScore) -> None:
        pass

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        """See `RowScorer`."""
        values = [row["output_logprob"] for row in rows]
        return [Scored(None, "not_stored") if value is None else Scored(value) for value in values]
