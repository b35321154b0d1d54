"""The instance manifest in parts: by number, written ahead, and not at all where blocks lack."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections import Counter
from types import SimpleNamespace

import pyarrow as pa
import pytest

from ray_si.errors import RunError
from ray_si.run import instance_parts
from ray_si.run.audit import Audit
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
from ray_si.run.strays import clean_up, strays
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


def stored(run, block, rows=2, reason="stop", kept=1, fencing=None, ids=None):
    """A block that stands; under a fencing number where it was asked again."""
    texts = [
        {
            "block": block, "id": ids[k] if ids else f"r00000-{block:05d}-{k:02d}",
            "instruction": "Do.", "seed": k,
            "is_classification": False, "text": "", "finish_reason": reason, "prompt_tokens": 3,
            "completion_tokens": 4, "classification_prompt_tokens": 1,
            "classification_completion_tokens": 1, "rejected": [],
            "instances": [{"input": "", "output": "x"}] * kept,
        }
        for k in range(rows)
    ]  # fmt: skip
    table = pa.Table.from_pylist(texts, INSTANCE_BLOCK)
    key = block_key("instances", block, fencing)
    return BlockRecord.of(table, write_table(run.objects, key, table))


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


def test_full_parts_are_written_ahead_and_spare_the_next_driver_their_blocks(run, tens):
    parts = InstanceParts(run, 2)
    for block in range(35):
        if block not in (12, 24):
            parts.add(stored(run, block, reason="error" if block in (21, 31) else "stop"))
    assert list(part_keys(run)) == [0]
    parts.add(stored(run, 12))
    assert list(part_keys(run)) == [0, 1]
    parts.add(stored(run, 24))
    assert list(part_keys(run)) == [0, 1, 2]  # though one request of block 21 failed
    assert parts.has(21)
    assert (parts.counts.blocks, parts.counts.instructions) == (35, 70)

    other = counted(run.location)
    again = InstanceParts(other, 2)
    assert (again.counts.blocks, again.counts.instructions) == (29, 58)
    assert (again.counts.instances, again.counts.tokens) == (58, Tokens(4 * 58, 5 * 58))
    assert again.has(12)
    assert again.has(20)
    assert not again.has(21)
    assert list(again.unread(70)) == [21, *range(30, 35)]
    assert not [key for key in other.objects.keys if "/block-" in key]


def test_what_is_known_to_stand_is_found_with_no_listing(run, tens):
    parts = InstanceParts(run, 2)
    keys = [stored(run, block, reason="error" if block == 3 else "stop") for block in range(25)]
    for record_ in keys:
        parts.add(record_)
    keys = [each.info.key for each in keys]
    other = counted(run.location)
    other._lease = SimpleNamespace(number=run.lease.number + 1, check=lambda: None)
    again = InstanceParts(other, 2)
    for block in range(20, 25):
        again.add(parts._records[2][block])
    other.objects.calls.clear()
    assert again.keys(4, 25) == keys[4:]  # of a part to write again, a written one, and a begun one
    assert other.objects.calls == {"get": 2}
    assert again.keys(21, 25) == keys[21:]
    assert other.objects.calls == {"get": 2}
    again.add(stored(other, 3, fencing=2))
    assert again.keys(2, 5) == [keys[2], block_key("instances", 3, 2), keys[4]]


def test_a_block_asked_again_is_found_while_its_part_is_written(run, tens, monkeypatch):
    parts = InstanceParts(run, 2)
    for block in range(10):
        parts.add(stored(run, block, reason="error" if block in (2, 4) else "stop"))
    again = InstanceParts(resumed(run), 2)
    read, write = again._keys_of, again._write
    monkeypatch.setattr(again, "_write", lambda part: None)
    for block in (2, 4):
        again.add(stored(run, block, fencing=2))

    def read_meanwhile(part):
        keys = read(part)
        write(part)
        return keys

    monkeypatch.setattr(again, "_keys_of", read_meanwhile)
    assert again.keys(3, 5) == [block_key("instances", 3), block_key("instances", 4, 2)]
    monkeypatch.setattr(again, "_keys_of", read)
    assert again.keys(3, 5) == [block_key("instances", 3), block_key("instances", 4, 2)]


def resumed(run):
    """The run as the next driver has it, whose lease is that after the last one's."""
    other = counted(run.location)
    other._lease = SimpleNamespace(number=run.lease.number + 1, check=lambda: None)
    return other


def test_a_part_is_written_again_once_what_failed_in_it_was_asked_again(run, tens):
    parts = InstanceParts(run, 2)
    for block in range(20):
        parts.add(stored(run, block, reason="error" if block in (3, 7) else "stop"))
    before = part_keys(run)
    assert list(before) == [0, 1]

    second = resumed(run)  # asks both again, and dies when one stands
    parts = InstanceParts(second, 2)
    assert parts.unread(40) == {block: block_key("instances", block) for block in (3, 7)}
    parts.add(stored(second, 7, fencing=2, kept=3))
    assert (parts.counts.blocks, parts.counts.instances) == (19, 2 * 18 + 6)
    assert parts.has(7)
    assert not parts.has(3)
    with pytest.raises(RunError, match="block 3 has no rows, not 2"):
        parts.commit(40, {})
    assert part_keys(run) == before

    third = resumed(second)
    parts = InstanceParts(third, 2)
    assert parts.counts.blocks == 18
    assert parts.unread(40) == {
        3: block_key("instances", 3),
        7: block_key("instances", 7, 2),
    }
    parts.add(BlockRecord.of(*third.read_stored(block_key("instances", 7, 2))))
    failing = stored(third, 3, fencing=3, reason="error")
    parts.add(failing)  # once more
    assert part_keys(run) == {0: "instances/part-00000-00003.parquet", 1: before[1]}
    assert (parts.counts.blocks, parts.counts.instances) == (20, 2 * 19 + 6)
    assert all(parts.has(block) for block in range(20))
    with pytest.raises(AssertionError):
        parts.add(failing)

    fourth = resumed(third)
    parts = InstanceParts(fourth, 2)
    assert parts.counts.blocks == 19
    assert parts.unread(40) == {3: failing.info.key}
    parts.add(stored(fourth, 3, fencing=4))
    fourth.objects.keys.clear()
    assert InstanceParts(fourth, 2).unread(40) == {}
    assert sorted(fourth.objects.keys) == ["instances/part-00000-00004.parquet", before[1]]
    parts.commit(40, {})

    manifest = run.instances()
    assert manifest["parts"][0]["key"] == "instances/part-00000-00004.parquet"
    keys = [info.key for info in instance_objects(run, manifest)]
    again = {3: block_key("instances", 3, 4), 7: block_key("instances", 7, 2)}
    assert keys == [again.get(block, block_key("instances", block)) for block in range(20)]
    assert (manifest["blocks"], manifest["instances"]) == (20, 2 * 19 + 6)


def test_what_failed_in_many_parts_is_found_and_nothing_else(run, tens):
    parts = InstanceParts(run, 2)
    failing = [10 * part + part % 10 for part in range(12)]
    for block in range(125):
        parts.add(stored(run, block, reason="error" if block in failing else "stop"))
    stored(run, failing[5], fencing=2)
    keys = {block: block_key("instances", block) for block in (*failing, *range(120, 125))}
    keys[failing[5]] = block_key("instances", failing[5], 2)
    other = counted(run.location)
    again = InstanceParts(other, 2)
    assert list(again.unread(250).items()) == sorted(keys.items())
    assert not [key for key in other.objects.keys if "/block-" in key]


def test_a_part_that_was_written_again_is_no_finding_beside_the_first(run, tens):
    parts = InstanceParts(run, 2)
    for block in range(10):
        parts.add(stored(run, block, reason="error" if block == 3 else "stop"))
    second = resumed(run)
    parts = InstanceParts(second, 2)
    parts.add(stored(second, 3, fencing=2))
    parts.commit(20, {"rounds": 0})
    audit = Audit(run)
    checks = audit.check_manifests(), audit.check_objects(), audit.check_strays(0, 10)
    assert not [finding for check in checks for finding in check.findings]
    assert checks[-1].notes == ["unfinished: 2 objects that no manifest names yet"]

    run.commit_stats({"rounds": 0, "shards": []})
    left = ["instances/block-00003.parquet", "instances/part-00000-00001.parquet"]
    assert strays(run) == left
    clean_up(run)
    assert not strays(run)


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
    assert list(again.unread(2 * 125)) == [*range(50, 57), 58, 59, 120, 121]
    parts_to_write = 2 if "://" in run.location else 1  # parts 5 and 12; a folder is read once
    assert other.objects.calls["list"] - before == parts_to_write


@pytest.mark.parametrize("standing", [(0, 47), (49,), (*range(10), 33)])
def test_blocks_behind_parts_of_which_none_stands_are_found(run, tens, standing):
    parts = InstanceParts(run, 2)
    for block in standing:
        parts.add(stored(run, block))
    again = InstanceParts(run, 2)  # which knows those of a part that was full
    assert list(again.unread(100)) == [b for b in standing if b > 9 or len(standing) < 10]


def test_where_no_part_is_written_every_block_that_stands_is_found(run, tens):
    for block in (*range(95), 99_998, 100_000):
        stored(run, block)
    assert list(InstanceParts(run, 2).unread(200_002)) == [*range(95), 99_998, 100_000]


def begin_so(stem, parts):
    """Of some parts, those of which a block's number begins so."""
    first = (part * PART_BLOCKS for part in parts)
    blocks = (f"{block:05d}" for start in first for block in (start, start + PART_BLOCKS - 1))
    return [block for block in blocks if block.startswith(stem)]


@pytest.mark.parametrize(
    ("written", "parts", "most"),
    [
        (range(0), range(6250), 100),  # a hundred million instructions, 16 a block
        (range(3000), range(3000, 6250), 40),
        (range(6250), range(6250, 6251), 1),
        (range(0), range(90, 110), 20),
        (range(0), range(0, 6250, 100), 63),
    ],
)
def test_as_few_are_listed_as_there_are_parts_to_write(written, parts, most):
    stems = instance_parts._stems(parts)
    assert len(stems) <= most
    assert all(any(f"{part * PART_BLOCKS:05d}".startswith(s) for s in stems) for part in parts)
    others = sum(len(begin_so(stem, written)) for stem in stems)
    assert others <= 2 * len(parts)


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
