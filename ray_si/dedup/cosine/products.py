"""Pairs of coarse codes whose product is above a limit: integers, the same by either way here.

Where the processor multiplies bytes (AVX-512 VNNI), a kernel compares 64 rows with 6 queries at a
time, the sums in registers and the limit right behind them; elsewhere the codes go through a matrix
product in single precision, which is exact for integers up to 2**24, sixteen times 64 · 127².
"""

from __future__ import annotations

from typing import Any, NamedTuple

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from ray_si.dedup.cosine.codes import PREFIX

GROUP = 64
"""Rows compared at a time."""

QUERIES = 6
"""Queries compared at a time."""

_LANES = 16
"""Rows of a vector register: it holds 4 bytes of each."""

_BYTES = 4
_STEPS = PREFIX // _BYTES
_VECTORS = GROUP // _LANES

_OFFSET = 128
"""Added to the codes of rows: the instruction multiplies signed bytes with unsigned ones."""

_NEVER = -(1 << 30)
"""The bias of rows that are not there."""

_TILE = 1024
"""Rows multiplied at a time by a matrix product."""

HAS_VNNI = llvmlite.binding.get_host_cpu_features().get("avx512vnni", False)


class Coarse(NamedTuple):
    """Coarse codes of up to ``capacity`` rows as the kernel reads them, in groups of 64.

    ``codes`` has the shape (groups, 4, 16, 16, 4): of each group four times 16 rows, and of these
    four bytes at a time; uint8, 128 added. ``biases``, int32, have one number a row.
    """

    codes: np.ndarray
    biases: np.ndarray


class Factors(NamedTuple):
    """Coarse codes of ``size`` queries as the kernel reads them: filled up to a multiple of 6.

    ``offsets``, int32, is what each query's sums are too large by, as 128 was added to the rows.
    """

    size: int
    codes: np.ndarray
    offsets: np.ndarray


def factors(codes: np.ndarray) -> Factors:
    """The factors of queries with these codes, int8, shape (n, 64)."""
    padded = np.zeros((-(-len(codes) // QUERIES) * QUERIES, PREFIX), np.int8)
    padded[: len(codes)] = codes
    return Factors(len(codes), padded, _OFFSET * padded.sum(axis=1, dtype=np.int32))


def empty(capacity: int) -> Coarse:
    """Room for that many rows, a multiple of 64, which match nothing yet."""
    size = capacity * PREFIX
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64  # a register is read fastest from where a cache line begins
    shape = (capacity // GROUP, _VECTORS, _STEPS, _LANES, _BYTES)
    return Coarse(memory[start : start + size].reshape(shape), np.full(capacity, _NEVER, np.int32))


def put(coarse: Coarse, start: int, codes: np.ndarray, biases: np.ndarray) -> None:
    """Write the codes, int8, shape (n, 64), and biases of the rows from ``start`` on."""
    _put(coarse.codes, start, codes)
    coarse.biases[start : start + len(biases)] = biases


@njit(cache=True, nogil=True)
def _put(codes: Any, start: Any, rows: Any) -> None:
    for i in range(len(rows)):
        group, within = divmod(start + i, GROUP)
        vector, lane = divmod(within, _LANES)
        for k in range(PREFIX):
            step, byte = divmod(k, _BYTES)
            codes[group, vector, step, lane, byte] = np.int16(rows[i, k]) + _OFFSET


def pairs_above(
    coarse: Coarse, size: int, queries: Factors, limits: np.ndarray, start: int, pairs: np.ndarray
) -> tuple[int, int]:
    """Find pairs with Q·X + bias > limit among the first ``size`` rows, from group ``start`` on.

    Writes (query, row) into ``pairs``, int32, shape (room, 2), each query's rows in ascending
    order, until all groups are done or there may be no room for another one. Returns the number of
    pairs and the group to go on from.
    """
    groups = -(-size // GROUP)
    if not HAS_VNNI:
        codes = queries.codes[: queries.size]
        return _by_matrix(coarse, groups, codes, limits, start, pairs)
    least = np.full(len(queries.codes), np.iinfo(np.int32).max, np.int32)
    least[: queries.size] = limits + queries.offsets[: queries.size]
    return _by_kernel(coarse, groups, queries.codes, least, start, pairs)  # type: ignore[no-any-return]


# The kernel ------------------------------------------------------------------------------------


def _compare_group(_: Any, codes: Any, biases: Any, queries: Any, limits: Any, masks: Any) -> Any:
    """64 rows with 6 queries, by addresses; whether there is a pair, and then a bit for each.

    ``masks`` gets 16 bits for each query and vector of 16 rows, the queries outermost.
    """
    signature = types.int64(*[types.int64] * 5)
    int16, int32, int64 = (ir.IntType(bits) for bits in (16, 32, 64))
    vector = ir.VectorType(int32, _LANES)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointers = [
            builder.inttoptr(address, kind.as_pointer())
            for address, kind in zip(arguments, (vector, vector, int32, int32, int16), strict=True)
        ]
        rows, bias, query, limit, mask = pointers
        multiply = builder.module.declare_intrinsic(
            "llvm.x86.avx512.vpdpbusd.512", (), ir.FunctionType(vector, [vector] * 3)
        )

        def load(pointer: Any, index: Any, alignment: int) -> Any:
            value = builder.load(builder.gep(pointer, [index]))
            value.align = alignment
            return value

        def spread(number: Any) -> Any:
            undefined = ir.Constant(vector, ir.Undefined)
            first = builder.insert_element(undefined, number, int32(0))
            zeros = ir.Constant(ir.VectorType(int32, _LANES), [0] * _LANES)
            return builder.shuffle_vector(first, undefined, zeros)

        before = builder.basic_block
        loop, done = (builder.append_basic_block(name) for name in ("loop", "done"))
        initial = [load(bias, int64(v), 4) for v in range(_VECTORS)] * QUERIES
        builder.branch(loop)
        builder.position_at_end(loop)
        step = builder.phi(int64)
        sums = [builder.phi(vector) for _ in initial]
        parts = [load(rows, builder.add(step, int64(v * _STEPS)), 64) for v in range(_VECTORS)]
        added = []
        for q in range(QUERIES):
            bytes_ = spread(load(query, builder.add(step, int64(q * _STEPS)), 4))
            added += [
                builder.call(multiply, [sums[q * _VECTORS + v], part, bytes_])
                for v, part in enumerate(parts)
            ]
        following = builder.add(step, int64(1))
        for phi, first, later in zip(
            [step, *sums], [int64(0), *initial], [following, *added], strict=True
        ):
            phi.add_incoming(first, before)
            phi.add_incoming(later, loop)
        builder.cbranch(builder.icmp_unsigned("<", following, int64(_STEPS)), loop, done)
        builder.position_at_end(done)
        above = []
        for q in range(QUERIES):
            least = spread(load(limit, int64(q), 4))
            above += [
                builder.icmp_signed(">", total, least)
                for total in added[q * _VECTORS : (q + 1) * _VECTORS]
            ]
        any_ = above[0]
        for bits in above[1:]:
            any_ = builder.or_(any_, bits)
        found = builder.zext(builder.bitcast(any_, int16), int64)
        with builder.if_then(builder.icmp_unsigned("!=", found, int64(0)), likely=False):
            for i, bits in enumerate(above):
                builder.store(builder.bitcast(bits, int16), builder.gep(mask, [int64(i)]), align=2)
        return found

    return signature, generate


_compare: Any = intrinsic(_compare_group)


@njit(cache=True, nogil=True)
def _by_kernel(
    coarse: Coarse, groups: Any, queries: Any, limits: Any, start: Any, pairs: Any
) -> Any:
    masks = np.zeros(QUERIES * _VECTORS, np.uint16)
    codes, biases = coarse.codes.ctypes.data, coarse.biases.ctypes.data
    count, group = 0, start
    while group < groups and count + GROUP * len(queries) <= len(pairs):
        for q in range(0, len(queries), QUERIES):
            if _compare(
                codes + group * GROUP * PREFIX, biases + group * GROUP * 4,
                queries.ctypes.data + q * PREFIX, limits.ctypes.data + q * 4, masks.ctypes.data,
            ):  # fmt: skip
                for i in range(len(masks)):
                    bits, row = masks[i], group * GROUP + i % _VECTORS * _LANES
                    while bits:
                        if bits & 1:
                            pairs[count, 0], pairs[count, 1] = q + i // _VECTORS, row
                            count += 1
                        bits >>= 1
                        row += 1
        group += 1
    return count, group


# The matrix product ----------------------------------------------------------------------------


def _by_matrix(
    coarse: Coarse, groups: int, queries: np.ndarray, limits: np.ndarray, start: int,
    pairs: np.ndarray,
) -> tuple[int, int]:  # fmt: skip
    tile = min(_TILE, len(pairs) // len(queries)) // GROUP
    factors = queries.astype(np.float32)
    count, group = 0, start
    while group < groups and count + tile * GROUP * len(queries) <= len(pairs):
        end = min(group + tile, groups)
        codes = coarse.codes[group:end].transpose(0, 1, 3, 2, 4).reshape(-1, PREFIX)
        rows = codes.astype(np.float32) - _OFFSET
        products = (factors @ rows.T).astype(np.int32)
        products += coarse.biases[group * GROUP : end * GROUP]
        above = np.argwhere(products > limits[:, None])
        above[:, 1] += group * GROUP
        pairs[count : count + len(above)] = above
        count, group = count + len(above), end
    return count, group
