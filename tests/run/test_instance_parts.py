"""The instance manifest in parts: by number, written ahead, and not at all where blocks lack."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections import Counter

import pyarrow as pa
import pytest

from ray_si.errors import RunError
from ray_si.run import instance_parts
from ray_si.run.instance_parts import (
    PART_BLOCKS,
    BlockRecord,
    InstanceParts,
    instance_objects,
    part_keys,
    read_blocks,
)
from ray_si.run.layout import block_key
from ray_si.run.run import Run
from ray_si.run.schemas import INSTANCE_BLOCK
from ray_si.run.seeds import load_seeds
from ray_si.run.tokens import Tokens
from ray_si.storage.tables import ShardInfo, write_table
from tests.run.counting import counted

HEADER = {"config": {"target_instructions": 10}, "identity": {"seed": 0}}


@pytest.fixture
def run(location):
    run = Run.prepare(location, HEADER, "fingerprint")
    with run.held():
        run.create(load_seeds("bundled")[0][:3])
        yield run


@pytest.fixture
def tens(monkeypatch):
    """Parts of ten blocks."""
    monkeypatch.setattr(instance_parts, "PART_BLOCKS", 10)


def record(block, rows=2, failed=0):
    info = ShardInfo(block_key("instances", block), rows, 100 + block, f"{block:064x}")
    return BlockRecord(
        block, info, rows + 1, Tokens(10, 20), failed, Counter({("set", "outputs"): 1})
    )


def stored(run, block, rows=2, reason="stop", kept=1):
    """A block that stands."""
    texts = [
        {
            "block": block, "id": f"r00000-{block:05d}-{k:02d}", "instruction": "Do.", "seed": k,
            "is_classification": False, "text": "", "finish_reason": reason, "prompt_tokens": 3,
            "completion_tokens": 4, "classification_prompt_tokens": 1,
            "classification_completion_tokens": 1, "rejected": [],
            "instances": [{"input": "", "output": "x"}] * kept,
        }
        for k in range(rows)
    ]  # fmt: skip
    table = pa.Table.from_pylist(texts, INSTANCE_BLOCK)
    return BlockRecord.of(table, write_table(run.objects, block_key("instances", block), table))


def test_blocks_around_a_hundred_thousand_come_in_the_order_of_their_numbers(tmp_path):
    run = Run.prepare(str(tmp_path / "run"), HEADER, "fingerprint")
    blocks = list(range(100_003))
    random.Random(0).shuffle(blocks)
    with run.held():
        run.create(load_seeds("bundled")[0][:3])
        parts = InstanceParts(run, 2)
        for block in blocks:
            parts.add(record(block))
        parts.commit(200_006, {})
    manifest = run.instances()
    assert (manifest["blocks"], manifest["instances"]) == (100_003, 3 * 100_003)
    keys = [info.key for info in instance_objects(run, manifest)]
    assert keys == [block_key("instances", block) for block in range(100_003)]
    assert sorted(part_keys(run)) == list(range(101))


def test_what_a_driver_holds_does_not_grow_with_the_blocks(tmp_path):
    run = Run.prepare(str(tmp_path / "run"), HEADER, "fingerprint")
    with run.held():
        run.create(load_seeds("bundled")[0][:3])
        parts, held = InstanceParts(run, 2), []
        tracemalloc.start()
        for block in range(30 * PART_BLOCKS):
            parts.add(record(block))
            if block % PART_BLOCKS == PART_BLOCKS - 1:
                held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    a_part = (held[-1] - held[9]) / 20
    assert a_part * 6250 < 16 << 20  # a hundred million instructions at 16 a block


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([0, 1, 3, 4], "block 2 has no rows"),
        ([1, 2, 3, 4], "block 0 has no rows"),
        ([0, 1, 2, 3], "block 4 has no rows"),
        ([0, 1, 2, 3, 4, 5], "6 instance blocks stand for 9 instructions"),
    ],
)
def test_blocks_that_are_not_those_of_the_pool_are_not_declared_complete(run, wrong, message):
    parts = InstanceParts(run, 2)
    for block in wrong:
        parts.add(record(block, rows=1 if block == 4 else 2))
    with pytest.raises(RunError, match=message):
        parts.commit(9, {})
    assert run.instances() is None
    assert not part_keys(run)


def test_a_block_of_another_size_is_not_declared_complete(run):
    parts = InstanceParts(run, 2)
    for block, rows in enumerate([2, 1, 2]):
        parts.add(record(block, rows))
    with pytest.raises(RunError, match="block 1 has 1 rows, not 2"):
        parts.commit(6, {})
    assert run.instances() is None


def test_a_block_comes_once(run):
    parts = InstanceParts(run, 2)
    parts.add(record(0))
    with pytest.raises(AssertionError):
        parts.add(record(0))


def test_full_sound_parts_are_written_ahead_and_spare_the_next_driver_their_blocks(run, tens):
    parts = InstanceParts(run, 2)
    for block in range(35):
        if block not in (12, 24):
            parts.add(stored(run, block, reason="error" if block == 21 else "stop"))
    assert list(part_keys(run)) == [0]
    parts.add(stored(run, 12))
    assert list(part_keys(run)) == [0, 1]
    parts.add(stored(run, 24))
    assert list(part_keys(run)) == [0, 1]  # one request of block 21 failed, and is asked again

    other = counted(run.location)
    again = InstanceParts(other, 2)
    assert (again.counts.blocks, again.counts.instructions) == (20, 40)
    assert (again.counts.instances, again.counts.tokens) == (40, Tokens(4 * 40, 5 * 40))
    assert again.has(12)
    assert not again.has(21)
    assert list(again.unread()) == list(range(20, 35))
    assert not [key for key in other.objects.keys if "/block-" in key]


def test_what_stands_is_listed_a_part_at_a_time_where_few_lack(run, tens):
    parts = InstanceParts(run, 2)
    for block in range(120):
        if block != 57:
            parts.add(stored(run, block))
    for block in (120, 121):
        stored(run, block)
    other = counted(run.location)
    again = InstanceParts(other, 2)
    before = other.objects.calls["list"]
    assert list(again.unread()) == [*range(50, 57), 58, 59, 120, 121]
    assert other.objects.calls["list"] - before == 3  # parts 5 and 12, and 13, which has none


def test_where_no_part_is_written_every_block_that_stands_is_found(run, tens):
    for block in (*range(95), 99_998, 100_000):
        stored(run, block)
    assert list(InstanceParts(run, 2).unread()) == [*range(95), 99_998, 100_000]


def test_blocks_are_read_in_order_from_parts_and_from_a_manifest_of_an_earlier_version(run, tens):
    records = [stored(run, block) for block in (*range(12), 99_999, 100_000)]
    infos = sorted((r.info for r in records), key=lambda info: info.key)  # as it was: by name
    former = [{"key": i.key, "rows": i.rows, "size": i.size, "sha256": i.sha256} for i in infos]
    manifest = {"blocks": 14, "instructions": 28, "instances": 28, "objects": former}
    run.objects.put("instances/manifest.json", json.dumps(manifest).encode())
    numbers = [table["block"][0].as_py() for table in read_blocks(run)]
    assert numbers == [*range(12), 99_999, 100_000]
    run.objects.delete("instances/manifest.json")

    parts = InstanceParts(run, 2)
    for each in reversed(records[:12]):
        parts.add(each)
    parts.commit(24, {})
    assert [table["block"][0].as_py() for table in read_blocks(run)] == list(range(12))
