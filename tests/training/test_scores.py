"""ROUGE-L, exact match, and bootstrap intervals."""

from __future__ import annotations

import string

import numpy as np
import pytest
from hypothesis import given, strategies as st
from rouge_score.rouge_scorer import RougeScorer

from ray_si.training.scores import (
    estimate,
    exact_match,
    paired_p,
    resampled,
    rouge_l,
    rouge_l_same_stop,
    subword_tokens,
)

OPTIONS = {"resamples": 2000, "confidence": 0.95, "seed": 0}


def test_rouge_l_is_that_of_the_best_reference_with_stems():
    assert rouge_l("the cats sat", ["a dog", "the cat sat"]) == 1
    assert rouge_l("the cat", ["the cat sat down"]) == pytest.approx(2 * 1 * 0.5 / 1.5)
    assert rouge_l("", ["the cat"]) == 0


def official(prediction, references):
    """ROUGE-L and exact match in the steps of Super-NaturalInstructions' evaluation.py."""
    scorer = RougeScorer(["rougeL"], use_stemmer=True)

    def normalized(text):
        kept = "".join(ch for ch in text.lower() if ch not in set(string.punctuation))
        return " ".join(kept.split())

    scores = [scorer.score(target=text, prediction=prediction)["rougeL"] for text in references]
    matches = [normalized(prediction) == normalized(text) for text in references]
    return max(score.fmeasure for score in scores), float(max(matches))


words = st.sampled_from(
    ["Yes", "no.", "the", "running", "runs", "cats", "Cat!", "7", "é", "a-b", ""]
)
texts = st.lists(words, max_size=6).map(" ".join)


@given(texts, st.lists(texts, min_size=1, max_size=3))
def test_scores_are_those_of_the_official_steps(prediction, references):
    found = rouge_l(prediction, references), exact_match(prediction, references)
    assert found == official(prediction, references)


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
    if set(scores) <= {0, 1}:  # an exact interval says what other instances may do
        assert 0 <= found.low <= found.mean <= found.high <= 100
        return
    assert 100 * min(scores) - 1e-9 <= found.low <= found.high <= 100 * max(scores) + 1e-9


@pytest.mark.parametrize(
    ("right", "low", "high"), [(0, 0, 8.81), (40, 91.19, 100), (1, 0.06, 13.16), (20, 33.80, 66.20)]
)
def test_shares_of_independent_instances_have_the_interval_of_clopper_and_pearson(right, low, high):
    """Values of the tables: 0 of 40 is not [0, 0]."""
    scores = [1] * right + [0] * (40 - right)
    of_tasks = estimate(scores, list(map(str, range(40))), **OPTIONS)
    assert (of_tasks.low, of_tasks.high) == pytest.approx((low, high), abs=0.01)
    assert estimate(scores, ["same"] * 40, **OPTIONS) == of_tasks


def test_equal_scores_of_dependent_instances_count_as_one_of_each_task():
    tasks = [str(i // 10) for i in range(80)]
    found = estimate([0.0] * 80, tasks, **OPTIONS)
    assert found == estimate([0.0] * 8, list("abcdefgh"), **OPTIONS)
    assert found.high == pytest.approx(100 * (1 - 0.025 ** (1 / 8)))


def test_models_that_never_differ_may_still_differ_on_other_tasks():
    found = estimate([0.0] * 40, list(map(str, range(40))), **OPTIONS, paired=True)
    assert (found.mean, found.low, found.high) == pytest.approx((0, -8.81, 8.81), abs=0.01)


def test_the_exact_interval_covers_the_truth_near_zero_where_the_bootstrap_does_not():
    rng = np.random.default_rng(3)
    tasks = list(map(str, range(40)))
    inside = 0
    for _ in range(300):
        found = estimate(rng.random(40) < 0.02, tasks, **OPTIONS)
        inside += found.low <= 2 <= found.high
    assert inside / 300 >= 0.95


def test_the_paired_test_is_that_of_signs_where_differences_are_of_one_size():
    """Nine of ten tasks better: 22 of 1024 sign patterns are as far out (McNemar's exact test)."""
    differences = [1.0] * 9 + [-1.0] + [0.0] * 5
    tasks = list(map(str, range(15)))
    options = {"resamples": 1 << 15, "seed": 0}
    assert paired_p(differences, tasks, **options) == pytest.approx(22 / 1024)
    assert paired_p([0.0] * 5, tasks[:5], **options) == 1
    assert paired_p([0.0] * 4 + [0.5], tasks[:5], **options) == 1
    assert paired_p([0.5], ["a"], **options) is None


def test_the_paired_test_takes_tasks_as_wholes():
    """Four tasks of 25 instances each, all better: 2 of 16 patterns, not 2 of 2**100."""
    tasks = [str(i % 4) for i in range(100)]
    assert paired_p([0.1] * 100, tasks, resamples=2000, seed=0) == pytest.approx(2 / 16)


def test_the_paired_test_is_right_as_often_as_it_says():
    rng = np.random.default_rng(4)
    tasks = list(map(str, range(20)))
    below = sum(
        paired_p(rng.normal(size=20), tasks, resamples=500, seed=i) < 0.1 for i in range(200)
    )
    assert 8 <= below <= 34


def test_at_the_same_stop_what_comes_after_the_reference_s_length_does_not_count():
    reference = ["the nile flows north"]
    rambling = "The Nile flows north. It is long. It is very long. It is in Africa."
    assert rouge_l(rambling, reference) < 0.5
    assert rouge_l_same_stop(rambling, reference) == 1
    assert rouge_l_same_stop("The Nile", reference) == rouge_l("The Nile", reference)
    assert rouge_l_same_stop("", reference) == 0
    assert rouge_l_same_stop("yes of course", ["no", "yes"]) == 1


def test_other_scripts_are_scored_by_a_tokenizer_s_tokens_without_spaces_of_the_byte_level():
    class Words:
        def tokenize(self, text):
            return [f"Ġ{word}" if i else word for i, word in enumerate(text.split())]

    tokenizer = subword_tokens(Words())
    assert rouge_l("нил течёт", ["нил течёт на север"]) == 0
    assert rouge_l("нил течёт", ["нил течёт на север"], tokenizer) == pytest.approx(2 / 3)
    assert rouge_l("течёт", ["нил течёт"], tokenizer) == pytest.approx(2 / 3)
