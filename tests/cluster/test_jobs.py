"""Builds as jobs on a real head, writing to a real S3: killed, stopped, cut off, resumed."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress
from uuid import uuid4

import psutil
import pytest

from ray_si.storage.objects import open_objects
from tests.clusters import ROOT, free_port, start_head
from tests.command import assert_one_line_error, ray_si

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("s3_environment")]


@pytest.fixture
def out():
    return f"s3://runs/{uuid4().hex}/run"


@pytest.fixture(scope="module")
def undisturbed(head, ray_environment, tmp_path_factory):
    """Digests of the shards of a build that nothing happened to, in a folder."""
    import yaml

    from tests.builds import digests, replay_values

    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "run.yaml").write_text(yaml.safe_dump(replay_values()))
    done = ray_si("build", folder / "run.yaml", "--out", folder / "run", env=ray_environment)
    assert done.returncode == 0, done.stderr
    return digests(folder / "run")


def shards(location):
    objects = open_objects(location)
    return {
        key.removeprefix("data/"): hashlib.sha256(objects.get(key)).hexdigest()
        for key in objects.list("data/")
    }


def processes(location):
    """Each process of a job that builds that run, with its command line."""
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if {"build", location} <= set(line) and "submit" not in line:
            yield process, line


def drivers(location):
    return [process for process, line in processes(location) if not supervises(line)]


def supervisor(location):
    """The process that begins its driver again."""
    (process,) = [process for process, line in processes(location) if supervises(line)]
    return process


def supervises(line):
    return any(word.startswith("--retries") for word in line)


def jobs(head, environment):
    """What ``ray-si jobs`` lists, by run."""
    listed = ray_si("jobs", "--address", head, "--json", env=environment)
    assert listed.returncode == 0, listed.stderr
    return {job["run"] or job["entrypoint"]: job for job in json.loads(listed.stdout)}


def test_a_submitted_build_ends_as_one_in_a_folder_does(
    head, submit, slow_config, out, undisturbed, ray_environment
):
    submission = submit(slow_config, "--out", out, "--address", head)
    assert submission.end() == 0, submission.output
    assert f"the job succeeded: {out}" in submission.output
    assert shards(out) == undisturbed
    assert ray_si("verify", out, env=ray_environment).returncode == 0
    assert jobs(head, ray_environment)[out]["status"] == "SUCCEEDED"
    table = ray_si("jobs", "--address", head, env=ray_environment)
    assert out in table.stdout
    again = submit(slow_config, "--out", out, "--address", head)  # a finished run stays finished
    assert again.end() == 0


def test_a_driver_that_is_killed_is_begun_again_on_the_cluster(
    head, submit, slow_config, out, undisturbed, ray_environment
):
    """By the job itself: the terminal that submitted it may be gone."""
    submission = submit(slow_config, "--out", out, "--address", head, "--no-follow")
    assert submission.end() == 0, submission.output
    id_ = jobs(head, ray_environment)[out]["id"]
    until_some_block(out)
    (driver,) = drivers(out)
    driver.kill()
    followed = ray_si("jobs", "--address", head, "--follow", id_, env=ray_environment)
    assert followed.returncode == 0, followed.stdout + followed.stderr
    assert "killed by SIGKILL; beginning it again, 3 tries left" in followed.stdout
    assert "going on with the replicas of the driver before" in followed.stdout
    assert shards(out) == undisturbed
    assert ray_si("verify", out, env=ray_environment).returncode == 0
    assert jobs(head, ray_environment)[out]["status"] == "SUCCEEDED"


def test_a_job_whose_entry_point_is_killed_is_submitted_again_by_itself(
    head, submit, slow_config, out, undisturbed
):
    submission = submit(slow_config, "--out", out, "--address", head, "--retries", "2")
    submission.read_until("round 0:")
    supervisor(out).kill()
    for driver in drivers(out):  # as it would with its machine
        driver.kill()
    assert submission.end() == 0, submission.output
    assert "is lost (its driver ended with status 137); submitting it again" in submission.output
    assert shards(out) == undisturbed


def until_some_block(location):
    end = time.monotonic() + 120
    while not list(open_objects(location).list("bootstrap/")):
        assert time.monotonic() < end
        time.sleep(0.2)


def test_a_driver_that_was_killed_elsewhere_is_succeeded_after_watching_its_lease(
    head, submit, slow_config, out, undisturbed
):
    submission = submit(slow_config, "--out", out, "--address", head, "--retries", "0")
    submission.read_until("round 0:")
    (driver,) = drivers(out)
    driver.kill()
    assert submission.end() == 137
    objects = open_objects(out)
    (lease,) = objects.list("lease/")
    record = json.loads(objects.get(lease))
    objects.put(lease, json.dumps(record | {"machine": "one that was preempted"}).encode())
    again = submit(slow_config, "--out", out, "--address", head)
    again.read_until("waiting up to 30 s to see whether process")
    assert again.end() == 0, again.output
    assert shards(out) == undisturbed


def test_ctrl_c_leaves_the_job_running_and_says_how_to_follow_and_to_stop_it(
    head, submit, slow_config, out, undisturbed, ray_environment
):
    slow = "generator.replay.latency_s=10"  # it is to be there still after four commands
    submission = submit(slow_config, "--out", out, "--address", head, "--set", slow)
    submission.read_until("round 0:")
    submission.process.send_signal(signal.SIGINT)
    assert submission.end() == 130
    id_ = jobs(head, ray_environment)[out]["id"]
    assert f"ray-si jobs --address {head} --follow {id_}" in submission.output
    assert f"ray-si jobs --address {head} --stop {id_}" in submission.output
    assert jobs(head, ray_environment)[out]["status"] == "RUNNING"

    second = submit(slow_config, "--out", out, "--address", head)
    assert second.end() == 2
    assert f"job {id_} writes {out} already" in second.output

    stopped = ray_si("jobs", "--address", head, "--stop", id_, env=ray_environment)
    assert stopped.returncode == 0, stopped.stderr
    assert f"{id_}: STOPPED" in stopped.stderr
    assert applications(head) == [], "a stopped build keeps its replicas"
    followed = ray_si("jobs", "--address", head, "--follow", id_, env=ray_environment)
    assert followed.returncode == 143
    assert "The same command goes on from there" in followed.stdout

    assert submit(slow_config, "--out", out, "--address", head).end() == 0
    assert shards(out) == undisturbed


def applications(head):
    import requests

    for _ in range(40):  # Serve removes them without waiting
        answer = requests.get(f"{head}/api/serve/applications/", timeout=10).json()
        if not answer["applications"]:
            break
        time.sleep(0.5)
    return list(answer["applications"])


def test_what_the_user_has_to_mend_ends_with_status_2_and_is_not_tried_again(
    head, submit, slow_config, out
):
    open_objects(out).put("something.txt", b"else")
    submission = submit(slow_config, "--out", out, "--address", head)
    assert submission.end() == 2
    assert "is not empty and not a run" in submission.output
    assert submission.output.count("submitted as") == 1


def test_jobs_that_are_not_there_are_one_line(head, ray_environment):
    for option in ("--stop", "--follow"):
        done = ray_si("jobs", "--address", head, option, "ray-si-absent", env=ray_environment)
        assert_one_line_error(done, f"the cluster at {head} knows no job ray-si-absent")


def test_ray_job_submit_runs_the_entry_points(
    head, slow_config, out, undisturbed, ray_environment, tmp_path
):
    """As the README has it, from a checkout: a build that is killed, and again; then an export."""
    checkout = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(".venv", ".git", "runs", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, checkout, ignore=ignored)
    shutil.copy(slow_config, checkout / "mine.yaml")

    def submit_job(*arguments):
        command = ["ray", "job", "submit", "--address", head, "--working-dir", ".", "--"]
        return subprocess.Popen(
            [*command, "python", *arguments],
            cwd=checkout,
            env=ray_environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    first = submit_job("jobs/run.py", "build", "mine.yaml", "--out", out)
    while "round 0:" not in first.stdout.readline():
        assert first.poll() is None
    for driver in drivers(out):
        driver.kill()
    assert first.wait(timeout=60) == 1
    first.communicate()
    again = submit_job("jobs/run.py", "build", "mine.yaml", "--out", out)
    output, _ = again.communicate(timeout=240)
    assert again.returncode == 0, output
    assert shards(out) == undisturbed
    export = submit_job("jobs/run.py", "export", out, "--format", "alpaca", "--to", f"{out}-export")
    output, _ = export.communicate(timeout=240)
    assert export.returncode == 0, output
    exported = open_objects(f"{out}-export")
    (name,) = [key for key in exported.list("alpaca") if key.endswith(".jsonl")]
    rows = exported.get(name)
    open_objects(f"{out}-export").put("again.jsonl", rows + rows)
    texts, kept = f"{out}-export/again.jsonl", f"{out}-kept/kept.jsonl"
    dedup = submit_job("jobs/run.py", "dedup", texts, "--to", kept, "--cosine", "off")
    output, _ = dedup.communicate(timeout=240)
    assert dedup.returncode == 0, output
    lines = open_objects(f"{out}-kept").get("kept.jsonl").splitlines()
    assert 0 < len(lines) <= len(rows.splitlines())


class Relay:
    """Passes connections on to a port of this machine until `cut` closes them all."""

    def __init__(self, target: int) -> None:
        self._target, self._open = target, []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            here, _ = self._listener.accept()
            there = socket.create_connection(("127.0.0.1", self._target))
            self._open += [here, there]
            for source, sink in ((here, there), (there, here)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._open.clear()


def test_a_connection_that_breaks_is_made_anew_and_no_line_comes_twice(
    head, submit, slow_config, out, undisturbed
):
    relay = Relay(int(head.rpartition(":")[2]))
    submission = submit(slow_config, "--out", out, "--address", relay.address)
    for round_ in (0, 1):
        submission.read_until(f"round {round_}:")
        relay.cut()
    assert submission.end() == 0, submission.output
    lines = [line for line in submission.output.splitlines() if " - round " in line]
    assert len(lines) == len(set(lines)) > 2
    assert submission.output.count("Summary") == 1
    assert shards(out) == undisturbed


def test_a_head_that_is_replaced_gets_the_job_again(submit, slow_config, out, undisturbed):
    port = free_port()
    first = start_head(port)
    submission = submit(slow_config, "--out", out, "--address", f"http://127.0.0.1:{port}")
    submission.read_until("round 0:")
    first.shutdown()
    with suppress(ValueError):  # it has noticed that Ray is gone
        supervisor(out).kill()
    for driver in drivers(out):  # as it would with its machine
        driver.kill()
    second = start_head(port)
    try:
        assert submission.end() == 0, submission.output
    finally:
        second.shutdown()
    assert "waiting for it" in submission.output
    assert "its head was restarted); submitting it again" in submission.output
    assert shards(out) == undisturbed
