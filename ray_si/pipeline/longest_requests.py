"""The longest requests that a run may make, known before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ray_si.config import RunConfig
from ray_si.engines.base import Request
from ray_si.pipeline.prompting import (
    Prompting,
    Shown,
    answer_request,
    classification_request,
    input_request,
    instance_request,
    instruction_request,
)
from ray_si.records import SeedTask
from ray_si.run.ids import GREATEST_SEED
from ray_si.self_instruct.filters import words_of
from ray_si.self_instruct.prompts import Example


def longest_requests(config: RunConfig, seeds: Sequence[SeedTask]) -> list[Request]:
    """One request of each purpose, as long as the configuration lets them be, seeds included.

    The model's own instructions may have ``bootstrap.max_words`` words; those of seeds stand in.
    """
    texts = [seed.instruction for seed in seeds]
    words = partial(words_of, tokenizer=config.dedup.tokenizer)
    machine = words(texts, config.bootstrap.max_words)
    longest = [
        instruction_request(config, Prompting(config, seeds).longest_prompt(), GREATEST_SEED),
        classification_request(config, machine, GREATEST_SEED),
    ]
    if config.instances.method == "pairs":
        kinds = (False, True)
        return [*longest, *(instance_request(config, machine, k, GREATEST_SEED) for k in kinds)]
    # a word has a token at least, and a letter of a script without spaces about one
    text = words(texts, config.instances_by.sampling.input.max_tokens)
    shown = Shown.of(config, seeds)
    most = max(shown.with_input, shown.without_input, key=_length)
    return [
        *longest,
        input_request(config, machine, GREATEST_SEED, shown),
        answer_request(config, machine, text, GREATEST_SEED, 0, Shown(most, most)),
    ]


def _length(shown: Sequence[Example]) -> int:
    pairs = [(task.instruction, task.instance) for task in shown]
    return sum(len(text) + len(i.input) + len(i.output) for text, i in pairs if i)
