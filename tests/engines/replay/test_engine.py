"""Replay: a pure function of the request, scripted or recorded."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace

import pyarrow as pa
import pytest

from ray_si.engines.base import Request, SamplingParams
from ray_si.engines.replay.engine import ReplayEngine
from ray_si.errors import EngineError
from ray_si.self_instruct.parsing import parse_instances, parse_instructions
from ray_si.self_instruct.prompts import (
    LABELS,
    classification_prompt,
    instance_prompt,
    instruction_prompt,
)

SAMPLING = SamplingParams()


def _ask(engine, requests):
    async def together():
        return await asyncio.gather(*map(engine.generate, requests))

    return asyncio.run(together())


def _instruction_requests(count):
    prompt = instruction_prompt(["Name a river."] * 8, style="completion").prompt
    return [Request(prompt, SAMPLING, seed) for seed in range(count)]


def test_answers_depend_on_the_request_alone():
    requests = _instruction_requests(40)
    forward = _ask(ReplayEngine(), requests)
    backward = _ask(ReplayEngine(), requests[::-1])[::-1]
    assert forward == backward
    assert len({completion.text for completion in forward}) > 35


def test_scripted_instructions_are_numbered_on_from_the_prompt_and_slip_now_and_then():
    completions = _ask(ReplayEngine(), _instruction_requests(300))
    assert "\n10. " in completions[0].text + completions[1].text
    items = [c for done in completions for c in parse_instructions(done.text, done.finish_reason)]
    reasons = {item.reason for item in items}
    assert {"unfinished", "empty_completion", None} == reasons
    assert sum(item.reason is None for item in items) > 1200
    assert {c.finish_reason for c in completions} == {"stop", "length"}


@pytest.mark.parametrize(
    ("instruction", "answer"),
    [
        ("Decide whether the review of chess is positive or negative.", " classification"),
        ("Describe how to prepare tea.", " generation"),
    ],
)
def test_labels_are_scored(instruction, answer):
    prompt = classification_prompt(instruction, style="completion").prompt
    labels = LABELS["completion"]
    (done,) = _ask(ReplayEngine(), [Request(prompt, SAMPLING, 0, "classification", labels)])
    assert done.text == answer
    assert labels[done.label_logprobs.index(max(done.label_logprobs))] == answer


@pytest.mark.parametrize("output_first", [True, False])
def test_scripted_instances_mostly_parse(output_first):
    prompt = instance_prompt(
        "Tell if the question is easy, medium or hard.",
        style="completion",
        output_first=output_first,
    ).prompt
    purpose = "output_first" if output_first else "input_first"
    requests = [Request(prompt, SAMPLING, seed, purpose) for seed in range(100)]
    parsed = [
        parse_instances(done.text, done.finish_reason, output_first=output_first)
        for done in _ask(ReplayEngine(), requests)
    ]
    assert 80 <= sum(map(bool, parsed)) < 100


def test_latency_is_spent_in_slots_and_changes_no_answer():
    requests = _instruction_requests(20)
    began = time.perf_counter()
    late = _ask(ReplayEngine(latency_s=0.02, slots=2), requests)
    assert time.perf_counter() - began >= 0.2  # 20 requests, 2 at a time, 0.02 s each
    assert late == _ask(ReplayEngine(), requests)


def test_recorded_answers_come_back(tmp_path):
    path = tmp_path / "answers.jsonl"
    rows = [
        {"prompt": "p", "completion": "any seed"},
        {"prompt": "p", "seed": 7, "completion": "seed 7", "finish_reason": "length"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    engine = ReplayEngine(recording=str(path))
    request = Request("p", SAMPLING, 7)
    first, second, third = _ask(
        engine, [request, replace(request, seed=8), replace(request, prompt="q")]
    )
    assert (first.text, first.finish_reason) == ("seed 7", "length")
    assert (second.text, second.finish_reason) == ("any seed", "stop")
    assert third.finish_reason == "error"
    assert "no answer" in third.error


def test_recordings_as_programs_write_them_are_read(tmp_path):
    path = tmp_path / "answers.jsonl"
    rows = [
        {"prompt": "p", "completion": "one\u2028two\u0085three", "finish_reason": None},
        {"prompt": "q", "completion": None, "seed": None},
        {"prompt": "r", "completion": "half", "finish_reason": "max_tokens"},
        {"prompt": "s", "completion": "half", "finish_reason": "content_filter"},
        {"prompt": "t", "completion": "half", "finish_reason": "error"},
        {"prompt": "u", "completion": "<think>No</think>\nYes"},
    ]
    lines = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_bytes(b"\xef\xbb\xbf" + lines.encode())
    asked = [Request(name, SAMPLING, 0) for name in "pqrst"]
    asked.append(Request("u", SAMPLING, 0, "classification", ("Yes", "No")))
    done = _ask(ReplayEngine(recording=str(path)), asked)
    assert [(c.text, c.finish_reason) for c in done] == [
        ("one\u2028two\u0085three", "stop"),
        ("", "stop"),
        ("half", "length"),
        ("", "refused"),
        ("", "error"),
        ("<think>No</think>\nYes", "stop"),
    ]
    assert done[5].label_logprobs == (0.0, -10.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("{", "line 1"),
        ('{"prompt": "p"}', "line 1"),
        ("[1]", "line 1"),
        ('{"prompt": "p", "completion": 5}', "line 1.*neither text nor null"),
    ],
)
def test_a_malformed_recording_is_refused(tmp_path, text, message):
    path = tmp_path / "answers.jsonl"
    path.write_text(text)
    with pytest.raises(EngineError, match=message):
        ReplayEngine(recording=str(path))


def test_a_missing_recording_is_refused(tmp_path):
    with pytest.raises(EngineError, match="cannot be read"):
        ReplayEngine(recording=str(tmp_path / "absent.jsonl"))


def test_a_lone_surrogate_in_an_answer_can_be_stored(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text(r'{"prompt": "p", "completion": "a \ud800 b \ud83d\ude00 \udc00"}')
    engine = ReplayEngine(recording=str(path))
    completion = asyncio.run(engine.generate(Request("p", SamplingParams(), 1)))
    assert completion.text == "a \ufffd b \U0001f600 \ufffd"
    assert pa.array([completion.text]).to_pylist() == [completion.text]
