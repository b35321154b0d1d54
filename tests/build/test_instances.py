"""What a resumed build asks of the instances again, and how they end, without a cluster."""

from __future__ import annotations

import asyncio
import threading
import time

import pyarrow as pa
import pytest

from ray_si.build import instances
from ray_si.build.instances import InstancePhase, WriteInstances, is_any_to_ask
from ray_si.config.file import parse_config
from ray_si.engines.base import Completion
from ray_si.pipeline.progress import Reporter
from ray_si.pipeline.token_budget import TokenBudget
from ray_si.run import instance_parts
from ray_si.run.checkpoint import CommittedRounds
from ray_si.run.instance_parts import BlockRecord, InstanceParts, part_table
from ray_si.run.run import Run
from ray_si.run.seeds import load_seeds
from ray_si.serving.applications import Generators
from ray_si.serving.background import Alarm
from ray_si.storage.tables import ShardInfo
from tests.run.counting import counted
from tests.run.test_checkpoint import commit
from tests.run.test_instance_parts import stored

BLOCKS = 25
CONFIG = parse_config(
    {
        "target_instructions": 2 * BLOCKS,
        "generator": {"engine": "replay", "model": None},
        "dedup": {"cosine": None},
        "instances": {"block_size": 2},
    }
)


def ids(block):
    """Of the accepted instructions of a block, which are those of a round."""
    return [f"r{block:05d}-{k:05d}-00" for k in range(2)]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run with all its rounds committed; parts of ten blocks."""
    monkeypatch.setattr(instance_parts, "PART_BLOCKS", 10)
    seeds, digest = load_seeds("bundled")
    header = {"config": CONFIG.model_dump(mode="json"), "identity": CONFIG.identity()}
    run = Run.prepare(str(tmp_path / "run"), header, CONFIG.fingerprint(digest))
    with run.held():
        run.create(seeds)
        rounds = CommittedRounds(run)
        for number in range(BLOCKS):
            commit(run, rounds, number, 2)
    return run


@pytest.fixture
def asked(run, monkeypatch):
    """The blocks that are asked, and whether again; they are stored as tasks would."""
    asked = {}

    def write_blocks(blocks, task, **_):
        for block, table in blocks.items():
            asked[block] = block in task.again
            record = stored(run, block, fencing=task.fencing, ids=table["id"].to_pylist())
            yield block, part_table([record]), record.info

    monkeypatch.setattr(instances, "write_blocks", write_blocks)
    return asked


def phase_of(run):
    rounds = CommittedRounds.read(run)
    budget = TokenBudget.of(CONFIG, run, load_seeds("bundled")[0])
    reporter, generators = Reporter(lambda progress: None), Generators({}, {"app": 64})
    return InstancePhase(CONFIG, run, rounds, generators, reporter, budget, Alarm())


def test_a_resume_asks_what_failed_again_but_nothing_that_stands(run, asked):
    with run.held():
        parts = InstanceParts(run, 2)
        for block in range(BLOCKS):
            reason = "error" if block in (3, 7, 22) else "stop"
            parts.add(stored(run, block, reason=reason, ids=ids(block)))
    with run.held():  # asks a block of the first part again, and dies
        stored(run, 7, fencing=run.lease.number, ids=ids(7))
        second = run.finished_blocks("instances")[7]

    again = counted(run.location)
    with again.held():
        phase_of(again).run()
        third = f"{again.lease.number:05d}"
    assert asked == {3: True, 22: True}
    read = {key for key in again.objects.keys if key.startswith("instances/block-")}
    whole = [3, 20, 21, 22, 23, 24]
    assert read == {second, *(f"instances/block-{block:05d}.parquet" for block in whole)}
    manifest = Run.open(run.location).instances()
    assert (manifest["blocks"], manifest["instances"]) == (BLOCKS, 2 * BLOCKS)
    (first, _, last) = (part["key"] for part in manifest["parts"])
    assert first == f"instances/part-00000-{third}.parquet"
    assert last == f"instances/part-00002-{third}.parquet"


def test_where_phase_2_fails_for_good_nothing_more_is_asked_and_a_resume_asks_again(run):
    async def ask(request):
        purposes.append(request.purpose)
        return Completion("", "error", prompt_tokens=3, error="HTTP 500, 6 times")

    purposes = []
    work = WriteInstances(CONFIG, run.location, run.header["fingerprint"])
    row = {"block": 0, "seed": 1, "id": "a", "instruction": "Name a river.",
           "classification_prompt": False, "instance": None}  # fmt: skip
    answer = asyncio.run(work.answer(row, ask))
    table = work.complete(pa.Table.from_pylist([row]), [answer])
    assert purposes == ["classification"]
    record = BlockRecord.of(table, ShardInfo("block", 1, 1, ""))
    assert (record.failed, record.tokens.prompt) == (1, 3)
    (stored_row,) = table.to_pylist()
    assert stored_row["classification_answer"] is None
    assert [item["reason"] for item in stored_row["rejected"]] == ["engine_error"]


def test_to_ask_is_what_is_missing_what_failed_and_what_was_cut_short(run):
    def is_any():
        return is_any_to_ask(run, rounds, 2)

    with run.held():
        rounds, last = CommittedRounds.read(run), BLOCKS - 1
        for block in range(last):
            stored(run, block, ids=ids(block))
        assert is_any()
        stored(run, last, ids=ids(last))
        assert not is_any()
    for options in ({"reason": "error"}, {"ids": ids(0)}):
        with run.held():  # of several, the last counts
            stored(run, 3, fencing=run.lease.number, **{"ids": ids(3), **options})
            assert is_any()
            stored(run, 3, fencing=run.lease.number + 1, ids=ids(3))
            assert not is_any()


def test_what_is_written_is_not_told_before_all_that_stood_is_read_or_asked_again(run, asked):
    with run.held():
        for block in range(3):
            stored(run, block, ids=ids(block), reason="error" if block == 1 else "stop")
    with run.held():
        phase = phase_of(run)
        assert phase.written is None
        assert phase.counts.blocks == 0
        phase._begin(3)  # reads them, and asks the second again at the next look
        phase.wait()
        assert phase.counts.blocks == 2
        assert phase.written is None
        phase.run()
    assert phase.written.blocks == phase.written.instructions / 2 == BLOCKS


def test_what_failed_behind_a_gap_is_asked_again_too(run, asked, monkeypatch):
    """Two writers begin far apart, so a driver that is killed leaves one."""
    monkeypatch.setattr(instance_parts, "PART_BLOCKS", 5)
    with run.held():
        for block in (0, 1, 2, 22, 23):
            stored(run, block, reason="error" if block in (2, 22) else "stop", ids=ids(block))
    again = Run.open(run.location)
    with again.held():
        phase_of(again).run()
    assert asked == {b: b in (2, 22) for b in range(BLOCKS) if b not in (0, 1, 23)}


def test_the_manifest_waits_for_a_part_that_is_still_being_written(run, asked, monkeypatch):
    """Where all blocks were written ahead there is none left to wait for."""
    monkeypatch.setattr(instance_parts, "PART_BLOCKS", 5)
    last, may_write, written = "instances/part-00004", threading.Event(), []
    write = Run.write_numbered

    def write_slowly(self, stem, *rest):
        if stem == last:
            may_write.wait(10)
        written.append(stem)
        return write(self, stem, *rest)

    monkeypatch.setattr(Run, "write_numbered", write_slowly)
    with run.held():
        phase = phase_of(run)
        phase.begin()
        until = time.monotonic() + 10
        while phase.counts.blocks < BLOCKS and time.monotonic() < until:
            time.sleep(0.01)
        threading.Timer(0.3, may_write.set).start()
        phase.run()
    assert sorted(asked) == list(range(BLOCKS))
    assert sorted(written) == [f"instances/part-{number:05d}" for number in range(5)]
    assert Run.open(run.location).instances()["instances"] == 2 * BLOCKS
