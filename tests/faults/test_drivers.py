"""Drivers that meet, and drivers that are interrupted politely."""

from __future__ import annotations

import json
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.builds import digests
from tests.faults.conftest import output_of

pytestmark = pytest.mark.slow

MOMENTS = [
    ("before", 5),
    ("during", 6),
    ("after", 8),
    ("during", 9),
    ("before", 12),
    ("during", 14),
]
"""When a driver stops, and at which of its writes: from the first round on, before the last."""


def wait_for_block(run, process) -> None:
    while not list(run.glob("bootstrap/*/block-*.parquet")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_a_second_driver_is_refused_while_the_first_one_works(builds, undisturbed, tmp_path):
    run = tmp_path / "run"
    first = builds.start(run)
    wait_for_block(run, first)
    second = builds.start(run)
    output = output_of(second, 120)
    assert second.returncode == 2
    assert f"{run} is being written by process {first.pid}" in output
    output = output_of(first)
    assert first.returncode == 0, output
    assert digests(run) == undisturbed


def test_a_driver_stopped_for_so_long_that_it_was_succeeded_writes_nothing_more(
    builds, undisturbed, tmp_path
):
    run = tmp_path / "run"
    first = builds.start(run)
    wait_for_block(run, first)
    first.send_signal(signal.SIGSTOP)
    wait_until_stopped(first)
    edit_lease(run, machine="one whose processes cannot be seen")
    builds.finish(run)  # watches the lease for half a minute, then takes it
    before = contents(run)
    wake(first, run)
    assert digests(run) == undisturbed
    assert contents(run) == before


@pytest.mark.parametrize(("when", "write"), MOMENTS)
def test_a_driver_that_is_succeeded_in_the_middle_of_a_write_says_so_and_changes_nothing(
    builds, undisturbed, tmp_path, when, write
):
    run = tmp_path / "run"
    fault = {"write": write, "when": when, "signal": "SIGSTOP"}
    first = builds.start(run, json.dumps(fault))
    wait_until_stopped(first)
    edit_lease(run, released=True)
    builds.finish(run)
    before = contents(run)
    wake(first, run)
    assert digests(run) == undisturbed
    assert {path: data for path, data in contents(run).items() if path in before} == before


def contents(run):
    return {path: path.read_bytes() for path in run.rglob("*.*")}


def wait_until_stopped(process) -> None:
    """Until each thread is: one that waits for a disk goes on for a while."""
    end = time.monotonic() + 300
    states = {""}
    while states != {"T"}:
        assert process.poll() is None, output_of(process)
        assert time.monotonic() < end
        time.sleep(0.01)
        states = set()
        for stat in Path(f"/proc/{process.pid}/task").glob("*/stat"):
            with suppress(OSError):  # that thread has just ended
                states.add(stat.read_text().rpartition(")")[2].split()[0])


def wake(process, run) -> None:
    """It says that it was succeeded, and ends."""
    process.send_signal(signal.SIGCONT)
    output = output_of(process)
    assert process.returncode == 1, output
    assert f"another driver has taken over {run}" in output


def edit_lease(run, **changed) -> None:
    (lease,) = run.glob("lease/*.json")
    new = lease.with_name("edited")
    new.write_text(json.dumps(json.loads(lease.read_text()) | changed))
    new.replace(lease)


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
    output = output_of(process, 60)
    assert process.returncode == 130
    assert "The same command goes on from there" in output
    builds.finish(run)
    assert digests(run) == undisturbed
