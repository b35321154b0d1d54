"""The contract of engines: what a completion may hold, and what does not fit."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from ray_si.engines.base import Completion, SamplingParams, too_long


@given(st.text())
def test_any_text_can_be_stored_and_what_could_be_before_is_as_it_was(text):
    completion = Completion(text, "stop", error=text)
    assert (
        completion.text
        == completion.error
        == text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )
    completion.text.encode()


@pytest.mark.parametrize(
    "computed",
    [
        {"mean_logprob": math.nan},
        {"reward": math.nan},
        {"label_logprobs": (-0.1, math.nan), "label_tokens": (1, 1)},
    ],
)
def test_what_was_made_of_nan_is_an_error_that_says_so(computed):
    completion = Completion("Yes", "stop", prompt_tokens=7, **computed)
    assert completion == Completion("", "error", prompt_tokens=7, error=completion.error)
    assert "NaN" in completion.error
    known = Completion("Yes", "stop", label_logprobs=(-math.inf, -0.1), mean_logprob=-0.1)
    assert (known.text, known.finish_reason) == ("Yes", "stop")


@given(st.integers(0, 50), st.integers(1, 50), st.integers(1, 80))
def test_a_request_is_refused_when_prompt_and_completion_exceed_the_context(prompt, most, context):
    refused = too_long(prompt, SamplingParams(max_tokens=most), context)
    assert (refused is None) == (prompt + most <= context)
    if refused:
        assert (refused.finish_reason, refused.prompt_tokens) == ("refused", prompt)
        assert str(context) in refused.error
