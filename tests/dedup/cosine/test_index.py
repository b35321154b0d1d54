"""The cosine index equals comparing with every row in double precision, whatever comes."""

from __future__ import annotations

import math
import resource

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from ray_si.dedup import CosineIndex
from ray_si.dedup.cosine import chunk, products
from ray_si.dedup.cosine.host import HostRows, RowsFileError
from ray_si.dedup.cosine.scalar import normalized


def slow_cosines(query, pool):
    """The definition: exact products, summed in order, in double precision."""
    totals = np.zeros(len(pool))
    for k in range(pool.shape[1]):
        totals += np.float64(query[k]) * pool[:, k].astype(np.float64)
    return np.clip(totals, -1, 1)


def slow_search(pool, queries, threshold):
    """Scores and ids, one by one; ``pool`` and ``queries`` are normalized."""
    scores, ids = [], []
    for query in queries:
        cosines = slow_cosines(query, pool)
        best = int(cosines.argmax())
        above = cosines[best] > threshold
        scores.append(float(cosines[best]) if above else 0.0)
        ids.append(best if above else -1)
    return scores, ids


def found(index, queries, threshold=None):
    cosines, ids = index.search(queries, threshold)
    return cosines.tolist(), ids.tolist()


def indexed(pool, threshold, step=None, **options):
    index = CosineIndex(pool.shape[1], threshold, **options)
    for start in range(0, len(pool), step or len(pool)):
        index.add(pool[start : start + (step or len(pool))])
    return index


def random_rows(rng, n, dimension, kind):
    """Rows of which many are near to others, in one of the ways that bounds could get wrong."""
    rows = rng.normal(size=(n, dimension))
    if kind == "clustered":
        rows = rows[rng.integers(max(1, n // 8), size=n)] + 0.15 * rng.uniform(0, 3, (n, 1)) * rows
    elif kind == "equal":
        rows[:] = rows[0]
    elif kind == "near equal":
        rows = rows[0] + 1e-7 * rows
    elif kind == "sign-flipped":
        rows = rows[rng.integers(3, size=n)] * rng.choice([-1, 1], size=(n, 1))
    elif kind == "one direction":  # all in the prefix, or all beside it
        rows = np.eye(dimension)[rng.integers(dimension, size=n)] + 1e-3 * rows
    elif kind == "outliers":
        rows[:, 0] *= 1000
        rows[n // 2 :, -1] *= 1000
    elif kind == "tiny":
        rows *= 1e-42
    rows[rng.random(n) < 0.05] = 0
    return rows.astype(np.float32)


KINDS = ["random", "clustered", "equal", "near equal", "sign-flipped", "one direction", "outliers",
         "tiny"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dimension=st.sampled_from([1, 2, 7, 64, 65, 130]),
    threshold=st.sampled_from([1e-6, 0.3, 0.9, 0.999999, 1.0]),
    step=st.sampled_from([1, 17, 200]),
)
def test_it_equals_comparing_one_by_one(kind, seed, dimension, threshold, step):
    rng = np.random.default_rng(seed)
    rows = random_rows(rng, 150, dimension, kind)
    pool, queries = rows[:130], np.concatenate([rows[:5], rows[130:]])
    expected = slow_search(normalized(pool), normalized(queries), threshold)
    assert found(indexed(pool, threshold, step), queries) == expected


@pytest.mark.parametrize("by", ["kernel", "matrix"])
def test_both_ways_to_multiply_find_the_same(monkeypatch, by):
    if by == "kernel" and not products.HAS_VNNI:
        pytest.skip("this processor has no AVX-512 VNNI")
    monkeypatch.setattr(products, "HAS_VNNI", by == "kernel")
    rng = np.random.default_rng(3)
    rows = random_rows(rng, 1200, 96, "clustered")
    expected = slow_search(normalized(rows[:1000]), normalized(rows[1000:1100]), 0.9)
    assert found(indexed(rows[:1000], 0.9), rows[1000:1100]) == expected
    assert 0 < sum(id_ >= 0 for id_ in expected[1]) < 100


def test_many_chunks_in_a_file_and_threads_change_nothing(monkeypatch, tmp_path):
    rng = np.random.default_rng(5)
    rows = random_rows(rng, 1400, 64, "clustered")
    whole = found(indexed(rows[:1300], 0.9), rows[1300:])
    monkeypatch.setattr(chunk, "CAPACITY", 256)
    monkeypatch.setattr("ray_si.dedup.cosine.host.CAPACITY", 256)
    monkeypatch.setattr("ray_si.dedup.cosine.host._QUERIES", 12)
    monkeypatch.setattr(chunk, "_ROOM", 0)
    index = indexed(rows[:1300], 0.9, step=100, folder=tmp_path, threads=3)
    assert found(index, rows[1300:]) == whole
    assert len(index) == 1300
    assert [found(index, row[None]) for row in rows[1300:1310]] == [
        ([whole[0][i]], [whole[1][i]]) for i in range(10)
    ]
    assert list(tmp_path.iterdir()) == []  # the file of rows has no name


def test_a_full_disk_is_an_error_after_which_the_index_goes_on(monkeypatch, tmp_path):
    rows = random_rows(np.random.default_rng(6), 300, 64, "random")
    monkeypatch.setattr(chunk, "CAPACITY", 64)
    monkeypatch.setattr("ray_si.dedup.cosine.host.CAPACITY", 64)
    index = CosineIndex(64, folder=tmp_path)
    index.add(rows[:150])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * 64 * 64 * 4 + 1000, before[1]))
    try:
        with pytest.raises(RowsFileError) as caught:
            index.add(rows[150:])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(caught.value) == (
        f"192 embeddings of 64 numbers fill {tmp_path}, and each further one takes 256 bytes "
        "(File too large): free some space, or set TMPDIR to a larger disk"
    )
    index.add(rows[len(index) :])
    assert found(index, rows) == slow_search(normalized(rows), normalized(rows), 0.9)


def test_a_score_at_the_threshold_to_the_last_bit_is_not_above_it():
    rng = np.random.default_rng(0)
    rows = random_rows(rng, 300, 384, "clustered")
    pool = normalized(rows[:250])
    index = indexed(pool, 0.5)
    for query in normalized(rows[250:]):
        cosines = slow_cosines(query, pool).tolist()
        best = max(cosines)
        if not 0 < best < 1:
            continue
        assert found(index, query[None], best) == ([0.0], [-1])
        below = math.nextafter(best, 0)
        assert found(index, query[None], below) == ([best], [cosines.index(best)])


def test_equal_rows_have_a_cosine_of_one_at_most():
    rows = normalized(np.random.default_rng(1).normal(size=(500, 384)))
    raw = np.einsum("ij,ij->i", rows.astype(np.float64), rows.astype(np.float64))
    assert (raw > 1).any()  # as single precision leaves their lengths
    cosines, ids = indexed(rows, 0.9).search(rows)
    assert ids.tolist() == list(range(500))
    assert cosines.max() == 1.0
    assert set(indexed(rows, 1.0).search(rows)[1].tolist()) == {-1}


def test_zero_rows_resemble_nothing():
    index = indexed(np.zeros((3, 8)), 0.1)
    assert found(index, np.zeros((1, 8))) == ([0.0], [-1])
    assert found(CosineIndex(8), np.ones((2, 8))) == ([0.0, 0.0], [-1, -1])
    assert found(CosineIndex(8), np.ones((0, 8))) == ([], [])


def test_unusable_embeddings_are_refused_and_nothing_is_added():
    index = CosineIndex(2)
    with pytest.raises(ValueError, match="row 1 holds NaN or infinity"):
        index.add(np.array([[1, 2], [np.nan, 1]]))
    with pytest.raises(ValueError, match="have 3 numbers, the index has 2"):
        index.search(np.ones((1, 3)))
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        index.add(np.ones(3))
    assert len(index) == 0
    for threshold in (0, 1.01, float("nan")):
        with pytest.raises(ValueError, match="threshold must lie in"):
            CosineIndex(2, threshold)


def test_codes_take_no_more_than_460_bytes_a_row_of_384():
    index = indexed(np.random.default_rng(0).normal(size=(1000, 384)), 0.9)
    assert index.nbytes == 460 * 1000


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), threshold=st.sampled_from([1e-6, 0.3, 0.9, 0.999999]))
def test_all_pairs_above_the_threshold_are_found(kind, seed, threshold):
    rng = np.random.default_rng(seed)
    pool = normalized(random_rows(rng, 90, 65, kind))
    queries = np.concatenate([pool[:7], normalized(random_rows(rng, 13, 65, kind))])
    index = HostRows(65, threads=1)
    assert len(index.pairs(queries, threshold, 1)[1]) == 0
    for part in np.split(pool, [1, 40]):
        index.add(part)
    expected = {
        (q, row): cosine
        for q, query in enumerate(queries)
        for row, cosine in enumerate(slow_cosines(query, pool).tolist())
        if cosine > threshold
    }
    pairs, cosines = index.pairs(queries, threshold, len(expected))
    assert len(pairs) == len(expected)
    assert dict(zip(map(tuple, pairs.tolist()), cosines.tolist(), strict=True)) == expected
    if expected:
        assert index.pairs(queries, threshold, len(expected) - 1) is None
