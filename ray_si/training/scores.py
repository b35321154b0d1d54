"""How right answers are: ROUGE-L and exact match, with bootstrap confidence intervals."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Estimate:
    """A mean in percent; ``low`` and ``high`` bound its interval, None where there is just one."""

    mean: float
    low: float | None
    high: float | None

    def as_dict(self) -> dict[str, float | None]:
        """Rounded to hundredths of a percent."""
        values = {"mean": self.mean, "low": self.low, "high": self.high}
        return {name: None if v is None else round(v, 2) for name, v in values.items()}


def rouge_l(answer: str, references: Sequence[str]) -> float:
    """The best ROUGE-L F with any reference, by `rouge_score` with its stemmer.

    As in Super-NaturalInstructions' own evaluation. Its tokens are runs of a-z and 0-9, so answers
    in other scripts score 0.
    """
    return float(_scorer().score_multi(list(references), answer)["rougeL"].fmeasure)


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 if the answer equals a reference but for case, punctuation and spacing, else 0."""
    return float(_normal(answer) in {_normal(reference) for reference in references})


def estimate(
    scores: Sequence[float], tasks: Sequence[str], *, resamples: int, confidence: float, seed: int
) -> Estimate:
    """The mean over instances, in percent, with a percentile bootstrap interval.

    Whole tasks are resampled with replacement (a cluster bootstrap: instances of one task go
    together), or the instances where all are of one task. ``scores`` and ``tasks`` have the same
    length, at least 1. Differences of two models on the same instances go in as ``scores`` for a
    paired comparison.
    """
    from scipy.stats import bootstrap

    values = np.asarray(scores, dtype=float)
    sums, counts = _clusters(values, tasks)
    mean = 100 * float(values.mean())
    if len(sums) < 2:
        return Estimate(mean, None, None)

    def ratio(total: np.ndarray, count: np.ndarray, axis: int = -1) -> np.ndarray:
        means: np.ndarray = total.sum(axis=axis) / count.sum(axis=axis)
        return means

    result = bootstrap(
        (sums, counts),
        ratio,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        batch=max(1, 4_000_000 // len(sums)),
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return Estimate(mean, 100 * float(low), 100 * float(high))


def resampled(tasks: Sequence[str]) -> str:
    """What `estimate` resamples: "tasks" or "instances"."""
    return "tasks" if len(set(tasks)) > 1 else "instances"


def _clusters(values: np.ndarray, tasks: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of each cluster."""
    if resampled(tasks) == "instances":
        return values, np.ones(len(values))
    _, inverse = np.unique(np.asarray(tasks), return_inverse=True)
    return np.bincount(inverse, values), np.bincount(inverse).astype(float)


def _normal(text: str) -> str:
    return " ".join(text.lower().translate(_PUNCTUATION).split())


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)
