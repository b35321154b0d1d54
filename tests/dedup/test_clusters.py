"""Clusters: the same whatever the threads, and those that are there."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from ray_si.dedup import EmbeddingIndex
from ray_si.dedup.clusters import cluster


def clouds(sizes, dimension=32):
    """Normalized rows around as many directions as there are sizes, and which each is of."""
    rng = np.random.default_rng(7)
    centres = rng.standard_normal((len(sizes), dimension))
    of = np.repeat(np.arange(len(sizes)), sizes)
    rows = centres[of] + 0.05 * rng.standard_normal((len(of), dimension))
    return EmbeddingIndex.normalize(rows), of


@pytest.fixture
def threads():
    before = faiss.omp_get_max_threads()
    yield faiss.omp_set_num_threads
    faiss.omp_set_num_threads(before)


def test_the_number_of_threads_changes_nothing(threads):
    rows, _ = clouds([300, 40, 500, 5, 100])
    found = []
    for count in (1, 2, 4):
        threads(count)
        found.append(cluster(rows, seed=3).tolist())
    assert found[0] == found[1] == found[2]


def test_no_cluster_joins_directions_that_lie_apart():
    rows, of = clouds([20, 100, 8])
    found = cluster(rows, seed=0)
    assert len(set(found)) == 8  # sqrt(128 / 2)
    assert all(len(set(of[found == number])) == 1 for number in set(found))


@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_few_rows_are_one_cluster(n):
    assert cluster(clouds([n])[0], seed=0).tolist() == [0] * n
