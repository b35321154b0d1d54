"""Keys say what they are made of, and nothing else passes for one."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from ray_si.run.layout import (
    INSTANCES,
    block_key,
    block_keys,
    block_number,
    round_folder,
    round_of,
    round_of_block,
    shard_key,
    unfenced,
)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_block_says_its_round_and_number(round_, block):
    key = block_key(round_folder(round_), block)
    assert round_of_block(key) == round_
    assert block_number(key, round_folder(round_)) == block
    assert block_number(key, INSTANCES) is None
    assert block_number(block_key(INSTANCES, block), INSTANCES) == block
    assert round_of_block(block_key(INSTANCES, block)) is None


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.lists(st.integers(1, 10**6), max_size=4))
def test_of_a_block_that_was_asked_again_the_highest_fencing_number_counts(round_, block, numbers):
    folder = round_folder(round_)
    keys = [block_key(folder, block, fencing) for fencing in (None, *numbers)]
    last = block_key(folder, block, max(numbers, default=None))
    assert block_keys([*keys, f"{folder}/manifest.json"]) == {block: last}
    assert {unfenced(key) for key in keys} == {keys[0]}
    assert {block_number(key, folder) for key in keys} == {block}
    assert {round_of(key) for key in keys} == {round_}


def test_what_lies_in_no_round_is_of_none():
    assert round_of("instances/block-00000.parquet") is None
    assert unfenced("data/train-00000-of-00012.jsonl") == "data/train-00000-of-00012.jsonl"


@pytest.mark.parametrize(
    "key",
    [
        "bootstrap/round-00000/block-0.parquet",
        "bootstrap/round-00000/block-00000.parquet.tmp",
        "bootstrap/round-00000/accepted-00001.parquet",
        "bootstrap/round-0/block-00000.parquet",
        "elsewhere/bootstrap/round-00000/block-00000.parquet",
        "block-00000.parquet",
    ],
)
def test_what_is_no_raw_block_is_of_no_round(key):
    assert round_of_block(key) is None


def test_keys_are_fixed_for_ever():
    assert block_key(round_folder(2), 13) == "bootstrap/round-00002/block-00013.parquet"
    assert block_key(INSTANCES, 0) == "instances/block-00000.parquet"
    assert block_key(INSTANCES, 7, 2) == "instances/block-00007-00002.parquet"
    assert shard_key(0, 12, "jsonl") == "data/train-00000-of-00012.jsonl"
