"""Regions of a pool: k-means over its embeddings."""

from __future__ import annotations

import math

import faiss
import numpy as np

_ITERATIONS = 10
_MOST = 256
_SEED_BITS = 31


def cluster(normalized: np.ndarray, seed: int) -> np.ndarray:
    """The cluster of each row of normalized embeddings, shape (n, dimension): int64, shape (n,).

    Spherical k-means by FAISS with k = sqrt(n / 2), the rule of thumb of Mardia, Kent and Bibby
    (Multivariate Analysis, 1979), and at most 256. The same rows, order and seed give the same
    clusters for any number of threads; single precision may round otherwise on another kind of
    processor.
    """
    k = max(1, min(_MOST, round(math.sqrt(len(normalized) / 2))))
    if k == 1:
        return np.zeros(len(normalized), np.int64)
    kmeans = faiss.Kmeans(
        normalized.shape[1],
        k,
        niter=_ITERATIONS,
        seed=seed % (1 << _SEED_BITS),
        spherical=True,
        min_points_per_centroid=1,  # it would only warn
    )
    kmeans.train(normalized)
    return np.asarray(kmeans.assign(normalized)[1], np.int64)
