"""The longest requests that a configuration lets a build make."""

from __future__ import annotations

from ray_si.config.file import parse_config
from ray_si.pipeline.longest_requests import longest_requests
from ray_si.run.seeds import load_seeds

SEEDS = load_seeds("bundled")[0]


def longest(**values):
    return longest_requests(parse_config(values), SEEDS)


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
