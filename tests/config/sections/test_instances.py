"""How instances are asked for, as a configuration says it."""

from __future__ import annotations

import pytest

from ray_si.config.file import parse_config
from ray_si.errors import ConfigError


def steps(**values):
    generator = {"prompt_style": "chat", **values.pop("generator", {})}
    return parse_config({"generator": generator, "instances": {"method": "steps"} | values})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"instances": {"answers": 2}}, "instances: answers needs method steps"),
        ({"instances": {"greedy_first": True}}, "instances: greedy_first needs method steps"),
        ({"instances": {"method": "steps", "answers": 0}}, "instances.answers"),
        ({"instances": {"method": "step"}}, "'pairs' or 'steps'"),
        (
            {"instances": {"method": "steps", "inputs": "user_turn"}},
            "needs chat turns: set instances.prompt_style",
        ),
        (
            {
                "instances": {"method": "steps", "inputs": "user_turn", "prompt_style": "chat"},
                "generator": {"engine": "openai", "model": "m"},
            },
            "an endpoint leaves no user turn open",
        ),
        ({"instances": {"method": "steps"}, "rules": "original"}, "rules original has none"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_line(values, message):
    with pytest.raises(ConfigError) as caught:
        parse_config(values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_runs_that_ask_in_pairs_have_the_identity_that_they_always_had():
    identity = parse_config({}).identity()
    assert identity["instances"].keys() == {"max_per_instruction", "block_size", "quality_filters"}
    assert not {"input", "answer"} & identity["generator"]["sampling"].keys()


def test_runs_that_ask_in_steps_depend_on_how():
    base = steps().fingerprint("seeds")
    sampling = {"sampling": {"answer": {"temperature": 0.2}}}
    for values in ({"answers": 3}, {"greedy_first": True}, {"generator": sampling}):
        assert steps(**values).fingerprint("seeds") != base
    stored = steps(answers=3).model_dump(mode="json")
    assert parse_config(stored) == steps(answers=3)


def test_templates_are_those_that_steps_render():
    assert {"chat_input"} < steps().prompts.keys()
    assert {"chat_user_turn"} < steps(inputs="user_turn").prompts.keys()
    completion = steps(prompt_style="completion")
    assert {"completion_input_first"} < completion.prompts.keys()
    assert not {"chat_input", "completion_output_first"} & completion.prompts.keys()
    assert completion.labels == (" classification", " generation")


def test_the_length_of_an_input_is_for_those_that_the_model_writes_as_the_user():
    with pytest.raises(ConfigError, match=r"max_input_words needs instances\.inputs user_turn"):
        steps(max_input_words=30)
    assert steps(max_input_words=30, inputs="user_turn").instances.max_input_words == 30
