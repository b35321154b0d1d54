"""Cosine neighbours: exact when flat, whatever the batches; approximate kinds on request."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from ray_si.dedup import EmbeddingIndex


def unit_vectors(n, dimension, seed=0):
    """Random directions, many of them close to others, some equal."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(1, n // 8), dimension))
    vectors = centres[rng.integers(len(centres), size=n)] + 0.05 * rng.normal(size=(n, dimension))
    vectors[n // 2 : n // 2 + n // 10] = vectors[0]
    return EmbeddingIndex.normalize(vectors)


def slow_nearest(pool, query):
    cosines = [min(float(np.float64(row) @ np.float64(query)), 1.0) for row in pool]
    return int(np.argmax(cosines)), max(cosines)


@settings(max_examples=40)
@given(st.integers(0, 1000), st.sampled_from([4, 33]), st.lists(st.integers(0, 60), max_size=4))
def test_the_nearest_does_not_depend_on_batches(seed, dimension, cuts):
    vectors = unit_vectors(60, dimension, seed)
    whole, pieces = EmbeddingIndex(dimension), EmbeddingIndex(dimension)
    whole.add(vectors)
    bounds = sorted({0, 60, *cuts})
    for start, end in pairwise(bounds):
        pieces.add(vectors[start:end])
    queries = np.concatenate([vectors[::7], unit_vectors(40, dimension, seed + 1)])
    ids, cosines = whole.nearest(queries)
    one_by_one = [pieces.nearest(query[None]) for query in queries]
    assert ids.tolist() == [int(found[0][0]) for found in one_by_one]
    assert cosines.tolist() == [float(found[1][0]) for found in one_by_one]
    for query, id_, cosine in zip(queries, ids, cosines, strict=True):
        slow_id, slow_cosine = slow_nearest(vectors, query)
        assert cosine == pytest.approx(slow_cosine, abs=1e-12)
        assert id_ == slow_id or cosine == pytest.approx(slow_cosine, abs=1e-15)


def test_the_earliest_of_equals_is_found_among_many():
    index = EmbeddingIndex(3)
    index.add(EmbeddingIndex.normalize(np.tile([[0.3, 0.2, 0.1]], (500, 1))))
    ids, cosines = index.nearest(EmbeddingIndex.normalize(np.array([[0.3, 0.2, 0.1]])))
    assert ids.tolist() == [0]
    assert cosines[0] == pytest.approx(1)


def test_an_empty_index_has_no_neighbour():
    ids, cosines = EmbeddingIndex(4).nearest(np.zeros((2, 4), np.float32))
    assert (ids.tolist(), cosines.tolist()) == ([-1, -1], [-1.0, -1.0])


def test_trained_kinds_are_flat_until_the_pool_can_train_them():
    index, flat = EmbeddingIndex(16, "IVF8,Flat"), EmbeddingIndex(16)
    vectors = unit_vectors(700, 16)
    for start in range(0, 700, 100):  # 8 lists want 312 vectors
        index.add(vectors[start : start + 100])
        flat.add(vectors[start : start + 100])
        exact = flat.nearest(vectors)
        found = index.nearest(vectors)
        same = (np.abs(found[1] - exact[1]) < 1e-5).mean()
        assert same == 1 if start < 300 else same > 0.5
    assert len(index) == 700


@pytest.mark.parametrize("factory", ["HNSW16", "SQfp16", "IVF4,SQ8", "PCA8,Flat"])
def test_any_factory_string_works(factory):
    vectors = unit_vectors(400, 16)
    index = EmbeddingIndex(16, factory)
    index.add(vectors[:200])
    index.add(vectors[200:])
    ids, cosines = index.nearest(vectors[:50])
    assert ids.dtype == np.int64
    assert (cosines > 0.5).mean() > 0.9


def test_normalizing_twice_changes_nothing():
    once = EmbeddingIndex.normalize(np.random.default_rng(0).normal(size=(2000, 384)))
    assert np.linalg.norm(once, axis=1) == pytest.approx(1, abs=1e-6)
    assert np.array_equal(EmbeddingIndex.normalize(once), once)


def test_zero_embeddings_resemble_nothing():
    zero = EmbeddingIndex.normalize(np.zeros((1, 4)))
    index = EmbeddingIndex(4)
    index.add(zero)
    assert index.nearest(zero)[1].tolist() == [0.0]


def test_unusable_embeddings_are_refused():
    with pytest.raises(ValueError, match="row 1 holds NaN or infinity"):
        EmbeddingIndex.normalize(np.array([[1, 2], [np.nan, 1]]))
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        EmbeddingIndex.normalize(np.ones(3))
    with pytest.raises(ValueError, match="have 5 numbers, the index has 4"):
        EmbeddingIndex(4).add(np.ones((1, 5), np.float32))
    with pytest.raises(ValueError, match="knows no index 'Flatt'"):
        EmbeddingIndex(4, "Flatt")
