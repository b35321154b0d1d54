"""Processes that an engine started end with the replica that it belongs to, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ray_si.engines import orphans

ROOT = Path(__file__).parents[2]

OWNER = """
import subprocess, sys, time
from ray_si.engines import orphans
child = orphans.started_by(lambda: subprocess.Popen([sys.executable, "-c", sys.argv[1]]))
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def replica(tmp_path, monkeypatch):
    """Starts a process that starts another, which runs some code; both by `psutil`."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    started = []

    def start(code):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", OWNER, code]
        owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        started.append(owner)
        engine = psutil.Process(int(owner.stdout.readline()))
        started.append(engine)
        return owner, engine

    yield start
    for process in started:
        if process.poll() is None if isinstance(process, subprocess.Popen) else _runs(process):
            process.kill()


def _runs(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def wait_for_the_note(owner):
    note = orphans._folder() / f"{owner.pid}.json"
    deadline = time.monotonic() + 30
    while not note.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_a_killed_replica_left_is_ended_before_another_engine_starts(replica):
    owner, engine = replica("import time; time.sleep(600)")
    wait_for_the_note(owner)
    assert orphans.reap() == 0  # its owner is there
    assert _runs(engine)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert _runs(engine)
    assert orphans.reap() == 1
    assert not _runs(engine)
    assert orphans.reap() == 0


def test_a_number_that_another_process_has_now_is_left_alone(replica):
    owner, engine = replica("import time; time.sleep(600)")
    wait_for_the_note(owner)
    note = orphans._folder() / f"{owner.pid}.json"
    note.write_text(note.read_text().replace(str(engine.create_time()), "1.0"))
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert orphans.reap() == 0
    assert _runs(engine)


def test_an_engine_ends_by_itself_once_its_replica_is_gone(replica):
    code = "import time; from ray_si.engines import orphans as o; o.follow_owner(); time.sleep(600)"
    owner, engine = replica(code)
    time.sleep(3)
    assert _runs(engine)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    gone, _ = psutil.wait_procs([engine], timeout=20)
    assert gone or not _runs(engine)


def test_it_is_a_plugin_that_vllm_loads_in_all_its_processes():
    text = (ROOT / "pyproject.toml").read_text()
    assert '"vllm.general_plugins"]\nray_si = "ray_si.engines.orphans:follow_owner"' in text
