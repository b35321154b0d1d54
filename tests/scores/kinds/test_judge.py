"""Grades by a model: expected over labels, or written; a grade that cannot be read is no grade."""

from __future__ import annotations

import asyncio
import math

import pytest

from ray_si.config.scores import scores_of
from ray_si.engines.base import Completion
from ray_si.errors import ConfigError
from ray_si.scores.kinds.judge import Judge

ROW = {"id": "r", "instruction": "Add {input}.", "input": "1 and 2", "output": "3 {instruction}"}


def judge(**settings):
    return Judge(scores_of({"judge": settings})["judge"])


def answered(scorer, completion):
    asked = []

    async def ask(request):
        asked.append(request)
        return completion

    return asyncio.run(scorer.score(ROW, ask)), asked[0]


def test_the_expected_grade_is_the_mean_of_the_grades_by_their_probabilities():
    logprobs = tuple(math.log(p / 2) for p in (0.1, 0.2, 0.3, 0.4, 0.0001))
    scored, request = answered(judge(), Completion("4", "stop", label_logprobs=logprobs))
    total = 1.0001
    assert scored.value == pytest.approx((0.1 + 0.4 + 0.9 + 1.6 + 0.0005) / total)
    assert request.labels == ("1", "2", "3", "4", "5")
    [turn] = request.prompt
    assert "Task: Add {input}.\nInput: 1 and 2\nAnswer: 3 {instruction}" in turn["content"]


def test_very_unlikely_labels_still_have_a_mean():
    logprobs = (-2000.0, -2000.0, -2000.0, -2000.0, -2000.0)
    assert answered(judge(), Completion("1", "stop", label_logprobs=logprobs))[0].value == 3


def test_labels_of_a_completion_model_begin_with_a_space():
    scorer = judge(generator={"prompt_style": "completion"})
    _, request = answered(scorer, Completion("1", "stop", label_logprobs=(0.0,) * 5))
    assert isinstance(request.prompt, str)
    assert request.labels == (" 1", " 2", " 3", " 4", " 5")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Good, but of 5 points one is missing. Grade: 4", 4),
        ("4/5", 4),
        ("Grade: **3** out of 5.", 3),
        ("3/4 of it is fine.", None),
        ("**Grade: 2.**", 2),
        ("<think>\nA 2, or a 3?\n</think>\n\nGrade: 4", 4),
        ("<think>\nA 2, or a 3?\n</think>\n\nI cannot say.", None),
        ("Grade: 3.5", None),
        ("I cannot say; 80% of it is fine.", None),
        ("", None),
    ],
)
def test_of_a_written_answer_the_last_number_that_is_a_grade_counts(text, value):
    scored, request = answered(judge(method="text"), Completion(text, "stop"))
    assert scored.value == value
    assert scored.detail == text
    assert scored.reason == (None if value else "unparsed")
    assert request.labels == ()
    assert request.sampling.temperature == 0


@pytest.mark.parametrize(
    ("text", "finish_reason"),
    [
        ("<think>\nFrom 1 to 5. The answer lists 2", "length"),
        ("<think>\nFrom 1 to 5. The answer lists 2\n", "stop"),
        ("Of its 3 parts 2", "length"),
    ],
)
def test_an_answer_or_thought_that_was_cut_off_gives_no_grade(text, finish_reason):
    scored, _ = answered(judge(method="text"), Completion(text, finish_reason))
    assert scored == (None, "unfinished", text)


def test_what_an_engine_refuses_or_fails_at_is_told_apart():
    assert answered(judge(), Completion("", "error", error="x"))[0] == (None, "engine_error", "x")
    assert answered(judge(), Completion("", "refused", error="x"))[0] == (None, "refused", "x")


def test_a_prompt_of_ones_own_is_taken_and_checked(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("Is {output} kind? 1 or 2?")
    scorer = judge(prompt=str(path), grades=[1, 2])
    _, request = answered(scorer, Completion("1", "stop", label_logprobs=(0.0, 0.0)))
    assert request.prompt[0]["content"] == "Is 3 {instruction} kind? 1 or 2?"
    for text, message in (
        ("Is it kind?", r"write \{output\} into it"),
        ("Is {answer} kind?", r"unknown placeholder \{answer\}"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            judge(prompt=str(path))
    with pytest.raises(ConfigError, match="cannot be read"):
        judge(prompt=str(tmp_path / "absent.txt"))


def test_a_model_is_asked_as_a_chat_unless_it_is_said_otherwise():
    assert judge(generator={"model": "x/y"}).generator.prompt_style == "chat"
    generator = {"model": "x/y", "prompt_style": "completion"}
    assert judge(generator=generator).generator.prompt_style == "completion"


def test_settings_that_make_no_sense_are_refused():
    for settings, message in (
        ({"grades": [1]}, "at least two grades"),
        ({"grades": [1, 1]}, "at least two grades"),
        ({"grades": [1, 2, 3]}, "our prompt asks for 1 to 5"),
        ({"grades": [0, 10], "method": "text"}, "our prompt asks for 1 to 5"),
        ({"grades": [10, 9, 1], "prompt": "mine.txt"}, "10 begins with 1, .* set method to text"),
        ({"grades": [0, 0.5, 1], "prompt": "mine.txt"}, "0.5 begins with 0, "),
        ({"generator": {"engine": "reward", "model": "x"}}, "writes nothing"),
    ):
        with pytest.raises(ConfigError, match=message):
            judge(**settings)


def test_written_grades_may_begin_as_others_do(tmp_path):
    (tmp_path / "mine.txt").write_text("Is {output} kind, from 1 to 10?")
    scorer = judge(method="text", grades=list(range(1, 11)), prompt=str(tmp_path / "mine.txt"))
    assert answered(scorer, Completion("It is. 10", "stop"))[0].value == 10
