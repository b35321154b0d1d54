"""Samples do not depend on how the stream is cut, and are uniform."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
from hypothesis import given, strategies as st

from ray_si.report.sample import Sample, draw, priorities, taken


@given(st.lists(st.integers(0, 40)), st.integers(1, 20))
def test_a_sample_is_the_same_however_the_stream_is_cut(parts, size):
    sample, start = Sample(size), 0
    for part in parts:
        lots = priorities(start, part)
        sample.add(lots, lambda chosen, start=start: [start + int(k) for k in chosen])
        start += part
    assert sample.seen == start
    assert sample.items() == draw(start, size)


def test_samples_are_uniform_and_nested():
    counts = Counter(k // 100 for k in draw(1000, 500))
    assert all(30 <= counts[tenth] <= 70 for tenth in range(10))
    assert draw(1000, 10) == draw(1000, 500)[:10]


@given(st.lists(st.lists(st.text(max_size=3), max_size=5), max_size=6), st.integers(0, 12))
def test_what_is_taken_from_parts_is_what_stands_there_in_the_whole(parts, size):
    whole = [text for part in parts for text in part]
    places = draw(len(whole), size)
    found = taken([pa.array(part, pa.string()) for part in parts], places)
    assert len(found) == len(parts)
    texts = [text for part in found for text in part.to_pylist()]
    assert texts == [whole[place] for place in sorted(places)]


def test_parts_may_hold_more_text_together_than_one_arrow_array_can():
    gibibyte = 1 << 30
    untouched = pa.py_buffer(np.zeros(gibibyte, np.uint8))
    offsets = pa.py_buffer(np.array([0, gibibyte - 4, gibibyte], np.int32))
    parts = [pa.StringArray.from_buffers(2, offsets, untouched) for _ in range(3)]
    assert [part.to_pylist() for part in taken(parts, [5, 1])] == [["\0\0\0\0"], [], ["\0" * 4]]
