"""What choices say, in the ways in which endpoints write it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ray_si.engines.base import Request, SamplingParams
from ray_si.engines.openai.message import EndedInError, finish_of, text_of, thought_of
from ray_si.engines.openai.protocol import read_answer

CHAT = Request([{"role": "user", "content": "Hi"}], SamplingParams(stop=("##",)), 0)


def _answer(finish_reason="stop", **message):
    said = SimpleNamespace(**{"content": None} | message)
    return SimpleNamespace(
        choices=[SimpleNamespace(message=said, finish_reason=finish_reason)], usage=None
    )


@pytest.mark.parametrize(
    ("content", "text", "thought"),
    [
        ("Yes", "Yes", ""),
        (None, "", ""),
        ([{"type": "text", "text": "Ye"}, {"type": "output_text", "text": "s"}], "Yes", ""),
        (["Ye", "s"], "Yes", ""),
        ([{"type": "text", "text": {"value": "Yes"}}], "Yes", ""),
        ([SimpleNamespace(type="text", text="Yes")], "Yes", ""),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
          {"type": "text", "text": "Yes"}], "Yes", "hm"),
        ([{"type": "reasoning", "text": "hm"}, {"type": "text", "text": "Yes"}], "Yes", "hm"),
        ([{"type": "image_url", "image_url": {"url": "x"}}], "", ""),
        ([], "", ""),
    ],
)  # fmt: skip
def test_content_is_text_or_a_list_of_parts(content, text, thought):
    assert text_of(content) == text
    assert thought_of({"content": content}) == thought


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_a_thought_that_comes_apart_precedes_the_text_in_tags(field):
    answer = _answer(content="A ## B", **{field: "hm ## 1. draft"})
    completion = read_answer(CHAT, answer)
    assert completion.text == "<think>\nhm ## 1. draft\n</think>\n\nA "
    assert completion.finish_reason == "stop"
    cut_off = read_answer(CHAT, _answer("length", **{field: "hm"}))
    assert (cut_off.text, cut_off.finish_reason) == ("<think>\nhm\n", "length")


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("stop", "stop"),
        (None, "stop"),
        ("eos", "stop"),
        ("length", "length"),
        ("max_tokens", "length"),
        ("MAX_TOKENS", "length"),
        ("model_length", "length"),
        ("content_filter", "refused"),
        ("SAFETY", "refused"),
        ("tool_calls", "refused"),
    ],
)
def test_finish_reasons_of_all_kinds_are_known(reason, finish):
    assert finish_of(reason)[0] == finish
    completion = read_answer(CHAT, _answer(reason, content="cut o"))
    assert completion.finish_reason == finish
    assert completion.text == ("" if finish == "refused" else "cut o")
    assert (completion.error is None) == (finish != "refused")


def test_an_answer_that_the_endpoint_broke_off_is_a_failure():
    for reason in ("error", "abort", "network_error"):
        with pytest.raises(EndedInError, match=f"ended its answer with '{reason}'"):
            read_answer(CHAT, _answer(reason, content="half"))
