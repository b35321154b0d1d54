"""The values of a score, looked up by the ids of one table of rows after another."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import given, strategies as st

from ray_si.scores.stored import Values


def ids(numbers):
    return pa.chunked_array([[f"r{number}" for number in numbers]], pa.string())


def score(rows):
    """Of rows by number, each of which has that as value, in blocks."""
    parts = [range(start, min(start + 7, rows)) for start in range(0, rows, 7)]
    chunks = [chunk for part in parts for chunk in ids(part).chunks]
    columns = [pa.chunked_array(chunks, pa.string()), pa.array(range(rows), pa.float64())]
    return pa.table(columns, ["id", "value"])


@given(st.lists(st.lists(st.integers(0, 40), max_size=9)), st.integers(0, 30))
def test_rows_are_found_in_any_order_and_others_have_no_value(tables, rows):
    values = Values(score(rows))
    for numbers in tables:
        expected = [number if number < rows else np.nan for number in numbers]
        np.testing.assert_array_equal(values.of(ids(numbers)), np.array(expected, float))


def test_rows_in_the_order_of_the_score_are_looked_for_near_the_last_ones(monkeypatch):
    searched, index_in = [], pc.index_in

    def counted(values, value_set):
        searched.append(len(value_set))
        return index_in(values, value_set=value_set)

    monkeypatch.setattr(pc, "index_in", counted)
    rows, table = 10_000, score(10_000)
    for step in (1, 3):  # all of them, and a selection
        values = Values(table)
        for start in range(0, rows, 100 * step):
            numbers = range(start, min(start + 100 * step, rows), step)
            assert values.of(ids(numbers)).tolist() == list(numbers)
    assert sum(searched) < 4 * rows
