"""A driver killed with SIGKILL, anywhere and again and again, costs nothing but time."""

from __future__ import annotations

import json
import random
import signal

import pytest
import yaml

from ray_si.build.builder import build
from ray_si.config.file import parse_config
from tests.builds import digests
from tests.faults.conftest import output_of

KILLS = 50
"""In all lives together, in the long form of this test."""


def schedule(seed: int, kills: int) -> list[str]:
    """Faults for one run's successive drivers, of every kind."""
    rng = random.Random(seed)
    faults = []
    for life in range(kills):
        if rng.random() < 0.4:
            faults.append({"blocks": rng.randint(1, 5)})
        else:
            # a first driver has about 25 writes to go, its successors ever fewer
            write = rng.randint(1, max(3, 14 - 3 * life))
            faults.append({"write": write, "when": rng.choice(["before", "during", "after"])})
    return [json.dumps(fault) for fault in faults]


def live_through(builds, run, faults) -> int:
    """Start a driver for each fault, until one gets to the end; how many were killed.

    The last one, which nothing happens to, is this process.
    """
    killed = 0
    for fault in faults:
        process = builds.start(run, fault)
        output = output_of(process)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, (fault, output)
        killed += 1
    build(parse_config(yaml.safe_load(builds.config.read_text())), str(run))
    return killed


def leftovers(run) -> list[str]:
    return [path.name for path in run.rglob(".tmp-*")]


def test_a_few_kills_change_nothing(builds, undisturbed, tmp_path):
    run = tmp_path / "run"
    faults = ['{"write": 6, "when": "during"}', '{"blocks": 2}']
    assert live_through(builds, run, faults) == 2
    assert digests(run) == undisturbed
    assert leftovers(run) == []


@pytest.mark.slow
def test_fifty_kills_at_moments_of_every_kind_change_nothing(
    builds, undisturbed, tmp_path, record_property
):
    killed = lives = 0
    while killed < KILLS:
        run = tmp_path / f"run-{lives}"
        killed += live_through(builds, run, schedule(seed=lives, kills=5))
        assert digests(run) == undisturbed, f"life {lives}"
        assert leftovers(run) == []
        lives += 1
    record_property("kills", killed)
    record_property("runs", lives)
