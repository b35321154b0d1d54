"""The report of an evaluation."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ray_si.records import Instance
from ray_si.training.comparison import compare, how_sure, to_markdown
from ray_si.training.config import Evaluation
from ray_si.training.tasks import Example

EXAMPLES = [
    Example(f"t{i}#0", f"t{i}", "Say it.", Instance("", f"word {i}"), (f"word {i}",))
    for i in range(12)
]


def answers(right: int, finish="stop"):
    return [
        {"text": f"word {i}" if i < right else "", "finish_reason": finish, "error": None}
        for i in range(len(EXAMPLES))
    ]


def report(**models):
    return compare(Evaluation(resamples=500), EXAMPLES, models, {"too near": 3})


def test_each_model_has_its_scores_overall_and_by_task():
    found = report(base=answers(3), tuned=answers(12, "length"))
    base, tuned = found["models"]["base"], found["models"]["tuned"]
    assert base["overall"]["exact_match"]["mean"] == 25
    assert tuned["overall"]["rouge_l"] == {"mean": 100, "low": 73.54, "high": 100}
    assert (base["cut_off_share"]["mean"], tuned["cut_off_share"]["mean"]) == (0, 100)
    assert (base["words"], tuned["words"], found["reference_words"]) == (0.5, 2, 2)
    assert (base["cut_off"], tuned["cut_off"]) == (0, 12)
    assert base["by_task"]["t2"]["rouge_l"]["mean"] == 100
    alone = {"mean": 0, "low": None, "high": None}
    assert base["by_task"]["t3"] == {"instances": 1} | dict.fromkeys(found["metrics"], alone)
    assert "by_category" not in base
    assert json.loads(json.dumps(found)) == found


def test_differences_are_paired_and_from_the_first_model():
    """Both go right and wrong on the same tasks: unpaired intervals would overlap widely."""
    found = report(base=answers(6), same=answers(6), better=answers(12), worse=answers(0))
    assert list(found["differences"]) == ["same", "better", "worse"]
    assert found["differences"]["same"]["rouge_l"] == {
        "mean": 0, "low": -26.46, "high": 26.46, "p": 1,
    }  # fmt: skip
    assert found["differences"]["better"]["rouge_l"]["low"] > 0
    assert found["differences"]["worse"]["rouge_l"]["high"] < 0
    text = to_markdown(found)
    assert "ROUGE-L, better less base: +50.0" in text
    assert "(paired, p = 0.031; higher)" in text
    assert "; lower)" in text
    assert "(paired, p = 1.000; no difference that these instances show)" in text


def test_how_sure_is_said_in_plain_words():
    found = report(base=answers(2), better=answers(11), same=answers(2))
    sure, unsure = (how_sure(found, name) for name in ("better", "same"))
    assert sure.startswith("better is better than base on tasks like these: were both equally good")
    assert "less than one in a hundred of such evaluations" in sure
    assert unsure.startswith("these 12 tasks do not tell whether same or base is better")
    assert "100 of a hundred" in unsure
    assert "So few tasks show differences from about 38 points on." in unsure
    assert f"**How sure:** {sure}" in to_markdown(found)
    one = compare(
        Evaluation(resamples=500), EXAMPLES[:1], {"a": answers(1)[:1], "b": answers(0)[:1]}, {}
    )
    assert how_sure(one, "b") == "one task does not tell whether b or a is better."


def test_a_gain_that_is_only_in_when_to_stop_is_told():
    stops = answers(12)
    rambles = [answer | {"text": answer["text"] + " and so on" * 9} for answer in stops]
    found = report(base=rambles, tuned=stops)
    assert found["differences"]["tuned"]["rouge_l"]["low"] > 0
    assert found["differences"]["tuned"]["rouge_l_same_stop"]["mean"] == 0
    assert "how long answers are is part of the difference" in how_sure(found, "tuned")


def test_categories_have_scores_of_their_own():
    examples = [replace(e, category="odd" if i % 2 else "even") for i, e in enumerate(EXAMPLES)]
    given = answers(12)
    given[1] = given[1] | {"text": ""}
    found = compare(Evaluation(resamples=500), examples, {"one": given}, {})
    by_category = found["models"]["one"]["by_category"]
    assert by_category["even"]["exact_match"]["mean"] == 100
    assert by_category["odd"]["exact_match"]["mean"] == pytest.approx(83.33)
    assert by_category["odd"]["instances"] == 6
    assert "| odd | exact match | 83.3 [" in to_markdown(found)


def test_what_was_left_out_and_how_intervals_were_made_is_said():
    found = report(base=answers(6))
    text = to_markdown(found)
    assert "3 instances were left out: too near." in text
    assert "95 % intervals (percentile bootstrap, 500 resamples of tasks; Clopper-Pearson" in text
