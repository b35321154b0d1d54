"""The longest requests that a configuration lets a build make."""

from __future__ import annotations

import re

import pytest

from ray_si.config.file import parse_config
from ray_si.pipeline.longest_requests import longest_requests
from ray_si.records import Instance, SeedTask
from ray_si.run.seeds import load_seeds
from ray_si.self_instruct.filters import count_words, words_of

SEEDS = load_seeds("bundled")[0]


def longest(seeds=SEEDS, **values):
    return longest_requests(parse_config(values), seeds)


def test_the_longest_requests_are_as_long_as_the_configuration_lets_them():
    found = {item.purpose: item for item in longest(bootstrap={"max_words": 90})}
    assert set(found) == {"instructions", "classification", "input_first", "output_first"}
    demonstrations = [
        line.split(". ", 1)[1]
        for line in found["instructions"].prompt.splitlines()
        if line[:1].isdigit() and ". " in line
    ]
    words = [len(text.split()) for text in demonstrations]
    assert words[-2:] == [90, 90]  # machine-written
    assert words[0] == max(len(seed.instruction.split()) for seed in SEEDS)
    short = {item.purpose: item for item in longest(bootstrap={"max_demonstration_words": 12})}
    assert len(short["instructions"].prompt) < len(found["instructions"].prompt) / 2
    assert found["classification"].labels


@pytest.mark.parametrize("method", ["pairs", "steps"])
def test_an_endpoint_that_takes_seeds_of_32_bits_alone_is_tried_with_a_longer_one(method):
    assert all(item.seed.bit_length() == 63 for item in longest(instances={"method": method}))


def test_a_letter_of_a_script_without_spaces_is_a_word_of_the_longest_too():
    texts = ["写一首关于春天的诗，要有四句。", "把下面的句子翻译成英文。", "เขียนบทกวีเกี่ยวกับฤดูใบไม้ผลิ"]
    seeds = [SeedTask(text, "", text, (Instance("", "好"),), False) for text in texts]
    asked = longest(seeds, instances={"method": "steps"}, bootstrap={"demonstrations": 2})
    letters = {
        item.purpose: count_words(re.sub("[ -~]", "", item.prompt), tokenizer="auto")
        for item in asked
    }
    assert letters == {"instructions": 300, "classification": 150, "input": 150, "answer": 350}
    for tokenizer in ("auto", "unicode", "reference"):
        for count in (1, 20, 150):
            text = words_of([*texts, "Name a river."], count, tokenizer=tokenizer)
            assert count_words(text, tokenizer=tokenizer) == count
