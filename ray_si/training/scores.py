"""How right answers are: ROUGE-L and exact match, with intervals and tests."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from ray_si.training.tasks import Example

_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Measure:
    """How answers are scored.

    ``titles`` are those of its metrics, by name; the first says which model is better. ``score``
    gives each metric's scores, in [0, 1], of an answer to an example: one, or one for each part of
    what is asked. A metric ``NAME_same_stop`` is another of that name that length has no part in.
    """

    titles: Mapping[str, str]
    score: Callable[[Example, str], Mapping[str, Sequence[float]]]


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


def against_references(tokenizer: Any = None) -> Measure:
    """ROUGE-L and exact match; ``tokenizer`` is for texts in other scripts, see `rouge_l`."""

    def score(example: Example, answer: str) -> dict[str, list[float]]:
        references = example.references
        return {
            "rouge_l": [rouge_l(answer, references, tokenizer)],
            "rouge_l_same_stop": [rouge_l_same_stop(answer, references, tokenizer)],
            "exact_match": [exact_match(answer, references)],
        }

    titles = {
        "rouge_l": "ROUGE-L",
        "rouge_l_same_stop": "ROUGE-L, same stop",
        "exact_match": "exact match",
    }
    return Measure(titles, score)


def rouge_l(answer: str, references: Sequence[str], tokenizer: Any = None) -> float:
    """The best ROUGE-L F with any reference, by `rouge_score` with its stemmer.

    As in Super-NaturalInstructions' own evaluation. Its tokens are runs of a-z and 0-9, so answers
    in other scripts score 0 but for a ``tokenizer`` of `subword_tokens`, which is not stemmed.
    """
    scorer = _scorer(tokenizer)
    return max(float(scorer.score(text, answer)["rougeL"].fmeasure) for text in references)


def rouge_l_same_stop(answer: str, references: Sequence[str], tokenizer: Any = None) -> float:
    """`rouge_l` of an answer that stops after as many words as the reference has.

    All models stop at the same place then, so that none is better for having learned to stop.
    """
    return max(
        rouge_l(" ".join(answer.split()[: len(text.split())]), [text], tokenizer)
        for text in references
    )


def subword_tokens(tokenizer: Any) -> Any:
    """What `rouge_l` takes to score any script: a tokenizer's tokens, without byte-level spaces.

    With GPT-2's, that is the cross-lingual track of Super-NaturalInstructions.
    """
    return _Subwords(tokenizer)


@dataclass(frozen=True)
class _Subwords:
    tokenizer: Any

    def tokenize(self, text: str) -> list[str]:
        """As `rouge_score` calls it."""
        return [token.lstrip("Ġ") for token in self.tokenizer.tokenize(text)]


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 if the answer equals a reference but for case, punctuation and spacing, else 0."""
    return float(_normal(answer) in {_normal(reference) for reference in references})


def estimate(
    scores: Sequence[float],
    tasks: Sequence[str],
    *,
    resamples: int,
    confidence: float,
    seed: int,
    paired: bool = False,
) -> Estimate:
    """The mean over instances, in percent, with an interval.

    ``scores`` and ``tasks`` have the same length, at least 1; scores lie in [0, 1], or with
    ``paired`` are differences of two models' on the same instances, in [-1, 1].

    Where each task has one instance and all scores are 0 or 1, the interval is that of Clopper and
    Pearson (1934). Else whole tasks are resampled with replacement (a percentile bootstrap of
    clusters: instances of one task go together), or the instances where all are of one task. A
    bootstrap of equal scores says nothing: where all are 0, 1 or without difference, the interval
    is again the exact one, over tasks, which bounds the mean of any such scores.
    """
    from scipy.stats import bootstrap

    values = np.asarray(scores, dtype=float)
    sums, counts = _clusters(values, tasks)
    mean = 100 * float(values.mean())
    if len(sums) < 2:
        return Estimate(mean, None, None)
    if paired and not values.any():
        _, high = _exact(0, len(sums), confidence)
        return Estimate(0.0, -high, high)
    is_binary = not paired and bool(np.isin(values, (0.0, 1.0)).all())
    if is_binary and (counts.max() == 1 or values.min() == values.max()):
        right = round(float(values.mean()) * len(sums))
        return Estimate(mean, *_exact(right, len(sums), confidence))

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


def paired_p(
    differences: Sequence[float], tasks: Sequence[str], *, resamples: int, seed: int
) -> float | None:
    """Two-sided p-value of two models being equally good, None for a single task.

    A permutation test: signs of whole tasks' differences (of instances, where all are of one task)
    are flipped, all combinations where they are no more than ``resamples``, else that many drawn.
    """
    from scipy.stats import permutation_test

    sums, _ = _clusters(np.asarray(differences, dtype=float), tasks)
    if len(sums) < 2:
        return None
    sums = sums[sums != 0]  # others are the same either way
    if len(sums) < 2:  # with one, either sign is as large
        return 1.0
    result = permutation_test(
        (sums,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, 4_000_000 // len(sums)),
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def _exact(right: int, of: int, confidence: float) -> tuple[float, float]:
    """The interval of Clopper and Pearson for a share, in percent."""
    from scipy.stats import binomtest

    interval = binomtest(right, of).proportion_ci(confidence, method="exact")
    return 100 * float(interval.low), 100 * float(interval.high)


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
def _scorer(tokenizer: Any) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=tokenizer is None, tokenizer=tokenizer)
