"""What a run's scores say, for a page: distributions, thresholds, extremes, and how they agree."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import pyarrow as pa

from ray_si.export.training_lines import Source
from ray_si.run.run import Run
from ray_si.scores.selection import ranks
from ray_si.scores.stored import StoredScores

EXTREMES = 20
"""Rows shown of either end of a score."""

_BINS = 20
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
_LONGEST = 600
"""Characters of a text that are shown."""

_TEXTS = ("instruction", "input", "output")


class Threshold(TypedDict):
    """``kept`` rows have a value of at least ``at``."""

    at: float
    kept: int


class ScoreBin(TypedDict):
    """``count`` values from ``start`` to ``end``, which belongs to the last bin only."""

    start: float
    end: float
    count: int


class ScoredRow(TypedDict):
    """A row with its value; texts are cut."""

    id: str
    value: float
    instruction: str
    input: str
    output: str


class ScoreOverview(TypedDict):
    """One score: rows with and without it, and the values; the rest is empty where there is none.

    ``best`` are the rows with the highest values, ``worst`` those with the lowest, at most
    `EXTREMES` each and from either end inwards.
    """

    name: str
    kind: str
    model: str | None
    rows: int
    scored: int
    unscored: dict[str, int]
    mean: float | None
    histogram: list[ScoreBin]
    thresholds: list[Threshold]
    best: list[ScoredRow]
    worst: list[ScoredRow]


class ScoresOverview(TypedDict):
    """All scores of a run's rows; ``agreement`` is their Spearman correlation by pair, in order.

    None stands for what cannot be said: of a score that is the same for all rows, say.
    """

    scores: list[ScoreOverview]
    agreement: list[list[float | None]]


def overview(run: Run, scores_at: str | None = None) -> ScoresOverview | None:
    """Of a finished run; None where nothing is scored. Memory grows with rows times scores."""
    stored = StoredScores(run, scores_at)
    if not stored.names:
        return None
    source = Source(run)
    ids = pa.concat_tables(source.tables(["id"]))["id"]
    values = {name: stored.values(name, ids) for name in stored.names}
    ends = {name: _ends(column) for name, column in values.items()}
    texts = _texts(source, sorted({row for both in ends.values() for end in both for row in end}))
    scores: list[ScoreOverview] = []
    for name, column in values.items():
        manifest = stored.find(name).manifest
        known = column[~np.isnan(column)]
        best, worst = ([_scored_row(column[row], texts[row]) for row in end] for end in ends[name])
        scores.append(
            {
                "name": name,
                "kind": manifest["identity"]["kind"],
                "model": manifest["identity"].get("model", {}).get("model"),
                "rows": len(column),
                "scored": len(known),
                "unscored": manifest["unscored"],
                "mean": _rounded(known.mean()) if len(known) else None,
                "histogram": _histogram(known),
                "thresholds": _thresholds(known),
                "best": best,
                "worst": worst,
            }
        )
    columns = list(values.values())
    agreement = [[spearman(one, other) for other in columns] for one in columns]
    return {"scores": scores, "agreement": agreement}


def spearman(one: np.ndarray, other: np.ndarray) -> float | None:
    """Spearman's rank correlation over rows that have both values; None where one is constant."""
    both = ~(np.isnan(one) | np.isnan(other))
    first, second = ranks(one[both]), ranks(other[both])
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return round(float(np.corrcoef(first, second)[0, 1]), 4)


def _scored_row(value: float, texts: dict[str, str]) -> ScoredRow:
    cut = {name: _cut(texts[name]) for name in _TEXTS}
    return {
        "id": texts["id"],
        "value": _rounded(value),
        "instruction": cut["instruction"],
        "input": cut["input"],
        "output": cut["output"],
    }


def _ends(column: np.ndarray) -> tuple[list[int], list[int]]:
    """Row numbers of the highest and the lowest values, no row in both."""
    known = np.flatnonzero(~np.isnan(column))
    order = known[np.argsort(column[known], kind="stable")]
    most = min(EXTREMES, (len(order) + 1) // 2)
    return order[::-1][:most].tolist(), order[: min(most, len(order) - most)].tolist()


def _texts(source: Source, rows: list[int]) -> dict[int, dict[str, str]]:
    """Row number -> id and texts."""
    texts: dict[int, dict[str, str]] = {}
    before = 0
    wanted = np.array(rows, np.int64)
    for table in source.tables(["id", *_TEXTS]):
        first, last = np.searchsorted(wanted, [before, before + table.num_rows])
        here = wanted[first:last]
        taken = table.take(pa.array(here - before)).to_pylist()
        texts |= zip(here.tolist(), taken, strict=True)
        before += table.num_rows
    return texts


def _histogram(known: np.ndarray) -> list[ScoreBin]:
    """Bins of equal width over the values, but for the last percent of either end."""
    if not len(known):
        return []
    low, high = np.quantile(known, [0.01, 0.99])
    if low == high:
        low, high = float(known.min()), float(known.max())
    counts, edges = np.histogram(np.clip(known, low, high), _BINS, (low, high))
    return [
        {"start": _rounded(start), "end": _rounded(end), "count": int(count)}
        for start, end, count in zip(edges, edges[1:], counts, strict=False)
    ]


def _thresholds(known: np.ndarray) -> list[Threshold]:
    """What some round shares of the rows would take."""
    if not len(known):
        return []
    values = np.unique(np.quantile(known, _QUANTILES, method="higher"))
    return [{"at": _rounded(at), "kept": int((known >= at).sum())} for at in values]


def _rounded(value: float) -> float:
    """To six significant digits: what a page shows."""
    return float(f"{value:.6g}")


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
