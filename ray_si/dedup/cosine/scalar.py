"""The cosine of two embeddings as every gate here defines it, to the last bit.

Embeddings are scaled to length 1 in single precision (`normalized`). Their cosine is the sum of the
products of their numbers, taken in order in double precision and clamped to [-1, 1]. A product of
two single-precision numbers is exact in double precision, so that neither fused multiply-adds nor
the kind of processor, batch, chunk or shard change a bit of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

LONGEST = 1 + 2e-6
"""More than the length of a normalized row."""

_UNIT = 1e-6
"""More than the length of a vector scaled to 1 in single precision can be off."""


def normalized(embeddings: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, float32, shape (n, dimension); zero rows stay zero.

    Rows of that length already are kept bit for bit, so doing it twice changes nothing. Raises
    ValueError where the array has another shape, or a number is not finite.
    """
    embeddings = np.ascontiguousarray(embeddings, np.float32)
    if embeddings.ndim != 2:
        raise ValueError(f"embeddings have the shape {embeddings.shape}, not (n, dimension)")
    scaled = np.empty_like(embeddings)
    unusable = _normalize(embeddings, scaled)
    if unusable >= 0:
        raise ValueError(f"the embedding of row {unusable} holds NaN or infinity")
    return scaled


@njit(cache=True, nogil=True)
def _normalize(rows: Any, scaled: Any) -> Any:
    """The first row that is not finite, or -1; lengths are summed in order, as cosines are."""
    for i in range(len(rows)):
        total = 0.0
        for value in rows[i]:
            total += np.float64(value) * np.float64(value)
        if not np.isfinite(total):
            return i
        length = np.sqrt(total)
        if total == 0 or abs(length - 1) < _UNIT:
            length = 1.0
        for k in range(rows.shape[1]):
            scaled[i, k] = np.float32(np.float64(rows[i, k]) / length)
    return -1


@njit(cache=True, nogil=True)
def cosine(left: Any, right: Any) -> Any:
    """The cosine of two normalized rows, float64; see the module."""
    total = 0.0
    for k in range(len(left)):
        total += np.float64(left[k]) * np.float64(right[k])
    return min(max(total, -1.0), 1.0)


@njit(cache=True, nogil=True)
def exact_cosines(query: Any, rows: Any) -> Any:
    """`cosine` of one normalized row with each of others, shape (n,)."""
    cosines = np.empty(len(rows))
    for i in range(len(rows)):
        cosines[i] = cosine(query, rows[i])
    return cosines
