"""The contract between a score and what has rows scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

Row = Mapping[str, Any]
"""A training row, as far as a score asks for its columns."""


class Scored(NamedTuple):
    """What a row is given: a ``value``, or the ``reason`` why it has none.

    ``detail`` says how the value came about, where there is more to say.
    """

    value: float | None
    reason: str | None = None
    detail: str | None = None


class RowScorer(Protocol):
    """A score that is computed from the row alone.

    ``columns`` are those of training rows that it reads; ``version`` counts changes of the code
    that change values.
    """

    @property
    def columns(self) -> tuple[str, ...]: ...

    @property
    def version(self) -> int: ...

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        """One for each row, in order."""
