"""What a resumed build asks of the instances again, without a cluster."""

from __future__ import annotations

from ray_si.build import instances
from ray_si.build.instances import InstancePhase
from ray_si.config.file import parse_config
from ray_si.pipeline.progress import Reporter
from ray_si.pipeline.token_budget import TokenBudget
from ray_si.run import instance_parts
from ray_si.run.checkpoint import CommittedRounds
from ray_si.run.instance_parts import InstanceParts, part_table
from ray_si.run.run import Run
from ray_si.run.seeds import load_seeds
from ray_si.serving.applications import Generators
from ray_si.serving.background import Alarm
from tests.run.counting import counted
from tests.run.test_checkpoint import commit
from tests.run.test_instance_parts import stored

BLOCKS = 25


def ids(block):
    """Of the accepted instructions of a block, which are those of a round."""
    return [f"r{block:05d}-{k:05d}-00" for k in range(2)]


def test_a_resume_asks_what_failed_again_but_nothing_that_stands(tmp_path, monkeypatch):
    monkeypatch.setattr(instance_parts, "PART_BLOCKS", 10)
    config = parse_config(
        {
            "target_instructions": 2 * BLOCKS,
            "generator": {"engine": "replay", "model": None},
            "dedup": {"cosine": None},
            "instances": {"block_size": 2},
        }
    )
    seeds, digest = load_seeds("bundled")
    header = {"config": config.model_dump(mode="json"), "identity": config.identity()}
    run = Run.prepare(str(tmp_path / "run"), header, config.fingerprint(digest))
    with run.held():
        run.create(seeds)
        rounds = CommittedRounds(run)
        for number in range(BLOCKS):
            commit(run, rounds, number, 2)
        parts = InstanceParts(run, 2)
        for block in range(BLOCKS):
            reason = "error" if block in (3, 7, 22) else "stop"
            parts.add(stored(run, block, reason=reason, ids=ids(block)))
    with run.held():  # asks a block of the first part again, and dies
        stored(run, 7, fencing=run.lease.number, ids=ids(7))
        second = run.finished_blocks("instances")[7]

    run = counted(run.location)
    asked = {}

    def write_blocks(blocks, task, **_):
        for block, table in blocks.items():
            asked[block] = block in task.again
            record = stored(run, block, fencing=task.fencing, ids=table["id"].to_pylist())
            yield block, part_table([record]), record.info

    monkeypatch.setattr(instances, "write_blocks", write_blocks)
    with run.held():
        rounds = CommittedRounds.read(run)
        phase = InstancePhase(
            config,
            run,
            rounds,
            Generators({}, {"app": 64}),
            Reporter(lambda progress: None),
            TokenBudget.of(config, run, seeds),
            Alarm(),
        )
        phase.run()
        third = f"{run.lease.number:05d}"
    assert asked == {3: True, 22: True}
    read = {key for key in run.objects.keys if key.startswith("instances/block-")}
    whole = [3, 20, 21, 22, 23, 24]
    assert read == {second, *(f"instances/block-{block:05d}.parquet" for block in whole)}
    manifest = Run.open(run.location).instances()
    assert (manifest["blocks"], manifest["instances"]) == (BLOCKS, 2 * BLOCKS)
    (first, _, last) = (part["key"] for part in manifest["parts"])
    assert first == f"instances/part-00000-{third}.parquet"
    assert last == f"instances/part-00002-{third}.parquet"
