"""Embeddings as small integers that bound their cosines from above.

Coarse codes: a row x of length at most 1 is split by P = 64 orthonormal directions (the rows of R)
into y = Rx and what lies beside them, of squared length |t|² = |x|² - |y|². y is rounded to a whole
multiple of one step s for all rows, y = sX + e, with X of 8-bit integers. For two rows q and x

    q·x = y_q·y_x + t_q·t_x
        = s²(Q·X) + sQ·e_x + e_q·y_x + t_q·t_x
       <= s²(Q·X) + |sQ||e_x| + |e_q||y_x| + (|t_q|² + |t_x|²)/2

by Cauchy-Schwarz, and because a·b <= (a² + b²)/2. With |sQ| <= N and |y_x| <= 1, what is not Q·X is
a number of the row plus a number of the query. In units of s², the row's is rounded up to an
integer, its bias, and the query's goes into a limit that is rounded down, so that whoever computes

    Q·X + bias > limit                                                                   (1)

in integers, on whatever device and in whatever order, gets the same pairs, and every pair whose
cosine is above the threshold is among them. R is fitted to rows (the first right singular vectors,
then turned at random within their span, so that all coordinates are of one size); (1) holds for any
orthonormal R and any s, that only decides how many pairs pass. R, y and the lengths are in double
precision: for up to 10,000 dimensions their errors and that of the cosine itself add up to less
than 1e-9, which `SLACK` covers tenfold.

Fine codes: x = fZ + e with 8-bit integers Z of all d coordinates and a step f of each row's own, so
that q·x <= f(q·Z) + |e|. q·Z is summed in single precision in any order, with an error of at most
d·2**-24·|q||Z| (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1).

Half precision, on a GPU (`ray_si.dedup.cosine.device`): all d coordinates rounded to h = x - e with
11 bits, so that |e| <= 2**-11|x| + sqrt(d)·2**-25, the latter for numbers below the least normal
one, 2**-14. With |q| and |x| at most 1

    |q·x - h_q·h_x| = |h_q·e_x + e_q·x| <= 2(2**-11 + sqrt(d)·2**-25)

to first order. Products of 11 bits are exact in single precision, and summed there. Tensor cores
add a few at a time, all but the last 2**-23 of each (Fasi, Higham, Mikaitis and Pranesh, Numerical
Behavior of NVIDIA Tensor Cores, 2021; sums are below 2 throughout), and processors round by 2**-24
of a sum: together less than (d + 16)·2**-22, of which twice as much is taken. The sum is rounded to
half precision, by 2**-11 at most. All this and a hundredth more, for higher orders and rows that
are longer than 1 by 2e-6, is 0.0017 for d = 384 (`margin`). So a pair above the threshold has a
product of at least the threshold minus this, and a query's nearest row one of at least the query's
largest product minus twice this.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from ray_si.dedup.cosine.scalar import LONGEST

PREFIX = 64
"""Directions of the coarse codes."""

SLACK = 1e-8
"""More than all errors of double precision in a bound."""

_LARGEST = 127
_LEAST_STEP = 1e-3
"""Keeps biases and limits within 32 bits: 1 is at most 10**6 squared steps."""

SAMPLE = 8192
"""Rows that a rotation is fitted to."""

_ITERATIONS = 3
_SEED = 24
_OUTLIERS = 1e-4
"""Share of coordinates that may be cut off at the largest code, which their errors account for."""


class Rotation(NamedTuple):
    """What coarse codes are made with: R, float64, shape (64, dimension), and the step s.

    Rows of R beyond the dimension are zero.
    """

    directions: np.ndarray
    step: float


class Queries(NamedTuple):
    """Coarse codes of queries, int8, shape (n, 64), and their own part of a bound, in cosines."""

    codes: np.ndarray
    margins: np.ndarray


class Fine(NamedTuple):
    """Fine codes: int8, shape (n, dimension); steps and lengths of the errors, float32, (n,)."""

    codes: np.ndarray
    steps: np.ndarray
    errors: np.ndarray


def fit(rows: np.ndarray) -> Rotation:
    """A rotation for rows like these, normalized, shape (n, dimension); see the module.

    Subspace iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4) on a sample.
    """
    sample = rows[:: -(-len(rows) // SAMPLE)].astype(np.float64)
    dimension = rows.shape[1]
    rng = np.random.default_rng(_SEED)
    width = min(PREFIX, dimension)
    basis = _orthonormal(rng.normal(size=(width, dimension)))
    for _ in range(_ITERATIONS):
        basis = _orthonormal((sample @ basis.T).T @ sample)
    turned = _orthonormal(_orthonormal(rng.normal(size=(width, width))) @ basis)
    directions = np.zeros((PREFIX, dimension))
    directions[:width] = turned
    assert np.abs(turned @ turned.T - np.eye(width)).max() < 1e-11
    sizes = np.abs(sample @ turned.T)
    step = float(np.quantile(sizes, 1 - _OUTLIERS)) / _LARGEST
    return Rotation(directions, max(step, _LEAST_STEP))


@njit(cache=True, nogil=True)
def _orthonormal(rows: Any) -> Any:
    """Rows made orthonormal by the Gram-Schmidt process, each in two passes.

    A row within the span of those before it gives way to an axis that is not. LAPACK would do, but
    its hundreds of short calls on two threads each take seconds on a busy machine.
    """
    made = np.zeros(rows.shape)
    for i in range(len(rows)):
        axis = 0
        row = rows[i].copy()
        length = np.sqrt(np.sum(row * row))
        while True:
            if length > 0:
                row /= length
            for _ in range(2):
                for k in range(i):
                    row -= np.sum(made[k] * row) * made[k]
            rest = np.sqrt(np.sum(row * row))
            if rest > 1e-3:
                break
            row[:] = 0
            row[axis] = 1
            axis += 1
            length = 1.0
        row /= rest
        made[i] = row
    return made


def encode_rows(rotation: Rotation, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coarse codes, int8, shape (n, 64), and biases, int32, shape (n,), of normalized rows."""
    codes, error, beside = _rounded(rotation, rows)
    most = LONGEST + rotation.step * np.sqrt(PREFIX) / 2  # N: rounding adds half a step at most
    bias = np.ceil((beside / 2 + most * error) / rotation.step**2)
    return codes, bias.astype(np.int32)


def encode_queries(rotation: Rotation, queries: np.ndarray) -> Queries:
    """Coarse codes of normalized queries."""
    codes, error, beside = _rounded(rotation, queries)
    return Queries(codes, beside / 2 + LONGEST * error + SLACK)


def limits(queries: Queries, thresholds: np.ndarray, step: float) -> np.ndarray:
    """The limits of (1), int32, for thresholds of each query's own; both of shape (n,)."""
    least: np.ndarray = np.floor((thresholds - queries.margins) / step**2) - 1
    return least.astype(np.int32)


def _rounded(rotation: Rotation, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X, |e| and |t|²."""
    rows = rows.astype(np.float64)
    inside = rows @ rotation.directions.T
    codes = np.clip(np.rint(inside / rotation.step), -_LARGEST, _LARGEST)
    error = np.linalg.norm(inside - rotation.step * codes, axis=1)
    beside = np.einsum("ij,ij->i", rows, rows) - np.einsum("ij,ij->i", inside, inside)
    return codes.astype(np.int8), error, np.maximum(beside, 0)


@njit(cache=True, nogil=True)
def encode_fine(rows: Any, fine: Fine) -> None:
    """Fill in the fine codes of normalized rows."""
    for i in range(len(rows)):
        largest = np.float32(0)
        for value in rows[i]:
            largest = max(largest, abs(value))
        step = np.float64(largest) / _LARGEST
        fine.steps[i] = step
        step = np.float64(fine.steps[i])
        squares = 0.0
        for k in range(rows.shape[1]):
            code = np.rint(rows[i, k] / step) if step > 0 else 0.0
            code = min(max(code, -_LARGEST), _LARGEST)
            fine.codes[i, k] = np.int8(code)
            error = np.float64(rows[i, k]) - step * code
            squares += error * error
        fine.errors[i] = np.sqrt(squares) * (1 + 1e-6)


@njit(nogil=True, fastmath={"reassoc", "contract"}, inline="never")
def fine_product(query: Any, code: Any) -> Any:
    """q·Z in single precision, in whatever order is fastest."""
    total = np.float32(0)
    for k in range(len(query)):
        total += query[k] * np.float32(code[k])
    return total
