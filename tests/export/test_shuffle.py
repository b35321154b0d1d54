"""The shuffle is a function of the rows' numbers alone, whatever is held in memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from ray_si.export import shuffle
from ray_si.export.shuffle import Shuffle, row_numbers


def shuffled(folder, lines, numbers, buckets, size=3):
    spill = Shuffle(folder, buckets)
    for start in range(0, len(lines), size):
        spill.add(lines[start : start + size], numbers[start : start + size])
    return [line for part in spill.sorted() for line in part]


@given(
    st.lists(st.integers(0, 2**64 - 1) | st.sampled_from([0, 7, 2**63, 2**64 - 1]), max_size=40),
    st.integers(1, 9),
    st.integers(1, 60),
)
def test_lines_come_in_the_order_of_their_numbers(tmp_path_factory, numbers, buckets, buffer):
    lines = [f"line {i}\n".encode() for i in range(len(numbers))]
    expected = [line for _, line in sorted(zip(numbers, lines, strict=True), key=lambda p: p[0])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shuffle, "_BUFFER", buffer)  # so that buckets are written in several parts
        folder = tmp_path_factory.mktemp("spill") / "shuffle"
        assert shuffled(folder, lines, np.array(numbers, np.uint64), buckets) == expected
    assert list(folder.iterdir()) == []


def test_a_row_has_the_same_number_however_rows_are_cut():
    whole = row_numbers(5, "shuffle", 0, 100)
    parts = [row_numbers(5, "shuffle", start, 7) for start in range(0, 98, 7)]
    assert (np.concatenate(parts) == whole[:98]).all()
    assert len(set(whole.tolist())) == 100


def test_seeds_and_purposes_give_other_numbers():
    numbers = row_numbers(5, "shuffle", 0, 1000)
    for other in (row_numbers(6, "shuffle", 0, 1000), row_numbers(5, "layout", 0, 1000)):
        assert not (numbers == other).any()
        assert abs(np.corrcoef(numbers.astype(float), other.astype(float))[0, 1]) < 0.1


def test_numbers_are_spread_evenly():
    numbers = row_numbers(0, "shuffle", 0, 16_000)
    for places in (numbers % np.uint64(16), numbers >> np.uint64(60)):
        counts = np.bincount(places.astype(int), minlength=16)
        assert (abs(counts - 1000) < 150).all()  # nearly five standard deviations
