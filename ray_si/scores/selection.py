"""Which rows a selection takes: what passes a condition, the best of it, and a random control."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ray_si.dedup import CosineIndex
from ray_si.dedup.clusters import cluster
from ray_si.errors import ConfigError, RunError
from ray_si.export.shuffle import row_numbers
from ray_si.scores.expression import Columns, Expression

_BATCH = 512
"""Candidates that are compared with what is chosen at a time."""

Embeddings = Callable[[np.ndarray], np.ndarray]
"""Row numbers -> their normalized embeddings, float32, shape (n, dimension)."""


@dataclass(frozen=True)
class Criteria:
    """What is asked of the rows.

    ``by`` is the condition; ``top`` how many of those that hold it to take, all without. They are
    taken by ``rank``, higher is better; without it by the mean of the rows' ranks in each score of
    ``by``. ``per_cluster`` takes as many from each cluster of embeddings as there are; ``diverse``
    passes over rows whose cosine with a better one exceeds it (DEITA, arXiv 2312.15685). ``seed``
    is of the random control, of ties and of the clusters.
    """

    by: Expression | None = None
    top: int | None = None
    rank: Expression | None = None
    per_cluster: bool = False
    diverse: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ConfigError for what cannot be meant."""
        if self.by is None and self.rank is None:
            raise ConfigError("give --by, a condition over scores, or --rank with --top")
        if self.top is not None and self.top < 1:
            raise ConfigError(f"--top must be at least 1, not {self.top}")
        if self.top is None:
            for name, value in (("rank", self.rank), ("per-cluster", self.per_cluster)):
                if value:
                    raise ConfigError(f"--{name} says which rows --top takes: give --top, too")
        if self.diverse is not None and not 0 < self.diverse <= 1:
            raise ConfigError(f"--diverse is a cosine between 0 and 1, not {self.diverse:g}")
        if self.top is not None and self.rank is None and not (self.by and self.by.names):
            raise ConfigError("--top needs --rank, since --by names no score to rank by")

    @property
    def names(self) -> tuple[str, ...]:
        """The scores that are needed."""
        parts = [part.names for part in (self.by, self.rank) if part]
        return tuple(dict.fromkeys(name for part in parts for name in part))

    @property
    def needs_embeddings(self) -> bool:
        """Whether rows are compared with each other."""
        return self.per_cluster or self.diverse is not None


@dataclass(frozen=True)
class Choice:
    """Numbers of the ``chosen`` rows, best first, and of as many random ones, int64.

    Of all ``rows``, ``passed`` hold the condition; ``unknown`` lack a score without which that, or
    their rank, cannot be said; ``alike`` were passed over for being like a better one.
    """

    chosen: np.ndarray
    control: np.ndarray
    rows: int
    passed: int
    unknown: int
    alike: int


def choose(
    columns: Columns, rows: int, criteria: Criteria, embeddings: Embeddings | None = None
) -> Choice:
    """Choose among the rows by their scores, ``columns`` of shape (rows,).

    Memory grows with the rows, some 50 bytes each, and with the embeddings of those that pass where
    these are needed. The same input gives the same choice. Raises RunError where nothing is left,
    or fewer than ``top``.
    """
    held = np.ones(rows) if criteria.by is None else criteria.by.values(columns)
    unknown = int(np.isnan(held).sum())
    candidates = np.flatnonzero(np.nan_to_num(held) != 0)
    passed = len(candidates)
    text = criteria.by.text if criteria.by else "no condition"
    if not passed:
        lack = f", and {unknown} lack a score that it needs" if unknown else ""
        raise RunError(f"no row of {rows} holds {text!r}{lack}: lower its thresholds")
    alike = 0
    worth = _worth(columns, candidates, criteria)
    if worth is not None:
        unknown += int(np.isnan(worth).sum())
        candidates, worth = candidates[~np.isnan(worth)], worth[~np.isnan(worth)]
        if not len(candidates):
            assert criteria.rank is not None, "scores' ranks are always known"
            raise RunError(
                f"none of the {passed} rows left by {text!r} has a value of {criteria.rank.text!r} "
                "to be ranked by: take another --rank"
            )
        ties = row_numbers(criteria.seed, "ties", 0, rows)[candidates]
        candidates = candidates[np.lexsort((ties, -worth))]
    if criteria.needs_embeddings:
        assert embeddings is not None, "these criteria compare rows"
        vectors = embeddings(candidates)
        order = np.arange(len(candidates))
        if criteria.per_cluster:
            order = _dealt(cluster(vectors, criteria.seed))
        if criteria.diverse is not None:
            kept = _unlike(vectors[order], criteria.diverse, criteria.top or len(order))
            alike = kept.passed_over
            order = order[kept.places]
        candidates = candidates[order]
    if criteria.top is not None and len(candidates) < criteria.top:
        because = f", {alike} of them too like a better one," if alike else ""
        raise RunError(
            f"only {len(candidates)} of {rows} rows are left by {text!r}{because} for --top "
            f"{criteria.top}: lower the thresholds, or take --top {max(len(candidates), 1)}"
        )
    chosen = candidates[: criteria.top]
    drawn = row_numbers(criteria.seed, "control", 0, rows)
    control = np.argpartition(drawn, len(chosen) - 1)[: len(chosen)]
    return Choice(chosen, np.sort(control), rows, passed, unknown, alike)


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, the lowest, to n; of equals the mean of theirs; NaN where there is no value."""
    ranked = np.full(len(values), np.nan)
    known = ~np.isnan(values)
    _, inverse, counts = np.unique(values[known], return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranked[known] = (last - (counts - 1) / 2)[inverse]
    return ranked


def _worth(columns: Columns, candidates: np.ndarray, criteria: Criteria) -> np.ndarray | None:
    """What the candidates are ranked by; None where no order is asked for."""
    if criteria.rank is not None:
        worth: np.ndarray = criteria.rank.values(columns)[candidates]
        return worth
    if criteria.by is None or not criteria.by.names:
        return None
    ranked = [np.nan_to_num(ranks(columns[name][candidates])) for name in criteria.by.names]
    mean: np.ndarray = np.mean(ranked, axis=0)
    return mean


def _dealt(clusters: np.ndarray) -> np.ndarray:
    """Places in an order that takes the first of every cluster, then the second, and so on."""
    turn = np.empty(len(clusters), np.int64)
    order = np.argsort(clusters, kind="stable")
    _, starts, counts = np.unique(clusters[order], return_index=True, return_counts=True)
    turn[order] = np.arange(len(clusters)) - np.repeat(starts, counts)
    return np.argsort(turn, kind="stable")


@dataclass(frozen=True)
class _Unlike:
    places: np.ndarray
    passed_over: int


def _unlike(vectors: np.ndarray, limit: float, most: int) -> _Unlike:
    """Places of the first vectors whose cosine with each one taken before is at most ``limit``.

    As taking them one by one; stops once ``most`` are taken.
    """
    index = CosineIndex(vectors.shape[1], limit)
    taken: list[int] = []
    passed_over = 0
    for start in range(0, len(vectors), _BATCH):
        part = vectors[start : start + _BATCH]
        free = index.search(part)[1] < 0
        cosines = part @ part.T
        kept: list[int] = []
        for k in range(len(part)):
            if free[k] and not (cosines[k, kept] > limit).any():
                kept.append(k)
                if len(taken) + len(kept) == most:
                    passed_over += k + 1 - len(kept)
                    return _Unlike(np.array([*taken, *(start + k for k in kept)]), passed_over)
        passed_over += len(part) - len(kept)
        taken += [start + k for k in kept]
        index.add(part[kept])
    return _Unlike(np.array(taken, np.int64), passed_over)
