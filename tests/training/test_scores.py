"""ROUGE-L, exact match, and bootstrap intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from ray_si.training.scores import estimate, exact_match, resampled, rouge_l

OPTIONS = {"resamples": 2000, "confidence": 0.95, "seed": 0}


def test_rouge_l_is_that_of_the_best_reference_with_stems():
    assert rouge_l("the cats sat", ["a dog", "the cat sat"]) == 1
    assert rouge_l("the cat", ["the cat sat down"]) == pytest.approx(2 * 1 * 0.5 / 1.5)
    assert rouge_l("", ["the cat"]) == 0


def test_exact_match_overlooks_case_punctuation_and_spacing_and_nothing_else():
    assert exact_match(" Yes.\n", ["no", "yes"]) == 1
    assert exact_match("yes, it is", ["yes"]) == 0


def test_the_mean_is_over_instances_and_the_interval_holds_it():
    found = estimate([1, 0, 0, 1, 1, 1], ["a", "a", "b", "b", "c", "d"], **OPTIONS)
    assert found.mean == pytest.approx(100 * 4 / 6)
    assert 0 <= found.low < found.mean < found.high <= 100


def test_equal_scores_have_an_interval_of_no_width_and_a_single_one_has_none():
    found = estimate([0.5] * 8, list("abcdefgh"), **OPTIONS)
    assert (found.mean, found.low, found.high) == pytest.approx((50, 50, 50))
    assert estimate([1], ["a"], **OPTIONS).as_dict() == {"mean": 100.0, "low": None, "high": None}


def test_instances_of_one_task_go_together():
    """Twenty tasks of 50 instances that all score alike: there are 20 facts here, not 1000."""
    rng = np.random.default_rng(0)
    means = rng.random(20)
    scores = np.repeat(means, 50)
    tasks = np.repeat(np.arange(20), 50).astype(str).tolist()
    clustered = estimate(scores, tasks, **OPTIONS)
    one_each = estimate(means, list(map(str, range(20))), **OPTIONS)
    assert clustered.as_dict() == one_each.as_dict()
    as_if_independent = estimate(scores, ["same"] * 1000, **OPTIONS)
    assert clustered.high - clustered.low > 5 * (as_if_independent.high - as_if_independent.low)
    assert resampled(tasks) == "tasks"
    assert resampled(["same"] * 3) == "instances"


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    tasks = list(map(str, range(40)))
    inside = 0
    for _ in range(200):
        found = estimate(rng.random(40) < 0.3, tasks, resamples=500, confidence=0.9, seed=2)
        inside += found.low <= 30 <= found.high
    assert 0.82 < inside / 200 < 0.96


def test_the_bootstrap_repeats_itself_and_follows_its_seed():
    scores, tasks = list(np.linspace(0, 1, 30)), list(map(str, range(30)))
    assert estimate(scores, tasks, **OPTIONS) == estimate(scores, tasks, **OPTIONS)
    other = estimate(scores, tasks, **OPTIONS | {"seed": 1})
    assert other != estimate(scores, tasks, **OPTIONS)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12), st.integers(0, 5))
def test_bounds_enclose_the_mean_of_every_resample_range(scores, seed):
    tasks = list(map(str, range(len(scores))))
    found = estimate(scores, tasks, resamples=100, confidence=0.95, seed=seed)
    assert 100 * min(scores) - 1e-9 <= found.low <= found.high <= 100 * max(scores) + 1e-9
