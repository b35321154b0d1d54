"""Products of bytes with a limit behind them: the same pairs from the kernel and from NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from ray_si.dedup.cosine import products


@pytest.mark.parametrize("by", ["kernel", "matrix"])
@pytest.mark.parametrize(("rows", "queries"), [(1, 1), (64, 6), (65, 7), (700, 50)])
@pytest.mark.parametrize("extreme", [False, True])
def test_every_pair_above_its_limit_is_there_in_order(monkeypatch, by, rows, queries, extreme):
    if by == "kernel" and not products.HAS_VNNI:
        pytest.skip("this processor has no AVX-512 VNNI")
    monkeypatch.setattr(products, "HAS_VNNI", by == "kernel")
    rng = np.random.default_rng(rows + queries)
    values = [-127, 127] if extreme else np.arange(-127, 128)
    codes = rng.choice(values, (rows, 64)).astype(np.int8)
    asked = rng.choice(values, (queries, 64)).astype(np.int8)
    biases = rng.integers(-1000, 1000, rows).astype(np.int32)
    limits = rng.integers(-50_000, 100_000, queries).astype(np.int32)
    coarse = products.empty(768)
    for start in range(0, rows, 100):
        part = slice(start, start + 100)
        products.put(coarse, start, codes[part], biases[part])
    sums = asked.astype(np.int64) @ codes.T.astype(np.int64) + biases
    expected = np.argwhere(sums > limits[:, None]).tolist()

    factors = products.factors(asked)
    found, group = [], 0
    room = np.empty((products.GROUP * (queries + products.QUERIES), 2), np.int32)
    while group * products.GROUP < rows:
        count, group = products.pairs_above(coarse, rows, factors, limits, group, room)
        found += room[:count].tolist()
    assert sorted(found) == expected
    for query in range(queries):
        of_query = [row for q, row in found if q == query]
        assert of_query == sorted(of_query)
