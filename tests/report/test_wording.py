"""Numbers and texts as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from ray_si.report.wording import number, plain, share


@pytest.mark.parametrize(("value", "text"), [(1234567, "1,234,567"), (0, "0"), (None, "–")])
def test_numbers_are_grouped_and_what_is_not_known_is_a_dash(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(1, 3, "33.3 %"), (0, 5, "0.0 %"), (0, 0, "–")],
)
def test_a_share_of_nothing_is_a_dash(part, whole, text):
    assert share(part, whole) == text


@given(st.text())
def test_what_does_not_print_is_replaced_one_for_one(text):
    shown = plain(text)
    assert len(shown) == len(text)
    assert shown.replace("\ufffd", "").isprintable()
    assert all(new in (old, "\ufffd") for old, new in zip(text, shown, strict=True))
