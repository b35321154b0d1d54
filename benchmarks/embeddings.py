"""Vectors with the spectrum and the neighbours of embedded instructions, as many as are wanted.

ENERGY and NEAREST are measured on 20,000 published instructions (T0's prompts, GSM8K, GPTeacher,
InstructionWild) embedded by all-MiniLM-L6-v2, 384 numbers: the share of the squared lengths in the
first directions, and quantiles of the cosine of a text with the nearest of 15,000 others. A new
direction has independent normal coordinates of those variances, around a mean that gives two of
them the cosine that two instructions have on average. Each of 40 topics is a direction; a family
begins with a vector at a cosine from its topic's (WITHIN, chosen so that as many pairs are alike as
there), and every further one at a cosine drawn from NEAREST from an earlier one of the family.
`python benchmarks/cosine.py --only vectors --texts FILE` compares with embedded texts.

`block(i)` is the same whenever and wherever it is made; the last `QUERIES` vectors of a block have
their families in it and are meant as queries, the others as the pool.
"""

from __future__ import annotations

import numpy as np

DIMENSION = 384
POOL, QUERIES = 16_384, 256
"""Vectors of a block for the pool, and for queries."""

ENERGY = {
    0: 0.0, 1: 0.0907, 2: 0.139, 4: 0.1949, 8: 0.2608, 16: 0.3488, 32: 0.4653, 64: 0.6164,
    96: 0.7211, 128: 0.7993, 192: 0.9054, 256: 0.9671, 320: 0.9928, 384: 1.0,
}  # fmt: skip
MEAN_COSINE = 0.077
NEAREST = [
    0.279, 0.52, 0.588, 0.634, 0.669, 0.698, 0.728, 0.756, 0.789, 0.818, 0.843, 0.868, 0.888,
    0.905, 0.919, 0.932, 0.946, 0.958, 0.971, 0.984, 1.0,
]  # fmt: skip
"""At 0, 5, ... 100 %."""

TOPICS = 40
WITHIN = ((0, 0.5, 0.9, 0.96, 1), (0.2, 0.6, 0.85, 0.93, 0.96))
"""Cosines of two families' first vectors within one topic: shares of the topics, and quantiles."""

FAMILY = 8
"""Vectors of a family."""


def variances() -> np.ndarray:
    """Of each coordinate around its mean, shape (384,)."""
    energy = np.interp(np.arange(DIMENSION + 1), list(ENERGY), list(ENERGY.values()))
    shares = np.diff(energy)
    shares[0] -= MEAN_COSINE
    return shares


def _aside(rng: np.random.Generator, parents: np.ndarray, cosines: np.ndarray) -> np.ndarray:
    """Vectors at these cosines from the parents, each in a new direction."""
    deviations = np.sqrt(variances()).astype(np.float32)
    sines = np.sqrt(1 - cosines**2)
    made = rng.standard_normal(parents.shape, np.float32) * deviations
    # so much of the mean that the new vector has as much of it as its parent
    made[:, 0] += np.sqrt(MEAN_COSINE) * (1 - cosines) / np.maximum(sines, 1e-6)
    made -= np.einsum("ij,ij->i", made, parents)[:, None] * parents
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return (cosines[:, None] * parents + sines[:, None] * made).astype(np.float32)


def block(number: int) -> np.ndarray:
    """Vectors of length 1, float32, shape (POOL + QUERIES, 384), in random order."""
    mean = np.eye(1, DIMENSION, dtype=np.float32)
    topics = _aside(
        np.random.default_rng(384),
        np.repeat(mean, TOPICS, axis=0),
        np.full(TOPICS, np.sqrt(MEAN_COSINE)),
    )
    within = np.interp((np.arange(TOPICS) + 0.5) / TOPICS, *WITHIN)
    rng = np.random.default_rng([number, 384])
    total = POOL + QUERIES
    families = -(-total // FAMILY)
    made = np.empty((FAMILY, families, DIMENSION), np.float32)
    topic = rng.integers(TOPICS, size=families)
    made[0] = _aside(rng, topics[topic], np.sqrt(within[topic]))
    for i in range(1, FAMILY):
        parents = made[rng.integers(i, size=families), np.arange(families)]
        cosines = np.interp(rng.random(families), np.linspace(0, 1, len(NEAREST)), NEAREST)
        made[i] = _aside(rng, parents, cosines)
    vectors = made.reshape(-1, DIMENSION)[rng.permutation(families * FAMILY)[:total]]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
