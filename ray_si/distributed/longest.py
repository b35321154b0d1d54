"""The longest requests that a run may make, known before it starts."""

from __future__ import annotations

from ray_si.config import RunConfig
from ray_si.engines.base import Purpose, Request
from ray_si.records import SeedTask
from ray_si.self_instruct.prompts import (
    LABELS,
    RenderedPrompt,
    classification_prompt,
    instance_prompt,
    instruction_prompt,
)


def longest_requests(config: RunConfig, seeds: list[SeedTask]) -> list[Request]:
    """One request of each purpose, as long as the configuration lets them be.

    Human-written demonstrations are the longest seed tasks that may stand in a prompt. The model's
    own instructions may have ``bootstrap.max_words`` words; they are made of the words of seeds.
    """
    style, options = config.instances_by.prompt_style, config.bootstrap
    limit = options.max_demonstration_words
    texts = [seed.instruction for seed in seeds]
    short = [text for text in texts if limit is None or len(text.split()) <= limit]
    human = sorted(short or texts, key=len, reverse=True)
    machine = _of_length(texts, options.max_words)
    count = min(options.machine_demonstrations, options.demonstrations)
    demonstrations = human[: options.demonstrations - count]
    demonstrations += [_of_length([machine], limit or options.max_words)] * count
    labels = LABELS[style] if config.classification.method == "labels" else ()
    prompts: list[tuple[Purpose, RenderedPrompt]] = [
        (
            "instructions",
            instruction_prompt(
                demonstrations,
                style=config.generator.prompt_style,
                new=options.new_instructions,
            ),
        ),
        ("classification", classification_prompt(machine, style=style)),
        ("input_first", instance_prompt(machine, style=style)),
        ("output_first", instance_prompt(machine, style=style, output_first=True)),
    ]
    return [
        Request(
            rendered.prompt,
            getattr(config.generator_for(purpose).sampling, purpose).params(rendered.stop),
            seed=0,
            purpose=purpose,
            labels=labels if purpose == "classification" else (),
        )
        for purpose, rendered in prompts
    ]


def _of_length(texts: list[str], words: int) -> str:
    """So many of the texts' words, over and over if need be."""
    every = " ".join(texts).split()
    return " ".join((every * (words // len(every) + 1))[:words])
