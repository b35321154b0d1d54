"""Choosing rows: thresholds, ranks, clusters, diversity, exact numbers, and the random control."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from ray_si.errors import ConfigError, RunError
from ray_si.scores.expression import Expression
from ray_si.scores.selection import Criteria, choose, ranks

NAMES = ["a", "b"]
NAN = float("nan")


def parsed(text):
    return None if text is None else Expression.parse(text, NAMES)


def chosen(a, b=None, *, by=None, rank=None, vectors=None, **options):
    columns = {"a": np.array(a, float)}
    columns["b"] = np.zeros(len(a)) if b is None else np.array(b, float)
    criteria = Criteria(parsed(by), rank=parsed(rank), **options)
    embeddings = None if vectors is None else lambda rows: np.asarray(vectors, np.float32)[rows]
    return choose(columns, len(a), criteria, embeddings)


def test_all_that_hold_a_condition_are_chosen():
    choice = chosen([1, 5, 4, NAN, 6], by="a >= 4")
    assert choice.chosen.tolist() == [4, 1, 2]
    assert (choice.rows, choice.passed, choice.unknown) == (5, 3, 1)


def test_top_goes_by_the_mean_of_the_ranks_in_each_score():
    a, b = [1, 2, 3, 4], [10, 40, 20, 30]  # mean ranks 1, 3, 2.5, 3.5
    assert chosen(a, b, by="a > 0 and b > 0", top=3).chosen.tolist() == [3, 1, 2]


def test_top_goes_by_an_expression_where_there_is_one():
    choice = chosen([1, 2, 3, NAN], [9, 1, 1, 1], by="b > 0", rank="a - b", top=2)
    assert choice.chosen.tolist() == [2, 1]
    assert choice.unknown == 1  # it cannot be ranked


def test_exactly_so_many_or_none_at_all():
    with pytest.raises(
        RunError, match=r"only 2 of 4 rows are left by 'a > 2' for --top 3: .*--top 2"
    ):
        chosen([1, 2, 3, 4], by="a > 2", top=3)
    with pytest.raises(RunError, match=r"no row of 4 holds 'a > 9', and 1 lack a score"):
        chosen([1, 2, 3, NAN], by="a > 9")


@pytest.mark.parametrize("options", [{}, {"diverse": 0.9}, {"per_cluster": True}])
def test_rows_of_which_none_can_be_ranked_are_not_compared_with_each_other(options):
    message = "none of the 2 rows left by 'a > 2' has a value of 'b' to be ranked by"
    with pytest.raises(RunError, match=message):
        chosen([1, 3, 4], [1, NAN, NAN], by="a > 2", rank="b", top=1, vectors=[], **options)


def test_the_control_is_as_many_rows_drawn_from_all():
    rows = np.arange(2000.0)
    choice = chosen(rows, by="a >= 1000")
    control = choice.control
    assert len(control) == len(set(control.tolist())) == 1000
    assert 400 < (control < 1000).sum() < 600
    assert chosen(rows, by="a >= 1000").control.tolist() == control.tolist()
    assert chosen(rows, by="a >= 1000", seed=1).control.tolist() != control.tolist()


def test_ties_are_not_broken_by_place():
    first = chosen(np.ones(1000), by="a", top=100).chosen
    assert first.max() > 500
    assert sorted(first.tolist()) != list(range(100))


def test_each_cluster_gives_its_best_before_any_gives_its_second():
    random = np.random.default_rng(0)
    centres = np.eye(8, dtype=np.float32)[[0] * 90 + [4] * 10]
    vectors = centres + random.normal(0, 0.02, centres.shape).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    worth = np.r_[np.arange(100, 190), np.arange(10)]
    few = chosen(worth, rank="a", top=14, per_cluster=True, vectors=vectors).chosen
    plain = chosen(worth, rank="a", top=14).chosen
    assert (plain < 90).all()
    assert (few >= 90).any()


@given(st.integers(0, 2**32 - 1), st.floats(0.3, 1.0), st.integers(1, 40))
def test_diverse_rows_are_those_of_comparing_one_by_one(seed, limit, top):
    random = np.random.default_rng(seed)
    count = 60
    vectors = random.normal(size=(count, 4)).astype(np.float32)
    vectors[random.integers(0, count, 10)] = vectors[random.integers(0, count, 10)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    worth = random.permutation(count).astype(float)
    expected = []
    for row in np.argsort(-worth):
        cosines = vectors[expected].astype(float) @ vectors[row].astype(float)
        if np.abs(cosines - limit).min(initial=1) < 1e-5:
            return  # single precision may decide otherwise
        if len(expected) < top and not (cosines > limit).any():
            expected.append(int(row))
    if len(expected) < top:
        with pytest.raises(RunError, match="too like a better one"):
            chosen(worth, rank="a", top=top, diverse=limit, vectors=vectors)
    else:
        choice = chosen(worth, rank="a", top=top, diverse=limit, vectors=vectors)
        assert choice.chosen.tolist() == expected


@given(st.lists(st.sampled_from([0.0, 1.0, 2.5, 7.0, NAN]), max_size=30))
def test_ranks_are_those_of_scipy(numbers):
    from scipy.stats import rankdata

    values = np.array(numbers, float)
    expected = rankdata(values, nan_policy="omit") if len(values) else values
    np.testing.assert_array_equal(ranks(values), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give --by"),
        ({"by": "a", "top": 0}, "--top must be at least 1"),
        ({"by": "a", "rank": "b"}, "--rank says which rows --top takes"),
        ({"by": "a", "per_cluster": True}, "--per-cluster says which"),
        ({"by": "a", "diverse": 1.5}, "--diverse is a cosine"),
        ({"by": "1", "top": 3}, "names no score to rank by"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        chosen([1, 2, 3], **options)
