"""Drivers that meet, and drivers that are interrupted politely."""

from __future__ import annotations

import json
import signal
import time

import pytest

from tests.builds import digests

pytestmark = pytest.mark.slow


def wait_for_block(run, process) -> None:
    while not list(run.glob("bootstrap/*/block-*.parquet")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_a_second_driver_is_refused_while_the_first_one_works(builds, undisturbed, tmp_path):
    run = tmp_path / "run"
    first = builds.start(run)
    wait_for_block(run, first)
    second = builds.start(run)
    output, _ = second.communicate(timeout=120)
    assert second.returncode == 2
    assert f"{run} is being written by process {first.pid}" in output
    assert first.wait(timeout=180) == 0
    assert digests(run) == undisturbed


def test_a_driver_stopped_for_so_long_that_it_was_succeeded_writes_nothing_more(
    builds, undisturbed, tmp_path
):
    run = tmp_path / "run"
    first = builds.start(run)
    wait_for_block(run, first)
    first.send_signal(signal.SIGSTOP)
    (lease,) = run.glob("lease/*.json")
    record = json.loads(lease.read_text())
    lease.write_text(json.dumps(record | {"machine": "one whose processes cannot be seen"}))
    builds.finish(run)  # watches the lease for half a minute, then takes it
    before = {path: path.read_bytes() for path in run.rglob("*.*")}
    first.send_signal(signal.SIGCONT)
    output, _ = first.communicate(timeout=180)
    assert first.returncode == 1
    assert f"another driver has taken over {run}" in output
    assert digests(run) == undisturbed
    after = {path: path.read_bytes() for path in run.rglob("*.*")}
    assert {path: after[path] for path in before} == before


@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupted_driver_leaves_soon_and_its_run_goes_on(
    builds, undisturbed, tmp_path, times
):
    run = tmp_path / "run"
    process = builds.start(run)
    wait_for_block(run, process)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "The same command goes on from there" in output
    builds.finish(run)
    assert digests(run) == undisturbed
