"""A killed driver is begun again where it ran; one that ends, or is asked to end, is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from ray_si.submission.supervisor import USED_UP, supervise


def child(folder, body):
    """A command that notes each of its lives in a file of the folder before it does something."""
    code = (
        f"import os, signal, sys, time; f = open({str(folder / 'lives')!r}, 'a+'); f.write('x')\n"
    )
    code += "f.flush(); f.seek(0); lives = len(f.read())\n" + body
    return [sys.executable, "-S", "-c", code]


def lives(folder):
    return len((folder / "lives").read_text())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_what_is_killed_is_begun_again_until_it_ends_by_itself(tmp_path, number):
    said = []
    body = f"os.kill(os.getpid(), {number}) if lives < 3 else sys.exit(0)"
    assert supervise(child(tmp_path, body), 3, said.append) == 0
    assert lives(tmp_path) == 3
    name = signal.Signals(number).name
    assert said == [
        f"the driver was killed by {name}; beginning it again, {left} tries left" for left in (3, 2)
    ]


def test_after_its_tries_it_is_left_with_a_status_that_nobody_takes_for_a_lost_job(tmp_path):
    said = []
    command = child(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    assert supervise(command, 2, said.append) == USED_UP
    assert lives(tmp_path) == 3
    assert "its tries are used up" in said[-1]


@pytest.mark.parametrize("status", [0, 1, 2, 143])
def test_a_status_of_its_own_is_handed_on_and_nothing_is_repeated(tmp_path, status):
    assert supervise(child(tmp_path, f"sys.exit({status})"), 3, print) == status
    assert lives(tmp_path) == 1


def test_a_command_that_alone_is_asked_to_end_is_not_begun_again(tmp_path):
    command = child(tmp_path, "os.kill(os.getpid(), signal.SIGTERM)")
    assert supervise(command, 3, print) == 128 + signal.SIGTERM
    assert lives(tmp_path) == 1


def test_after_a_request_to_end_a_kill_is_final(tmp_path):
    """As where Ray stops a job: SIGTERM to all of it, and SIGKILL to what is left."""

    def stop():
        while not (tmp_path / "lives").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    command = child(tmp_path, "time.sleep(0.5); os.kill(os.getpid(), signal.SIGKILL)")
    before = signal.getsignal(signal.SIGTERM)
    assert supervise(command, 3, print) == 128 + signal.SIGKILL
    assert lives(tmp_path) == 1
    assert signal.getsignal(signal.SIGTERM) is before


def test_build_with_retries_hands_its_other_arguments_to_the_build(tmp_path):
    """Exit status 2 of a real build, whose one line names what is wrong."""
    command = [sys.executable, "-m", "ray_si", "build", str(tmp_path / "absent.yaml")]
    command += ["--out", str(tmp_path / "run"), "--set", "seed=3", "--retries", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "absent.yaml" in done.stderr
    assert "beginning it again" not in done.stderr
