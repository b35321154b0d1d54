"""The configurations in configs/."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from ray_si.config import RunConfig
from ray_si.config.file import load_config
from ray_si.config.rounds import check_new
from ray_si.experiments.loop import load_loop
from ray_si.self_instruct.prompts import Method

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_configuration_is_valid(path):
    loop = path.name == "loop.yaml"
    config = load_loop(str(path)).build if loop else load_config(path)
    assert config.target_instructions > 0
    check_new(config.bootstrap)


def test_paper_yaml_has_the_papers_numbers():
    config = load_config(CONFIGS / "paper.yaml")
    drawn = config.generator.sampling.instructions
    assert (drawn.temperature, drawn.top_p, drawn.presence_penalty) == (0.7, 0.5, 2)
    assert drawn.max_tokens == 1024
    assert (config.bootstrap.demonstrations, config.bootstrap.machine_demonstrations) == (8, 2)
    assert (config.dedup.rouge, config.dedup.cosine) == (0.7, None)
    assert config.generator.sampling.classification.max_tokens == 3
    assert config.generator.sampling.output_first.max_tokens == 300
    assert config.generator.sampling.input_first.max_tokens == 350
    assert config.generator.sampling.input_first.presence_penalty == 1.5
    instances = (config.generator.sampling.input_first, config.generator.sampling.output_first)
    assert all(sampling.stop == ("Example 6", "Task:") for sampling in instances)
    assert config.target_instructions == 52000
    assert config.bootstrap.drop_unfinished == "all"
    assert config.bootstrap.sentence_case


def test_the_german_example_has_templates_for_all_that_it_uses():
    config = load_config(CONFIGS / "german.yaml")
    ours = RunConfig.model_validate({"bootstrap": {"classification_share": 0.2}}).prompts
    assert config.prompts.keys() == ours.keys()
    assert all(config.prompts[name] != text for name, text in ours.items())
    assert config.labels == (" Klassifikation", " Generierung")


def test_the_ways_of_asking_that_are_compared_differ_in_nothing_else(monkeypatch):
    monkeypatch.syspath_prepend(str(CONFIGS.parent / "benchmarks"))
    import presets

    made = {name: presets.settings(name, []) for name in presets.CASES}
    for config in made.values():
        assert config.bootstrap.prompts_per_round == 32
        assert config.instances_by.sampling.answer == made["plain"].generator.sampling.answer
        same = {"prompt_style": "chat"}
        assert config.instances.model_copy(update=same) == made["plain"].instances
        assert config.dedup == made["plain"].dedup
    assert {config.bootstrap.method for config in made.values()} == set(get_args(Method))
    assert not made["plain"].bootstrap.topics
    assert len(made["template with topics"].bootstrap.topics) == 32
