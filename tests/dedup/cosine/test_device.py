"""Rows on a device are found as those on the processor are: by the definition, to the last bit."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from ray_si.dedup import CosineIndex
from ray_si.dedup.cosine import device as module
from ray_si.dedup.cosine.device import DeviceRows, margin
from ray_si.dedup.cosine.scalar import exact_cosines, normalized
from tests.dedup.cosine.test_index import KINDS, random_rows, slow_cosines, slow_search

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
on_each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])


def held(rows, device, step=None):
    on_device = DeviceRows(rows.shape[1], device)
    for start in range(0, len(rows), step or len(rows)):
        on_device.add(rows[start : start + (step or len(rows))])
    return on_device


def found(on_device, queries, threshold):
    cosines, ids = on_device.search(queries, threshold)
    return np.where(ids < 0, 0, cosines).tolist(), ids.tolist()


@on_each_device
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dimension=st.sampled_from([1, 7, 64, 130]),
    threshold=st.sampled_from([1e-6, 0.3, 0.9, 0.999999, 1.0]),
    step=st.sampled_from([1, 17, 200]),
)
def test_it_equals_comparing_one_by_one(device, kind, seed, dimension, threshold, step):
    rng = np.random.default_rng(seed)
    rows = random_rows(rng, 150, dimension, kind)
    pool, queries = rows[:130], np.concatenate([rows[:5], rows[130:]])
    expected = slow_search(normalized(pool), normalized(queries), threshold)
    assert found(held(pool, device, step), queries, threshold) == expected


@on_each_device
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dimension", [1, 5, 64, 384])
def test_no_cosine_differs_from_its_product_by_more_than_the_margin(device, kind, dimension):
    rows = normalized(random_rows(np.random.default_rng(dimension), 200, dimension, kind))
    halves = torch.from_numpy(rows).to(device).half()
    products = (halves @ halves.T).double().cpu().numpy()
    cosines = np.array([exact_cosines(row, rows) for row in rows])
    assert (abs(cosines - products) <= margin(dimension)).all()


def test_the_margin_is_narrow_enough_to_leave_few_pairs():
    assert margin(384) < 0.0017


@on_each_device
def test_of_many_rows_above_the_threshold_only_the_nearest_are_decided(monkeypatch, device):
    rng = np.random.default_rng(8)
    directions = normalized(rng.normal(size=(400, 60)))
    rows = normalized([1, *[0] * 59] + np.linspace(0.05, 0.4, 400)[:, None] * directions)
    decided = []
    decide = module._decide

    def noted(queries, pairs, *before):
        decided.append(sum(len(each.ids) for each in pairs))
        return decide(queries, pairs, *before)

    monkeypatch.setattr(module, "_decide", noted)
    expected = slow_search(rows[1:], rows[:1], 0.9)
    assert (exact_cosines(rows[0], rows[1:]) > 0.9).sum() > 300
    assert found(held(rows[1:], device), rows[:1], 0.9) == expected
    assert sum(decided) < 100


@on_each_device
def test_the_nearest_is_found_where_half_precision_has_another_nearer(device):
    rng = np.random.default_rng(9)
    between = 1900.5 / 2048  # two numbers of half precision
    others = 0
    for _ in range(60):
        row = normalized(rng.normal(size=(1, 384))).astype(float)
        noise = rng.normal(size=(60, 384))
        noise = normalized(noise - noise @ row.T * row)
        cosines = rng.normal(between - 4e-5, 2e-5, size=(60, 1))  # the largest near there
        rows = cosines * row + np.sqrt(1 - cosines**2) * noise
        pool, query = normalized(rows), normalized(row)
        expected = slow_search(pool, query, 0.9)
        products = torch.from_numpy(pool).half().float() @ torch.from_numpy(query[0]).half().float()
        others += int(products.half()[expected[1][0]] < products.half().max())
        assert found(held(rows, device), row, 0.9) == expected
    assert others > 5


@on_each_device
def test_rows_that_half_precision_rounds_down_by_most_are_found(device):
    row = normalized(np.ones((1, 247)))  # each number lies nearly half-way between two
    halves = row.astype(np.float16).astype(np.float64)
    assert (halves**2).sum() < 1 - 9e-4
    threshold = math.nextafter(1, 0)
    pool = np.concatenate([np.eye(3, 247), row])
    (expected,) = slow_cosines(row[0], row).tolist()
    assert expected > threshold
    assert found(held(pool, device), row, threshold) == ([expected], [3])


@on_each_device
@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_normalized_as_on_the_processor(device, kind):
    rows = random_rows(np.random.default_rng(2), 300, 50, kind)
    unit = np.concatenate([normalized(rows), 1.0000005 * normalized(rows)])  # kept as they are
    for some in (rows, unit):
        parts = list(held(some, device).parts())
        assert np.concatenate(parts).tobytes() == normalized(some).tobytes()


@on_each_device
def test_blocks_and_slices_change_nothing(monkeypatch, device):
    rng = np.random.default_rng(5)
    rows = random_rows(rng, 1400, 60, "clustered")
    rows[700:720] = rows[:20]  # of equals in several blocks the first is found
    queries = np.concatenate([rows[:20], rows[1300:]])
    expected = slow_search(normalized(rows[:1300]), normalized(queries), 0.9)
    assert 20 < sum(id_ >= 0 for id_ in expected[1]) < 120
    assert found(held(rows[:1300], device), queries, 0.9) == expected
    sizes = {"_SMALLEST": 32, "_LARGEST": 160, "QUERIES": 24, "PRODUCTS": 24 * 64}
    for name, size in (sizes | {"_HITS": 3, "_PAIRS": 7}).items():
        monkeypatch.setattr(module, name, size)
    on_device = held(rows[:1300], device, step=100)
    assert found(on_device, queries, 0.9) == expected
    assert [len(block.rows) for block in on_device._blocks[:5]] == [32, 32, 64, 128, 160]
    assert [found(on_device, row[None], 0.9) for row in queries[:10]] == [
        ([expected[0][i]], [expected[1][i]]) for i in range(10)
    ]
    assert len(on_device) == 1300


@on_each_device
def test_a_score_at_the_threshold_to_the_last_bit_is_not_above_it(device):
    rows = normalized(random_rows(np.random.default_rng(0), 90, 384, "clustered"))
    pool, queries = rows[:60], rows[60:]
    on_device = held(pool, device)
    compared = 0
    for query in queries:
        cosines = slow_cosines(query, pool).tolist()
        best = max(cosines)
        if 0 < best < 1:
            assert found(on_device, query[None], best) == ([0.0], [-1])
            below = math.nextafter(best, 0)
            assert found(on_device, query[None], below) == ([best], [cosines.index(best)])
            compared += 1
    assert compared > 10


@on_each_device
def test_equal_and_zero_rows(device):
    rows = normalized(np.random.default_rng(1).normal(size=(100, 384)))
    pool = np.concatenate([rows, np.zeros((3, 384), np.float32), rows])
    cosines, ids = found(held(pool, device), rows, 0.9)
    assert ids == list(range(100))
    assert max(cosines) == 1.0
    assert set(found(held(pool, device), rows, 1.0)[1]) == {-1}
    assert found(held(pool, device), np.zeros((1, 384)), 0.1) == ([0.0], [-1])
    assert found(DeviceRows(384, device), rows[:2], 0.1) == ([0.0, 0.0], [-1, -1])
    assert found(held(pool, device), rows[:0], 0.1) == ([], [])


@on_each_device
def test_below_zero_rows_that_are_not_there_are_not_found(device):
    rows = np.eye(2, dtype=np.float32)
    cosines, ids = held(rows, device).search(-rows, -2.0)
    assert (cosines.tolist(), ids.tolist()) == ([0.0, 0.0], [1, 0])


@on_each_device
def test_tensors_of_any_kind_are_embeddings_too(device):
    rows = random_rows(np.random.default_rng(3), 120, 40, "clustered")
    tensor = torch.from_numpy(rows).half().to(device).requires_grad_()
    rows = rows.astype(np.float16)
    expected = slow_search(normalized(rows[:100]), normalized(rows[100:]), 0.9)
    assert found(held(tensor[:100], device), tensor[100:], 0.9) == expected
    rows.flags.writeable = False
    assert found(held(rows[:100], device), rows[100:], 0.9) == expected


@on_each_device
def test_what_else_torch_was_asked_for_changes_nothing_and_stays_asked_for(monkeypatch, device):
    rows = random_rows(np.random.default_rng(4), 600, 384, "clustered")
    expected = slow_search(normalized(rows[:500]), normalized(rows[500:]), 0.9)
    matmul = torch.backends.cuda.matmul
    loose = [name for name in ("allow_fp16_reduced_precision_reduction", "allow_fp16_accumulation")
             if hasattr(matmul, name)]  # fmt: skip
    before = {name: getattr(matmul, name) for name in loose}
    during = []
    largest = module._largest_products

    def look(*arguments):
        during.extend(getattr(matmul, name) for name in loose)
        return largest(*arguments)

    monkeypatch.setattr(module, "_largest_products", look)
    try:
        for name in loose:
            setattr(matmul, name, True)
        with torch.autocast(device, dtype=torch.bfloat16):
            assert found(held(rows[:500], device), rows[500:], 0.9) == expected
        assert all(getattr(matmul, name) for name in loose)
        assert during
        assert not any(during)
    finally:
        for name, value in before.items():
            setattr(matmul, name, value)


@on_each_device
def test_unusable_embeddings_are_refused_and_nothing_is_added(device):
    on_device = DeviceRows(2, device)
    with pytest.raises(ValueError, match="row 1 holds NaN or infinity"):
        on_device.add(np.array([[1, 2], [np.nan, 1]]))
    with pytest.raises(ValueError, match="have 3 numbers, the index has 2"):
        on_device.search(np.ones((1, 3)), 0.9)
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        on_device.add(np.ones(3))
    assert len(on_device) == 0


def test_a_device_that_is_not_there_is_one_line():
    for name in ("cuda:99", *(() if torch.cuda.is_available() else ("cuda",))):
        with pytest.raises(ValueError, match=rf"^there is no device {name}: torch sees \d+ CUDA"):
            CosineIndex(8, device=name)
    for name in ("meta", "tpu", ""):
        with pytest.raises(ValueError, match=r"^device must be cpu, cuda or cuda:N, not"):
            CosineIndex(8, device=name)


def test_a_device_without_room_says_so_and_keeps_what_it_has(monkeypatch):
    on_device = DeviceRows(40, "cpu")
    rows = np.eye(40, dtype=np.float32)
    monkeypatch.setattr(module, "_SMALLEST", 32)
    on_device.add(rows[:30])
    for name in ("_SMALLEST", "_LARGEST"):  # more than there are addresses
        monkeypatch.setattr(module, name, 1 << 44)
    with pytest.raises(module.DeviceMemoryError, match=r"^[^\n]*can't allocate memory[^\n]*$"):
        on_device.add(rows[30:])
    assert len(on_device) == 32
    assert found(on_device, rows[30:33], 0.9) == ([1.0, 1.0, 0.0], [30, 31, -1])


@on_each_device
def test_a_device_has_room_for_some_rows(device):
    assert module.free_bytes(device) > 1000 * module.bytes_of_a_row(384) == 1000 * 2304


def test_it_needs_numpy_and_torch_alone():
    code = (
        "import runpy, sys\n"
        "for name in ('numba', 'llvmlite', 'faiss', 'ray', 'ray_si'): sys.modules[name] = None\n"
        f"rows = runpy.run_path({module.__file__!r})['DeviceRows'](3, 'cpu')\n"
        "rows.add([[3, 0, 4]])\n"
        "print(rows.search([[0, 0, 2]], 0.7)[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[0.80000001]\n"


def test_rows_of_384_take_2304_bytes():
    on_device = held(np.ones((100, 384), np.float32), "cpu")
    (block,) = on_device._blocks
    assert on_device.nbytes == 100 * 2304
    assert block.rows.nbytes + block.halves.nbytes == 16_384 * 2304


@needs_cuda
def test_an_index_on_a_gpu_is_saved_and_loaded_as_any_other(tmp_path):
    rows = random_rows(np.random.default_rng(6), 3000, 384, "clustered")
    indexes = {name: CosineIndex(384, device=name) for name in ("cpu", "cuda")}
    for name, index in indexes.items():
        index.add(rows[:2900])
        index.save(tmp_path / name)
    assert (tmp_path / "cpu").read_bytes() == (tmp_path / "cuda").read_bytes()
    loaded = CosineIndex.load(tmp_path / "cpu", device="cuda")
    cosines, ids = indexes["cpu"].search(rows[2900:])
    assert 0 < (ids >= 0).sum() < 100
    for index in (indexes["cuda"], loaded):
        assert [part.tolist() for part in index.search(rows[2900:])] == [
            cosines.tolist(), ids.tolist()
        ]  # fmt: skip
