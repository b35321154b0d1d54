"""Rows as JSON lines: the same bytes with and without orjson."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

from ray_si.export.training_lines import encoder

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    st.dictionaries(st.sampled_from("abc"), TEXTS | st.integers(-(2**53), 2**53) | st.booleans())
)
def test_lines_are_the_same_with_and_without_orjson(row):
    pytest.importorskip("orjson")
    fast = encoder(["instruction"])(row)
    slow = encoder(["mean_rouge"])(row)
    assert fast == slow
    assert json.loads(slow) == row
    assert slow.count(b"\n") == 1


def test_numbers_are_left_to_the_standard_library():
    assert encoder(["mean_rouge"])({"a": 1e-7}) == b'{"a":1e-07}\n'
    assert encoder(["most_similar"])({"a": 1e-7}) == b'{"a":1e-07}\n'
