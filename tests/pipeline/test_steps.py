"""Inputs and answers asked one text at a time: what is asked, and what it comes to."""

from __future__ import annotations

import asyncio

import pytest

from ray_si.config.file import parse_config
from ray_si.dedup import ExcludedTexts
from ray_si.engines.base import Completion
from ray_si.pipeline.instances import AcceptedInstruction
from ray_si.pipeline.prompting import Shown
from ray_si.pipeline.steps import NOT_CHOSEN, ask_in_steps, decide_steps
from ray_si.run.seeds import load_seeds
from tests.builds import replay_values

NEEDS_NONE = AcceptedInstruction("a", "Name a river of Europe.", False, None)
NEEDS_ONE = AcceptedInstruction("b", "Rewrite the message so that it is polite.", False, None)

NONE_SHOWN = Shown()


def config(*, style="chat", **instances):
    generator = {"engine": "replay", "model": None, "prompt_style": style}
    values = {"method": "steps", "max_per_instruction": 2} | instances
    return parse_config(replay_values() | {"generator": generator, "instances": values})


class Model:
    """Answers from lists, in the order of asking; keeps the requests."""

    def __init__(self, inputs=(), answers=()):
        self.left = {"input": list(inputs), "answer": list(answers)}
        self.requests = []

    async def __call__(self, request):
        self.requests.append(request)
        said = self.left[request.purpose].pop(0)
        return said if isinstance(said, Completion) else Completion(said, "stop", mean_logprob=-1)


def decided(options, instruction, model, excluded=None, shown=NONE_SHOWN):
    steps = asyncio.run(ask_in_steps(options, instruction.instruction, 9, model, shown))
    return decide_steps(options, instruction, False, steps, excluded)


def likely(text, logprob):
    return Completion(text, "stop", mean_logprob=logprob)


def test_the_likeliest_answer_that_passes_is_the_instance_and_all_are_kept():
    answers = [likely("The Loire.", -2.0), likely("The Rhine.", -0.5), likely("", -0.1)]
    model = Model(["None", "No input needed."], answers)
    found = decided(config(answers=3), NEEDS_NONE, model)
    assert found.kept == [{"input": "", "output": "The Rhine."}]
    assert [(a["output"], a["is_chosen"], a["rejected_for"]) for a in found.answers] == [
        ("The Loire.", False, None),
        ("The Rhine.", True, None),
        ("", False, "empty_output"),
    ]
    assert [(r["output"], r["reason"]) for r in found.rejected] == [
        ("", "duplicate"),  # the second time that no input is needed
        ("The Loire.", NOT_CHOSEN),
        ("", "empty_output"),
    ]


@pytest.mark.parametrize("unknown", [None, -1.0], ids=["unknown", "equal"])
def test_without_a_difference_in_likelihood_the_first_that_passes_is_chosen(unknown):
    answers = [likely("", unknown), likely("The Loire.", unknown), likely("The Rhine.", unknown)]
    found = decided(config(answers=3), NEEDS_NONE, Model(["None"] * 2, answers))
    assert [pair["output"] for pair in found.kept] == ["The Loire."]


def test_each_input_gets_its_own_answers_and_the_same_output_counts_once():
    model = Model(["Send it now.", "Input: Go away."], ["Please do.", "Please do.", "A", "B"])
    found = decided(config(answers=2), NEEDS_ONE, model)
    assert found.kept == [
        {"input": "Send it now.", "output": "Please do."},
        {"input": "Go away.", "output": "A"},
    ]
    assert [a["rejected_for"] for a in found.answers] == [None, "duplicate", None, None]
    assert [(a["place"], a["answer"]) for a in found.answers] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_no_two_requests_have_the_same_seed_and_the_first_answer_is_greedy_where_asked_for():
    model = Model(["One.", "Two."], ["a", "b", "c", "d"])
    decided(config(answers=2, greedy_first=True), NEEDS_ONE, model)
    assert len({request.seed for request in model.requests}) == 6
    drawn = [r.sampling.temperature for r in model.requests if r.purpose == "answer"]
    assert drawn == [0, 0.7, 0, 0.7]


def test_in_a_user_turn_only_instructions_that_refer_to_a_text_get_an_input():
    options = config(inputs="user_turn")
    assert decided(options, NEEDS_NONE, model := Model([], ["The Loire."])).inputs == []
    assert [request.purpose for request in model.requests] == ["answer"]
    cut = Completion("Send it now. And then", "length")
    model = Model([cut, Completion("No end", "length")], ["Please send it."])
    found = decided(options, NEEDS_ONE, model)
    (request, *_) = model.requests
    assert request.continue_final_message
    assert NEEDS_ONE.instruction in request.prompt[0]["content"]
    assert request.prompt[1] == {"role": "user", "content": ""}
    assert found.kept == [{"input": "Send it now.", "output": "Please send it."}]
    assert [item["rejected_for"] for item in found.inputs] == [None, "unfinished"]


def test_completion_style_goes_on_where_the_examples_of_the_template_end():
    model = Model(["Input: Send it now.\n", ""], ["Please send it."] * 2)
    decided(config(style="completion"), NEEDS_ONE, model)
    prompts = [request.prompt for request in model.requests]
    assert prompts[0].endswith(f"Task: {NEEDS_ONE.instruction}\n")
    assert prompts[2].endswith("\nInput: Send it now.\nOutput:")
    assert prompts[3].endswith(f"Task: {NEEDS_ONE.instruction}\nOutput:")


@pytest.mark.parametrize(
    ("failed", "reason"),
    [
        (Completion("", "error", error="lost"), "engine_error"),
        (Completion("", "refused", error="too long"), "refused"),
        (Completion("half an", "length"), "unfinished"),
        (Completion("<think>Well", "length"), "unfinished_reasoning"),
    ],
)
def test_what_fails_has_its_reason_as_an_input_and_as_an_answer(failed, reason):
    found = decided(config(), NEEDS_ONE, Model([failed, "Go."], [failed]))
    assert not found.kept
    assert [item["reason"] for item in found.rejected] == [reason, reason]


def test_what_resembles_an_evaluation_set_is_left_out_with_its_match():
    excluded = ExcludedTexts(0.9)
    excluded.add([f"{NEEDS_ONE.instruction}\nSend it now."], source="held out")
    model = Model(["Send it now.", "Go away."], ["Please.", "Do go."])
    found = decided(config(), NEEDS_ONE, model, excluded)
    assert [pair["input"] for pair in found.kept] == ["Go away."]
    (left_out,) = found.rejected
    assert (left_out["reason"], left_out["source"]) == ("contaminated", "held out")
    assert left_out["output"] == "Please."


def test_the_first_seed_tasks_with_an_input_or_without_are_shown_as_earlier_turns():
    seeds = load_seeds("bundled")[0]
    options = config(demonstrations=2, input_demonstrations=1)
    shown = Shown.of(options, seeds)
    first = next(seed for seed in seeds if seed.instances[0].input)
    model = Model(["None", "Go."], ["a", "b"])
    decided(options, NEEDS_ONE, model, shown=shown)
    alone, given = (r.prompt for r in model.requests if r.purpose == "answer")
    assert [turn["role"] for turn in alone] == ["user", "assistant"] * 2 + ["user"]
    assert given[0]["content"] == f"{first.instruction}\n\n{first.instances[0].input.strip()}"
    assert len(given) == 3
