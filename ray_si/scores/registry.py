"""Kind of score -> what computes it, imported only when it is asked for."""

from __future__ import annotations

import importlib

from typing_extensions import TypeIs

from ray_si.config.scores import ScoreSection
from ray_si.scores.base import AskingScorer, RowScorer

SCORERS = {
    "length": "ray_si.scores.kinds.length:Length",
    "logprob": "ray_si.scores.kinds.logprob:Logprob",
    "agreement": "ray_si.scores.kinds.agreement:Agreement",
    "checks": "ray_si.scores.checks.scorer:Checks",
    "function": "ray_si.scores.kinds.function:Function",
    "ifd": "ray_si.scores.kinds.ifd:Ifd",
    "judge": "ray_si.scores.kinds.judge:Judge",
    "reward": "ray_si.scores.kinds.reward:Reward",
}
"""Kind -> module:class, made from the kind's settings."""


def create(settings: ScoreSection) -> RowScorer | AskingScorer:
    """The scorer of these settings, which are one of `ray_si.config.scores.KINDS`.

    Raises ConfigError or EngineError where it cannot work here.
    """
    module, _, name = SCORERS[settings.kind].partition(":")
    scorer: RowScorer | AskingScorer = getattr(importlib.import_module(module), name)(settings)
    return scorer


def asks_a_model(scorer: RowScorer | AskingScorer) -> TypeIs[AskingScorer]:
    """Whether a scorer asks a model, and so needs Ray."""
    return hasattr(scorer, "generator")
