"""All pairs that are near are found, whatever the texts are cut into."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given, settings, strategies as st

from ray_si.dedup.peers.join import RougeJoin
from ray_si.dedup.tokens import tokenize
from tests.dedup.oracle import THRESHOLDS, corpora, lcs, slow_f

ROOM = 1 << 20


def cut(texts, size):
    return [(start, texts[start : start + size]) for start in range(0, len(texts), size)]


def joined(texts, settled, threshold, size):
    """The join of some texts, their groups, and the pairs of groups that it named."""
    join, groups, pairs = RougeJoin(threshold, "auto"), [], []
    for start, part in cut(texts, size):
        own, near = join.add(part, settled[start : start + len(part)], ROOM)
        groups += own.tolist()
        pairs += zip(*(column.tolist() for column in near), strict=True)
    return join, groups, pairs


def slow_pairs(left, right, threshold):
    """(i, j, LCS, summed lengths) of those above the threshold."""
    for i, one in enumerate(left):
        for j, other in enumerate(right):
            if slow_f(one, other) > Fraction(str(threshold)):
                a, b = tokenize(one, "auto"), tokenize(other, "auto")
                yield i, j, lcs(a, b), len(a) + len(b)


@settings(max_examples=150)
@given(corpora(max_size=25), THRESHOLDS, st.integers(1, 9), st.integers(1, 12))
def test_pairs_equal_comparing_every_two(texts, threshold, size, repeated):
    texts = [" ".join([text] * (repeated if i % 5 == 0 else 1)) for i, text in enumerate(texts)]
    # texts with the same words are settled or not alike
    settled = np.array([len(text) % 3 == 0 for text in texts], bool)
    join, groups, pairs = joined(texts, settled, threshold, size)
    firsts = {group: i for i, group in reversed(list(enumerate(groups)))}
    distinct = [texts[firsts[group]] for group in range(len(join))]
    expected = {
        (i, j, *rest)
        for i, j, *rest in slow_pairs(distinct, distinct, threshold)
        if j < i and not (settled[firsts[i]] and settled[firsts[j]])
    }
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == expected
    for i, group in enumerate(groups):  # and what is one group has the same words
        assert tokenize(texts[i], "auto") == tokenize(distinct[group], "auto")


@settings(max_examples=100)
@given(corpora(max_size=20), corpora(max_size=15), THRESHOLDS, st.integers(1, 9))
def test_others_are_told_of_all_groups_that_they_are_near(texts, queries, threshold, size):
    queries = [f"{text} unheard of" if i % 3 == 0 else text for i, text in enumerate(queries)]
    join, groups, _ = joined(texts, np.zeros(len(texts), bool), threshold, size)
    near = join.near(queries, np.zeros(len(queries), bool), ROOM)
    found = sorted(zip(*(column.tolist() for column in near), strict=True))
    expected = slow_pairs(queries, texts, threshold)
    assert found == sorted({(i, groups[j], *rest) for i, j, *rest in expected})


def test_words_that_many_texts_share_are_listed_in_full():
    texts = [f"one two three four five {i}" for i in range(500)]
    _, _, pairs = joined(texts, np.zeros(500, bool), 0.8, 64)
    assert len(set(pairs)) == 500 * 499 // 2


def test_texts_of_any_length_are_joined():
    long = " ".join(f"w{i}" for i in range(70_000))
    texts = [long, f"{long} end", "short", long]
    _, groups, pairs = joined(texts, np.zeros(4, bool), 0.7, 1)
    assert groups == [0, 1, 2, 0]
    assert pairs == [(1, 0, 70_000, 140_001)]


def test_more_pairs_than_there_is_room_for_are_none():
    texts = [f"one two three four five {i}" for i in range(20)]
    assert RougeJoin(0.7, "auto").add(texts, np.zeros(20, bool), 189)[1] is None
    assert len(RougeJoin(0.7, "auto").add(texts, np.zeros(20, bool), 190)[1].left) == 190


def test_copies_are_one_group_and_cost_no_pairs():
    join = RougeJoin(0.7, "auto")
    groups, near = join.add(["the same words", "The same, words!"] * 500, np.zeros(1000, bool), 1)
    assert set(groups.tolist()) == {0}
    assert len(near.left) == 0
    assert join.twice.tolist() == [6]
    assert RougeJoin(1.0, "auto").add(["a b"], np.zeros(1, bool), 1)[0].tolist() == [0]
