"""Decisions on vectors of kinds that bounds of cosines could get wrong, held against an oracle.

The oracle is NumPy alone, one sum after the other in double precision: slow, and independent of
what it judges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

KINDS = ("random", "clustered", "equal", "near equal", "sign-flipped", "one direction", "outliers",
         "tiny")  # fmt: skip
DIMENSIONS = (1, 3, 16, 64, 70, 130)


def vectors(rng: np.random.Generator, n: int, dimension: int, kind: str) -> np.ndarray:
    """Vectors of any length, float32, shape (n, dimension); one in 50 is zero."""
    rows = rng.normal(size=(n, dimension))
    if kind == "clustered":
        rows = rows[rng.integers(max(1, n // 8), size=n)] + 0.15 * rng.uniform(0, 3, (n, 1)) * rows
    elif kind == "equal":
        rows[:] = rows[0]
    elif kind == "near equal":
        rows = rows[0] + 1e-7 * rows
    elif kind == "sign-flipped":
        rows = rows[rng.integers(3, size=n)] * rng.choice([-1, 1], size=(n, 1))
    elif kind == "one direction":
        rows = np.eye(dimension)[rng.integers(dimension, size=n)] + 1e-3 * rows
    elif kind == "outliers":
        rows[:, 0] *= 1000
        rows[n // 2 :, -1] *= 1000
    elif kind == "tiny":
        rows *= 1e-42
    rows[rng.random(n) < 0.02] = 0
    return rows.astype(np.float32)


def normalized(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1 as the index scales them, float32; those within 1e-6 stay."""
    doubles = rows.astype(np.float64)
    lengths = np.sqrt(np.cumsum(doubles * doubles, axis=1)[:, -1])
    lengths[(lengths == 0) | (np.abs(lengths - 1) < 1e-6)] = 1
    return (doubles / lengths[:, None]).astype(np.float32)


def cosines(pool: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """All cosines of normalized rows, shape (queries, pool)."""
    left, right = queries.astype(np.float64), pool.astype(np.float64)
    totals = np.zeros((len(left), len(right)))
    for k in range(pool.shape[1]):
        totals += left[:, k, None] * right[None, :, k]
    return np.clip(totals, -1, 1)


def fuzz(
    decisions: int, make: Callable[[int], Any], dimensions: Sequence[int] = DIMENSIONS
) -> dict[str, Any]:
    """Random indexes against the oracle; how many decisions, how many differ.

    ``make`` takes a dimension and gives an empty index.
    """
    rng = np.random.default_rng(0)
    done = different = above = at_threshold = indexes = 0
    while done < decisions:
        kind, dimension = KINDS[indexes % len(KINDS)], int(rng.choice(dimensions))
        size = int(rng.integers(1, 400))
        rows = vectors(rng, size + 1000, dimension, kind)
        exact = cosines(normalized(rows[:size]), normalized(rows[size:]))
        threshold = float(rng.choice([1e-6, 0.3, 0.7, 0.9, 0.99, 1.0]))
        own = float(exact[rng.integers(1000), rng.integers(size)])
        if rng.random() < 0.5 and 0 < own <= 1:
            threshold = own
        index = make(dimension)
        for part in np.array_split(rows[:size], rng.integers(1, 6)):
            index.add(part)
        scores, ids = index.search(rows[size:], threshold)
        best = exact.argmax(axis=1)
        highest = exact[np.arange(1000), best]
        expected = np.where(highest > threshold, best, -1)
        wrong = (ids != expected) | ((ids >= 0) & (scores != highest))
        different += int(wrong.sum())
        above += int((expected >= 0).sum())
        at_threshold += int((highest == threshold).sum())
        done, indexes = done + 1000, indexes + 1
    return {
        "indexes": indexes,
        "decisions": done,
        "above_the_threshold": above,
        "exactly_at_the_threshold": at_threshold,
        "different": different,
    }
