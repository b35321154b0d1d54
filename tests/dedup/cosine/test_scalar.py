"""Embeddings scaled to length 1, and their cosines, to the last bit."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from ray_si.dedup.cosine.scalar import LONGEST, cosine, normalized


def test_batches_and_single_rows_are_scaled_to_the_same_bits():
    rows = np.random.default_rng(2).normal(size=(300, 385)).astype(np.float32)
    together = normalized(rows)
    for i in range(300):
        assert np.array_equal(normalized(rows[i : i + 1])[0], together[i])
    assert np.array_equal(normalized(together), together)


def test_rows_of_any_size_get_the_length_one():
    rows = np.random.default_rng(0).normal(size=(50, 40))
    for size in (1e-44, 1e-20, 1, 1e20, 1e37):
        scaled = normalized((rows * size).astype(np.float32)).astype(np.float64)
        lengths = np.linalg.norm(scaled, axis=1)
        assert np.abs(lengths - 1).max() < LONGEST - 1


def test_a_cosine_is_off_by_less_than_the_bounds_allow_for():
    for row, other in normalized(np.random.default_rng(1).normal(size=(40, 2, 384)).reshape(-1, 384)
                                 ).reshape(40, 2, 384):  # fmt: skip
        true = sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(row, other, strict=True))
        assert abs(Fraction(float(cosine(row, other))) - true) < Fraction(1, 10**12)
