"""Whole numbers counted exactly in a stream, and the histograms drawn of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ray_si.report.numbers import Bin, ScoreSummary, Summary

_MOST_BINS = 30
_SHOWN = 0.99
"""Share of values that a histogram's bins spread over; the last bin takes what lies beyond."""


class Distribution:
    """How often each whole number was seen."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, values: Sequence[int] | np.ndarray) -> None:
        """Count these."""
        lengths, counts = np.unique(np.asarray(values, np.int64), return_counts=True)
        for value, count in zip(lengths.tolist(), counts.tolist(), strict=True):
            self._counts[value] += count

    def summary(self) -> Summary:
        """What there is to say in six numbers."""
        values, counts = self._sorted()
        if not len(values):
            return {
                "count": 0,
                "mean": None,
                "least": None,
                "median": None,
                "p95": None,
                "most": None,
            }
        total = int(counts.sum())
        return {
            "count": total,
            "mean": round(int((values * counts).sum()) / total, 2),
            "least": int(values[0]),
            "median": self._quantile(0.5),
            "p95": self._quantile(0.95),
            "most": int(values[-1]),
        }

    def histogram(self) -> list[Bin]:
        """Bins of equal width; ``to`` is inclusive, and None in that of all beyond."""
        values, counts = self._sorted()
        if not len(values):
            return []
        first, top = int(values[0]), self._quantile(_SHOWN)
        width = _width(top - first + 1)
        first -= first % width
        edges = list(range(first, top + 1, width))
        place = np.minimum((values - first) // width, len(edges))
        sums = np.bincount(place, weights=counts, minlength=len(edges) + 1).astype(int).tolist()
        bins: list[Bin] = [
            {"from": edge, "to": edge + width - 1, "count": count}
            for edge, count in zip(edges, sums, strict=False)
        ]
        if sums[-1]:
            bins.append({"from": edges[-1] + width, "to": None, "count": sums[-1]})
        return bins

    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        pairs = sorted(self._counts.items())
        array = np.array(pairs, np.int64).reshape(-1, 2)
        return array[:, 0], array[:, 1]

    def _quantile(self, share: float) -> int:
        """The least value that at least this share of all do not exceed."""
        values, counts = self._sorted()
        reached = np.cumsum(counts)
        return int(values[np.searchsorted(reached, share * reached[-1], side="left")])


class Scores:
    """Scores from 0 to 1, counted in bins and summed."""

    def __init__(self, bins: int = 20) -> None:
        self._counts = np.zeros(bins, np.int64)
        self._units = 0

    def add(self, scores: np.ndarray) -> None:
        """Count these, float64."""
        bins = len(self._counts)
        # an edge belongs to the bin above it, however its score was rounded
        place = np.minimum((scores * bins + 1e-9).astype(np.int64), bins - 1)
        self._counts += np.bincount(place, minlength=bins)
        self._units += int(np.rint(scores * 1e9).astype(np.int64).sum())

    def summary(self) -> ScoreSummary:
        """Their mean, and a histogram in which ``to`` is exclusive, but for the last bin's."""
        bins, total = len(self._counts), int(self._counts.sum())
        return {
            "count": total,
            "mean": round(self._units / total / 1e9, 4) if total else None,
            "histogram": [
                {"from": round(k / bins, 4), "to": round((k + 1) / bins, 4), "count": count}
                for k, count in enumerate(self._counts.tolist())
            ],
        }


def _width(span: int) -> int:
    """The least of 1, 2, 5, 10, 20, 50 ... that covers a span with few bins."""
    scale = 1
    while True:
        for step in (1, 2, 5):
            if step * scale * _MOST_BINS >= span:
                return step * scale
        scale *= 10
