"""Summaries and histograms are exact, whatever way the values come."""

from __future__ import annotations

import numpy as np
from hypothesis import given, strategies as st

from ray_si.report.distribution import Distribution, Scores


@given(st.lists(st.lists(st.integers(0, 3000)), min_size=1))
def test_summaries_are_exact_however_the_values_come(parts):
    distribution = Distribution()
    for part in parts:
        distribution.add(part)
    values = sorted(value for part in parts for value in part)
    summary = distribution.summary()
    assert summary["count"] == len(values)
    if values:
        assert (summary["least"], summary["most"]) == (values[0], values[-1])
        assert summary["mean"] == round(sum(values) / len(values), 2)
        assert summary["median"] == np.quantile(values, 0.5, method="inverted_cdf")
        assert summary["p95"] == np.quantile(values, 0.95, method="inverted_cdf")


@given(st.lists(st.integers(0, 10**6), min_size=1))
def test_a_histogram_holds_every_value_in_its_bin(values):
    distribution = Distribution()
    distribution.add(values)
    bins = distribution.histogram()
    assert sum(item["count"] for item in bins) == len(values)
    assert len(bins) <= 33
    for item in bins:
        last = item["to"] if item["to"] is not None else max(values)
        assert item["count"] == sum(item["from"] <= value <= last for value in values)


def test_a_score_on_an_edge_belongs_to_the_bin_above():
    scores = Scores()
    scores.add(np.array([0.0, 0.7, 2 * 7 / 20, 1.0, 0.15]))
    counts = {item["from"]: item["count"] for item in scores.summary()["histogram"]}
    assert {edge for edge, count in counts.items() if count} == {0.0, 0.7, 0.95, 0.15}
    assert counts[0.7] == 2
