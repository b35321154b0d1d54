"""The measure itself: ROUGE-L, and its thresholds in exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import example, given, strategies as st
from rouge_score.rouge_scorer import RougeScorer

from ray_si.dedup.rouge import Threshold, rouge_l
from tests.dedup.oracle import WORDS

TEXTS = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)


@given(TEXTS, TEXTS)
def test_rouge_l_equals_the_reference_implementation(a, b):
    reference = RougeScorer(["rougeL"], use_stemmer=False).score(a, b)["rougeL"].fmeasure
    assert rouge_l(a, b, "reference") == pytest.approx(reference, abs=1e-12)


@given(
    st.one_of(st.integers(1, 10**6).map(lambda n: n / 10**6), st.floats(1e-9, 1, exclude_min=True)),
    st.integers(0, 40),
    st.integers(0, 40),
)
@example(0.1 + 0.2, 3, 5)
def test_the_tables_of_a_threshold_are_exact_arithmetic(threshold, m, n):
    tables, exact = Threshold(threshold), Fraction(str(threshold))
    for lcs in range(min(m, n) + 1):
        above = m + n > 0 and Fraction(2 * lcs, m + n) > exact
        assert (lcs >= tables.need[m + n]) == (above or (m + n == 0 and lcs > 0))
        assert (m + n <= tables.reach[lcs]) == (tables.need[m + n] <= lcs)
