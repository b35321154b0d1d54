"""Samples do not depend on how the stream is cut, and are uniform."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, strategies as st

from ray_si.report.sample import Sample, draw, priorities


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
