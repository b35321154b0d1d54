"""Kind of score -> what computes it, imported only when it is asked for."""

from __future__ import annotations

import importlib

from ray_si.config.scores import ScoreSection
from ray_si.scores.base import RowScorer

SCORERS = {
    "length": "ray_si.scores.kinds.length:Length",
    "checks": "ray_si.scores.checks.scorer:Checks",
    "function": "ray_si.scores.kinds.function:Function",
}
"""Kind -> module:class, made from the kind's settings."""


def create(settings: ScoreSection) -> RowScorer:
    """The scorer of these settings, which are one of `ray_si.config.scores.KINDS`.

    Raises ConfigError or EngineError where it cannot work here.
    """
    module, _, name = SCORERS[settings.kind].partition(":")
    scorer: RowScorer = getattr(importlib.import_module(module), name)(settings)
    return scorer
