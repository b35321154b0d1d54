"""Requests: what a configuration makes of a template's stop strings."""

from __future__ import annotations

import pytest

from ray_si.config.file import parse_config
from ray_si.errors import ConfigError
from ray_si.pipeline.prompting import (
    Prompting,
    classification_request,
    instance_request,
    instruction_request,
)
from ray_si.records import Instance, SeedTask
from ray_si.run.seeds import load_seeds
from tests.builds import replay_values


def _stops(style, **reasoning):
    values = replay_values() | {
        "reasoning": reasoning,
        "classification": {"method": "text"},
    }
    sampling = {"classification": {"max_tokens": 1000}}
    values["generator"] = values["generator"] | {"prompt_style": style, "sampling": sampling}
    config = parse_config(values)
    prompting = Prompting(config, load_seeds("bundled")[0])
    prompt = prompting.render(prompting.requests(0)[0])
    requests = [
        instruction_request(config, prompt, 0),
        classification_request(config, "Name a river.", 0),
        instance_request(config, "Name a river.", False, 0),
    ]
    return [request.sampling.stop for request in requests]


def test_no_stop_string_of_a_chat_template_may_end_a_thought():
    assert any(_stops("chat"))
    assert not any(_stops("chat", expected=True))


@pytest.mark.parametrize("expected", [False, True])
def test_completion_style_keeps_its_stop_strings(expected):
    assert all(_stops("completion", expected=expected))


def test_a_new_run_needs_enough_short_seed_tasks_of_the_kinds_that_it_shows():
    long = "Name a river. " * 40
    texts = [(f"Name {i} rivers of Asia.", False) for i in range(8)] + [(long, True)] * 2
    seeds = [SeedTask(text, "", text, (Instance("", "x"),), kind) for text, kind in texts]

    def prompting(**bootstrap):
        values = {"max_demonstration_words": 20, **bootstrap}
        return Prompting(parse_config({"bootstrap": values}), seeds)

    prompting().check_new()
    with pytest.raises(ConfigError, match=r"8 of 10 seed tasks \(any\) have at most 20 words"):
        prompting(demonstrations=9).check_new()
    with pytest.raises(ConfigError, match=r"0 of 2 seed tasks \(classification\)"):
        prompting(classification_share=0.5).check_new()
    begun = prompting(demonstrations=9).requests(0)[0]  # shows what it always did
    assert long in [source.example.instruction for source in begun.demonstrations]
