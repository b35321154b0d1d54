"""Cosine index files: they come back equal; damage and what is made to do harm are noticed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from ray_si.dedup import CosineIndex
from tests.dedup.cosine.test_index import found, random_rows


@pytest.fixture
def saved(tmp_path):
    index = CosineIndex(24, 0.8, model="minilm")
    index.add(random_rows(np.random.default_rng(0), 400, 24, "clustered"))
    index.save(tmp_path / "pool.cosine")
    return index, tmp_path / "pool.cosine"


def test_a_saved_index_comes_back_equal(saved):
    index, path = saved
    loaded = CosineIndex.load(path, dimension=24, threshold=0.8, model="minilm")
    queries = random_rows(np.random.default_rng(0), 400, 24, "clustered")
    assert (len(loaded), loaded.model) == (400, "minilm")
    assert found(loaded, queries) == found(index, queries)
    assert [p.name for p in path.parent.iterdir()] == ["pool.cosine"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"dimension": 384}, "made for dimension 24, not 384"),
        ({"threshold": 0.9}, r"made for threshold 0\.8, not 0\.9"),
        ({"model": "e5"}, "made for model minilm, not e5"),
    ],
)
def test_an_index_made_for_something_else_is_refused(saved, wanted, message):
    with pytest.raises(ValueError, match=message):
        CosineIndex.load(saved[1], **wanted)


def with_header(path, **changes):
    data = path.read_bytes()
    header = json.loads(data[:4096]) | changes
    path.write_bytes(json.dumps(header).encode().ljust(4096) + data[4096:])


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 10**13},
        {"rows": -1},
        {"rows": 400.0},
        {"rows": True},
        {"dimension": 0},
        {"dimension": 48},
        {"dimension": "24"},
        {"dimension": 1, "rows": 24 * 400},  # fits the size; its rows are not of length 1
        {"threshold": 0},
        {"threshold": "1/0"},
        {"threshold": 1e400},
        {"threshold": float("nan")},
        {"model": ["minilm"]},
        {"kind": "else"},
        {"format": 2},
        {"crc32": 1},
        {"crc32": None},
    ],
)
def test_a_header_that_lies_is_noticed(saved, changes):
    with_header(saved[1], **changes)
    with pytest.raises(ValueError, match="is damaged or not a cosine index"):
        CosineIndex.load(saved[1])


def test_damaged_bytes_and_other_files_are_noticed(saved, tmp_path):
    data = saved[1].read_bytes()
    rng = np.random.default_rng(0)
    nested = b"[" * 4000 + data[4000:]
    flipped = [bytearray(data) for _ in range(40)]
    for copy, at in zip(flipped, rng.integers(4096, len(data), 40), strict=True):
        copy[at] ^= 1 << rng.integers(8)
    nan = data[:4096] + np.full(24, np.nan, np.float32).tobytes() + data[4096 + 96 :]
    path = tmp_path / "damaged"
    for content in (b"", b"text", data[:4096], data[:-1], data + b"0", nested, nan, *flipped):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged or not a cosine index"):
            CosineIndex.load(path)
    with pytest.raises(FileNotFoundError):
        CosineIndex.load(tmp_path / "absent")


numbers = st.one_of(
    st.integers(-(2**63), 2**63), st.floats(), st.text(max_size=3), st.none(), st.booleans()
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.dictionaries(
        st.sampled_from(["kind", "format", "dimension", "rows", "threshold", "model", "crc32"]),
        st.one_of(numbers, st.lists(numbers, max_size=2)),
        min_size=1,
    ),
    row=st.none() | st.tuples(st.integers(0, 399), st.binary(min_size=96, max_size=96)),
    size=st.none() | st.integers(0, 4096 + 96 * 401),
)
def test_whatever_a_file_holds_it_is_refused_or_can_be_searched(saved, changes, row, size):
    index, path = saved
    index.save(path)
    with_header(path, **changes)
    data = bytearray(path.read_bytes())
    if row is not None:
        data[4096 + 96 * row[0] : 4096 + 96 * (row[0] + 1)] = row[1]
    path.write_bytes(bytes(data) if size is None else bytes(data[:size]).ljust(size))
    try:
        loaded = CosineIndex.load(path)
    except ValueError as error:
        message = str(error)
    else:
        message = None
    if message is not None:
        assert "is damaged or not a cosine index" in message
        return
    cosines, ids = loaded.search(np.eye(4, loaded.dimension), 0.01)
    assert ((ids >= -1) & (ids < len(loaded))).all()
    assert (np.abs(cosines) <= 1).all()
