"""Whatever else dies with SIGKILL during a build, it ends with the bytes of an undisturbed one."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import psutil
import pytest

from ray_si.build.builder import build
from ray_si.config.file import parse_config
from tests.builds import digests, rays_processes, replay_values

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]


def values(**generator):
    """Every part of a build: embedder, gate shards, two replicas with latency."""
    base = replay_values()
    base["generator"] |= {"replicas": 2, **generator}
    base["dedup"] = {"cosine": 0.9, "shards": 2}
    return base


def processes(*marks: str) -> list[psutil.Process]:
    """Processes of the session's Ray in whose title all of these stand, oldest first."""
    found = []
    for process in rays_processes("ray::"):
        with suppress(psutil.NoSuchProcess):
            title = " ".join(process.cmdline())
            if all(mark in title for mark in marks):
                found.append((process.create_time(), process.pid, process))
    return [process for *_, process in sorted(found)]


@pytest.fixture(scope="module")
def undisturbed(ray_session, tmp_path_factory):
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    build(parse_config(values()), str(run))
    return digests(run)


@pytest.mark.parametrize(
    "marks",
    [
        ("ServeReplica", "GeneratorReplica"),
        ("ServeReplica", "EmbedderReplica"),
        ("Shard",),
        ("MapBatches",),
        ("ServeController",),
    ],
    ids=["generator replica", "embedder", "gate shard", "data worker", "serve controller"],
)
def test_a_killed_process_changes_nothing(undisturbed, tmp_path, marks):
    run, killed, done = tmp_path / "run", [], threading.Event()

    def kill_twice() -> None:
        """Once the first block stands, and once more a second later."""
        while not done.is_set() and len(killed) < 2:
            if list(run.glob("bootstrap/*/block-*.parquet")):
                for process in processes(*marks)[-1:]:
                    process.kill()
                    killed.append(process.pid)
                    time.sleep(1)
            time.sleep(0.002)

    killer = threading.Thread(target=kill_twice)
    killer.start()
    try:
        build(parse_config(values(replay={"latency_s": 0.3})), str(run))
    finally:
        done.set()
        killer.join()
    assert killed
    assert digests(run) == undisturbed


def test_a_replica_killed_every_few_seconds_changes_nothing(undisturbed, tmp_path):
    run, killed, done = tmp_path / "run", [], threading.Event()

    def keep_killing() -> None:
        """From the first block on: a replica that never came up would be an error."""
        while not done.wait(4):
            found = list(run.glob("bootstrap/*/block-*.parquet"))
            for process in processes("ServeReplica", "GeneratorReplica")[: bool(found)]:
                process.kill()
                killed.append(process.pid)

    killer = threading.Thread(target=keep_killing)
    killer.start()
    try:
        build(parse_config(values(max_batch=4, replay={"latency_s": 1.0})), str(run))
    finally:
        done.set()
        killer.join()
    assert len(killed) >= 4
    assert digests(run) == undisturbed
