"""How many rows hold a condition while their run is still being built."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
import pyarrow as pa

from ray_si.config import RunConfig
from ray_si.config.scores import scores_of
from ray_si.errors import ConfigError
from ray_si.run.checkpoint import CommittedRounds
from ray_si.run.instance_parts import blocks_between
from ray_si.run.manifests import Passed
from ray_si.run.run import Run
from ray_si.scores import registry
from ray_si.scores.base import RowScorer
from ray_si.scores.expression import Expression
from ray_si.storage.reading import read_ahead

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


class EnoughRows:
    """Counts the rows of full instance blocks of what the next round's prompts may show.

    So the count does not depend on how far the instances are. It goes on from where the last of
    ``rounds`` says that it stood. That is before the first block with requests that failed, which a
    resume asks again.
    """

    def __init__(self, config: RunConfig, rounds: CommittedRounds) -> None:
        self._passing, self._during = Passing.of(config), config.select.during
        self._lookahead, self._size = config.bootstrap.lookahead, config.instances.block_size
        self._rounds = rounds
        last = rounds.manifests[-1] if rounds.manifests else None
        start: Passed = {"blocks": 0, "rows": 0}
        self._counted = last.get("passed", start) if last else start
        self._final = self._counted  # the same until a block has requests that failed

    def __bool__(self) -> bool:
        """Whether the configuration has such a condition."""
        return self._passing is not None

    def __str__(self) -> str:
        assert self._during
        rows = self._counted["rows"]
        return f"{rows} rows hold {self._during.by!r}, {self._during.rows} were wanted"

    @property
    def passed(self) -> Passed:
        """What a round's manifest says of them."""
        return self._final

    def are_there(self, blocks: Callable[[int, int], Iterable[pa.Table]]) -> bool:
        """Whether so many rows hold it, with more ``blocks`` from one number to before another."""
        if self._during is None:
            return False
        for block in blocks(self._counted["blocks"], self._last):
            self._count(block)
        return self._counted["rows"] >= self._during.rows

    def stand_in(self, run: Run, check: Callable[[], None] = lambda: None) -> bool:
        """Whether so many do in blocks that stand, none of which is to be written, or asked again.

        Counts those before the first that is. Calls ``check``, which may raise, between them.
        """
        if self._during is None:
            return False
        first, last = self._counted["blocks"], self._last
        stored = blocks_between(run, first, last)
        keys = [stored[block] for block in takewhile(stored.__contains__, range(first, last))]
        for block in read_ahead(run.sound_block, keys):
            check()
            if block is None or block[0].num_rows < self._size:
                return False
            self._count(block[0])
        return self._counted["blocks"] >= last and self._counted["rows"] >= self._during.rows

    def _count(self, block: pa.Table) -> None:
        assert self._passing
        has_errors = "error" in block["finish_reason"].to_pylist()
        is_final = self._final is self._counted and not has_errors
        self._counted = {
            "blocks": self._counted["blocks"] + 1,
            "rows": self._counted["rows"] + self._passing.count(block),
        }
        if is_final:
            self._final = self._counted

    @property
    def _last(self) -> int:
        """The block before which all count."""
        back = max(0, len(self._rounds.manifests) - self._lookahead)
        return self._rounds.accepted_before(back) // self._size


def _rows(block: pa.Table) -> Iterator[dict[str, Any]]:
    """The training rows that a block makes, as far as `SCORES` look at them."""
    for row in block.to_pylist():
        chosen = [answer for answer in row.get("answers", ()) if answer["is_chosen"]]
        for place, instance in enumerate(row["instances"]):
            logprob = chosen[place]["mean_logprob"] if chosen else None
            shared = {name: row[name] for name in ("instruction", _FLAG)}
            yield {**shared, **instance, "output_logprob": logprob}
