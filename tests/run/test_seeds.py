"""The bundled seed tasks are what the documentation says of them; malformed ones are refused."""

from __future__ import annotations

import json
import os

import pytest

from ray_si.dedup import Deduplicator
from ray_si.errors import SeedError
from ray_si.run.seeds import load_seeds
from ray_si.self_instruct.filters import (
    count_words,
    instance_quality_reason,
    instance_reason,
    instruction_quality_reason,
    instruction_reason,
)
from ray_si.storage.base import absolute

GOOD = {
    "id": "a",
    "name": "n",
    "instruction": "Do this now please.",
    "instances": [{"input": "", "output": "done"}],
    "is_classification": False,
}


@pytest.fixture(scope="module")
def bundled():
    return load_seeds("bundled")[0]


def test_there_are_enough_of_each_kind(bundled):
    assert len(bundled) >= 175
    assert sum(seed.is_classification for seed in bundled) >= 25
    without_input = sum(not seed.instances[0].input for seed in bundled)
    assert 0.15 < without_input / len(bundled) < 0.3


def test_ids_and_names_are_unique(bundled):
    assert len({seed.id for seed in bundled}) == len(bundled)
    assert len({seed.name for seed in bundled}) == len(bundled)


def test_no_two_are_alike(bundled):
    gate = Deduplicator(0.6, None)
    assert gate.filter([seed.instruction for seed in bundled]).rejected == []


def test_they_pass_every_filter_that_candidates_may_have_to_pass(bundled):
    for seed in bundled:
        text, is_classification = seed.instruction, seed.is_classification
        reasons = [
            instruction_reason(text),
            instruction_quality_reason(text, is_classification=is_classification),
        ]
        for instance in seed.instances:
            reasons += [
                instance_reason(instance),
                instance_quality_reason(text, instance, is_classification=is_classification),
            ]
        assert not any(reasons), (seed.id, reasons)


def test_thirty_have_inputs_of_some_length(bundled):
    lengths = [count_words(seed.instances[0].input) for seed in bundled]
    assert sum(100 <= length <= 400 for length in lengths) >= 30


def test_no_text_begins_or_ends_with_white_space_that_reading_would_strip(bundled):
    for seed in bundled:
        for instance in seed.instances:
            for text in (seed.instruction, instance.input, instance.output):
                assert text == text.strip(), seed.id


def test_classification_tasks_have_inputs_and_short_labels(bundled):
    for seed in bundled:
        if seed.is_classification:
            for instance in seed.instances:
                assert instance.input, seed.id
                assert len(instance.output.split()) <= 12, seed.id


def test_the_opening_words_vary(bundled):
    openings = [seed.instruction.split()[0].lower() for seed in bundled]
    assert len(set(openings)) >= 60
    assert max(openings.count(word) for word in set(openings)) <= len(bundled) * 0.08


def test_the_papers_own_seeds_load(reference):
    seeds, digest = load_seeds(str(reference / "paper_seed_tasks.jsonl"))
    assert len(seeds) == 175
    assert sum(seed.is_classification for seed in seeds) == 26
    assert len(digest) == 64


def _without(field):
    return {key: value for key, value in GOOD.items() if key != field}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{"], "line 1: not valid JSON"),
        (["[]"], "line 1: not a JSON object"),
        (["[" * 100_000], "line 1: not valid JSON"),
        ([json.dumps(GOOD | {"instruction": "Do \ud800 now please."})], "line 1: not valid JSON"),
        ([json.dumps(GOOD), "", json.dumps(GOOD)], "line 3: id 'a' was used on line 1"),
        *[([json.dumps(_without(field))], f"line 1: field '{field}' is missing") for field in GOOD],
        ([json.dumps(GOOD | {"instruction": "  "})], "field 'instruction' is empty"),
        ([json.dumps(GOOD | {"is_classification": "no"})], "must be of type boolean"),
        ([json.dumps(GOOD | {"instances": []})], "field 'instances' is empty"),
        ([json.dumps(GOOD | {"instances": [{"input": ""}]})], "instances[0]: field 'output'"),
        ([json.dumps(GOOD | {"instances": [{"input": "", "output": ""}]})], "'output' is empty"),
        ([""], "holds no seed task"),
    ],
)
def test_malformed_seeds_are_refused_with_line_and_field(tmp_path, lines, message):
    path = tmp_path / "seeds.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(SeedError) as caught:
        load_seeds(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_unreadable_and_binary_seeds_are_refused(tmp_path):
    with pytest.raises(SeedError, match="no seed tasks at"):
        load_seeds(str(tmp_path / "absent.jsonl"))
    with pytest.raises(SeedError, match="cannot read"):
        load_seeds(str(tmp_path))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SeedError, match="not UTF-8"):
        load_seeds(str(tmp_path / "binary"))


def test_the_home_of_a_user_that_is_not_there_is_a_name_like_any_other():
    with pytest.raises(SeedError, match="no seed tasks at ~nosuchuser/"):
        load_seeds("~nosuchuser/seeds.jsonl")
    assert absolute("~nosuchuser/run") == os.path.abspath("~nosuchuser/run")
