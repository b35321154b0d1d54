"""What answers of endpoints say, read without one."""

from __future__ import annotations

import math
from dataclasses import replace
from email.utils import formatdate
from types import SimpleNamespace

import pytest
from hypothesis import given, settings, strategies as st

from ray_si.engines.base import Request, SamplingParams
from ray_si.engines.openai.errors import retry_after
from ray_si.engines.openai.protocol import (
    body_of,
    first_alternatives,
    label_logprobs,
    mean_logprob,
)

YES_NO = ("Yes", "No")


def test_tokens_that_begin_a_label_count_for_it():
    first = {"Yes": math.log(0.3), " yes": math.log(0.2), "No.": math.log(0.4), "Not": -1.0}
    yes, no = label_logprobs(first, YES_NO)
    assert math.exp(yes) == pytest.approx(0.5)
    assert math.exp(no) == pytest.approx(0.4)


def test_the_beginning_of_a_long_label_is_enough():
    first = {" class": -0.5, " gen": -1.5, " c": -4.0, " ": -0.1}
    yes, no = label_logprobs(first, (" classification", " generation"))
    assert yes == pytest.approx(math.log(math.exp(-0.5) + math.exp(-4.0)))
    assert no == -1.5


def test_a_label_that_is_not_among_the_likeliest_gets_a_bound():
    assert label_logprobs({"Yes": -0.1, "Maybe": -3.0}, YES_NO) == pytest.approx((-0.1, -3.0))
    assert label_logprobs({"Maybe": -3.0}, YES_NO) is None
    assert label_logprobs({}, YES_NO) is None


def test_what_begins_both_labels_counts_for_none():
    assert label_logprobs({"Ty": -0.1, "Type A": -2.0}, ("Type A", "Type B")) == (-2.0, -2.0)


@settings(max_examples=30)
@given(st.dictionaries(st.text("Yes No.a", max_size=5), st.floats(-20, -0.01), max_size=20))
def test_scores_are_no_higher_than_all_tokens_together(first):
    scores = label_logprobs(first, YES_NO)
    if scores is not None:
        assert all(score >= min(first.values()) - 1e-9 for score in scores)
        assert max(scores) <= math.log(sum(map(math.exp, first.values()))) + 1e-9


def test_log_probabilities_are_found_in_either_place():
    listed = [{"token": "Yes", "logprob": -0.1}, {"token": "No", "logprob": -2.4}]
    as_chat = SimpleNamespace(content=[SimpleNamespace(top_logprobs=listed)])
    as_text = SimpleNamespace(top_logprobs=[{"Yes": -0.1, "No": -2.4}])
    for logprobs in (as_chat, as_text):
        found = first_alternatives(SimpleNamespace(logprobs=logprobs))
        assert found == {"Yes": -0.1, "No": -2.4}
    for nothing in (
        None,
        SimpleNamespace(content=[]),
        SimpleNamespace(content=[SimpleNamespace(token="Yes", top_logprobs=None)]),
        SimpleNamespace(content=[{"token": "Yes"}]),
        SimpleNamespace(content=[{"top_logprobs": [{"token": "Yes"}]}]),
        SimpleNamespace(top_logprobs=[None]),
    ):
        assert first_alternatives(SimpleNamespace(logprobs=nothing)) == {}


NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": formatdate(NOW + 30, usegmt=True)}, 30),
        ({"retry-after": formatdate(NOW - 30, usegmt=True)}, 0),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
    ],
)
def test_retry_after_is_understood_in_all_its_forms(headers, seconds):
    assert retry_after(headers, NOW) == seconds


def test_the_log_probability_of_what_is_written_is_asked_for_answers_alone_and_read():
    chat = Request([{"role": "user", "content": "Hi"}], SamplingParams(), 1, "answer")
    assert body_of(chat, "m")["logprobs"] is True
    assert body_of(replace(chat, prompt="Hi"), "m")["logprobs"] == 1
    assert "logprobs" not in body_of(chat, "m", omit=("logprobs",))
    assert "logprobs" not in body_of(replace(chat, purpose="instructions"), "m")
    content = [SimpleNamespace(logprob=-1.0), SimpleNamespace(), SimpleNamespace(logprob=-2.0)]
    as_chat = SimpleNamespace(content=content)
    as_text = SimpleNamespace(token_logprobs=[None, -1.0, -2.0])
    for logprobs in (as_chat, as_text):
        assert mean_logprob(SimpleNamespace(logprobs=logprobs)) == -1.5
    for nothing in (None, SimpleNamespace(content=[]), SimpleNamespace(token_logprobs=None)):
        assert mean_logprob(SimpleNamespace(logprobs=nothing)) is None
