"""The bounds hold for every pair of rows, whatever the rotation was fitted to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from ray_si.dedup.cosine import codes
from ray_si.dedup.cosine.scalar import LONGEST, exact_cosines, normalized
from tests.dedup.cosine.test_index import KINDS, random_rows


@pytest.mark.parametrize("fitted_to", ["random", "one direction", "equal"])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), dimension=st.sampled_from([1, 5, 64, 100, 384]))
def test_no_cosine_is_above_its_bounds(fitted_to, kind, seed, dimension):
    rng = np.random.default_rng(seed)
    rotation = codes.fit(normalized(random_rows(rng, 70, dimension, fitted_to)))
    rows = normalized(random_rows(rng, 60, dimension, kind))
    coarse, biases = codes.encode_rows(rotation, rows)
    queries = codes.encode_queries(rotation, rows)
    fine = codes.Fine(
        np.empty(rows.shape, np.int8), np.empty(60, np.float32), np.empty(60, np.float32)
    )
    codes.encode_fine(rows, fine)
    sums = queries.codes.astype(np.int64) @ coarse.T.astype(np.int64) + biases
    rounding = 2 * dimension * 2.0**-24 + codes.SLACK
    for i, row in enumerate(rows):
        cosines = exact_cosines(row, rows)
        below = np.nextafter(cosines, -2)  # every cosine is above that threshold
        alone = codes.Queries(np.tile(queries.codes[i], (60, 1)), np.full(60, queries.margins[i]))
        assert (sums[i] > codes.limits(alone, below, rotation.step)).all()
        for j in range(60):
            product = float(fine.steps[j]) * float(codes.fine_product(row, fine.codes[j]))
            assert product + LONGEST * float(fine.errors[j]) + rounding >= cosines[j]


def test_directions_are_orthonormal_though_all_rows_are_equal_or_zero():
    for rows in (np.zeros((10, 80)), np.ones((10, 80)), np.eye(3, 80)):
        directions = codes.fit(normalized(rows)).directions
        assert np.abs(directions @ directions.T - np.eye(64)).max() < 1e-12


def test_codes_let_few_pairs_pass_where_the_rows_have_a_spectrum():
    rng = np.random.default_rng(0)
    rows = normalized(rng.normal(size=(3000, 384)) * (5.0 + np.arange(384)) ** -0.7)
    rotation = codes.fit(rows)
    coarse, biases = codes.encode_rows(rotation, rows)
    queries = codes.encode_queries(rotation, rows)
    limits = codes.limits(queries, np.full(3000, 0.9), rotation.step)
    sums = queries.codes.astype(np.float32) @ coarse.T.astype(np.float32) + biases
    assert (sums > limits[:, None]).mean() < 2e-3
