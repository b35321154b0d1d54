"""A score by the user's own function."""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ray_si.config.scores import FunctionScore
from ray_si.errors import ConfigError, one_line
from ray_si.scores.base import Row, Scored


class Function:
    """Calls ``module:function`` with rows; what it raises is a ConfigError that names it."""

    version = 1
    columns = ("id", "instruction", "input", "output", "is_classification", "instruction_id")

    def __init__(self, settings: FunctionScore) -> None:
        self._path = settings.path
        self._call = _load(settings.path)

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        """See `RowScorer`; a None or NaN leaves the row unscored."""
        try:
            values = list(self._call([dict(row) for row in rows]))
            numbers = [None if value is None else float(value) for value in values]
        except Exception as error:  # whatever a user's code raises, it is theirs to mend
            raise ConfigError(
                f"{self._path} failed with {type(error).__name__}: {one_line(error)}"
            ) from error
        if len(numbers) != len(rows):
            raise ConfigError(
                f"{self._path} returned {len(numbers)} values for {len(rows)} rows; it takes a "
                "list of rows and returns a number or None for each"
            )
        return [
            Scored(None, "no_value") if value is None or math.isnan(value) else Scored(value)
            for value in numbers
        ]


def _load(path: str) -> Callable[[list[dict[str, Any]]], Sequence[Any]]:
    module, _, name = path.partition(":")
    if os.getcwd() not in sys.path:  # as `python -m` has it
        sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{path} is not there: {one_line(error)}") from error
    if not callable(function):
        raise ConfigError(f"{path} is no function")
    loaded: Callable[[list[dict[str, Any]]], Sequence[Any]] = function
    return loaded
