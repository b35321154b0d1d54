"""The report of an evaluation."""

from __future__ import annotations

import json

from ray_si.records import Instance
from ray_si.training.comparison import compare, to_markdown
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
    assert tuned["overall"]["rouge_l"] == {"mean": 100, "low": 100, "high": 100}
    assert (base["cut_off"], tuned["cut_off"]) == (0, 12)
    assert base["by_task"]["t2"]["rouge_l"]["mean"] == 100
    assert base["by_task"]["t3"] == {
        "instances": 1,
        "rouge_l": {"mean": 0, "low": None, "high": None},
        "exact_match": {"mean": 0, "low": None, "high": None},
    }
    assert json.loads(json.dumps(found)) == found


def test_differences_are_paired_and_from_the_first_model():
    """Both go right and wrong on the same tasks: unpaired intervals would overlap widely."""
    found = report(base=answers(6), same=answers(6), better=answers(11), worse=answers(1))
    assert list(found["differences"]) == ["same", "better", "worse"]
    assert found["differences"]["same"]["rouge_l"] == {"mean": 0, "low": 0, "high": 0}
    assert found["differences"]["better"]["rouge_l"]["low"] > 0
    assert found["differences"]["worse"]["rouge_l"]["high"] < 0
    text = to_markdown(found)
    assert "ROUGE-L, better less base: +41.7" in text
    assert "(paired; higher)" in text
    assert "(paired; lower)" in text
    assert "(paired; no difference that these instances show)" in text


def test_what_was_left_out_and_how_intervals_were_made_is_said():
    found = report(base=answers(6))
    text = to_markdown(found)
    assert "3 instances were left out: too near." in text
    assert "95 % intervals (percentile bootstrap, 500 resamples of tasks)" in text
