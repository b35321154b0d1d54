"""The contract between a score and what has rows scored."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ray_si.config import Generator
from ray_si.engines.base import Completion, Request

Row = Mapping[str, Any]
"""A training row, as far as a score asks for its columns."""


class Scored(NamedTuple):
    """What a row is given: a ``value``, or the ``reason`` why it has none.

    ``detail`` says how the value came about, where there is more to say.
    """

    value: float | None
    reason: str | None = None
    detail: str | None = None


Ask = Callable[[Request], Awaitable[Completion]]

FAILED = "engine_error"
"""Reason of a row whose request failed for good; a later call asks it again."""

NOT_FINITE = "not_finite"
"""Reason of a row whose value is infinite, or no number: such a one is not stored."""


class Scorer(Protocol):
    """What every score has.

    ``columns`` are those of training rows, and `ray_si.scores.answers.OTHERS`, that it reads;
    ``version`` counts changes of the code that change values.
    """

    @property
    def columns(self) -> tuple[str, ...]: ...

    @property
    def version(self) -> int: ...


class AskingScorer(Scorer, Protocol):
    """A score that a model gives, one row at a time; ``generator`` says which, and its hosting.

    ``inputs`` is what values depend on besides the settings: prompts, say.
    """

    @property
    def generator(self) -> Generator: ...

    @property
    def inputs(self) -> dict[str, str]: ...

    def trial(self) -> list[Request]:
        """Requests of the kinds that it makes, for an engine to be tried with."""

    async def score(self, row: Row, ask: Ask) -> Scored:
        """What one row, with its id, is given. Called concurrently."""


class RowScorer(Scorer, Protocol):
    """A score that is computed where this runs, from the rows alone."""

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        """One for each row, in order."""
