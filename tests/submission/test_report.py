"""What a job leaves beside its run, and which ends nobody repeats."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from uuid import uuid4

import pytest
import yaml
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from ray_si.errors import (
    BudgetError,
    ClusterLostError,
    ConfigError,
    GenerationError,
    NoProgressError,
    RunError,
)
from ray_si.run.run import Run
from ray_si.storage.objects import open_objects
from ray_si.submission import report
from ray_si.submission.report import OUTCOME, JobReport, reported, state_of
from tests.builds import replay_values


def outcome(location):
    return json.loads(open_objects(location).get(OUTCOME))


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (ConfigError("x"), "mend"),
        (RunError("x"), "mend"),
        (BudgetError("x"), "stopped"),
        (NoProgressError("x"), "stopped"),
        (GenerationError("x"), "failed"),
    ],
)
def test_ends_are_told_apart_by_whether_repeating_can_help(error, state, location):
    assert state_of(error) == state
    with pytest.raises(type(error)), reported(location, repeat=False):
        raise error
    assert outcome(location)["state"] == state
    assert outcome(location)["exit_status"] == (2 if state == "mend" else 1)
    assert outcome(location)["message"] == "x"


def test_a_build_that_is_interrupted_or_done_says_so(location):
    with pytest.raises(KeyboardInterrupt), reported(location, repeat=True):
        raise KeyboardInterrupt
    assert outcome(location)["state"] == "interrupted"
    with reported(location, repeat=True):
        assert outcome(location)["state"] == "running"
    assert outcome(location) | {"at": 0} == {
        "state": "done",
        "exit_status": 0,
        "message": "",
        "at": 0,
        "log": outcome(location)["log"],
    }


def test_a_place_with_nothing_but_what_a_job_left_is_free_for_a_run(location):
    with pytest.raises(ConfigError), reported(location, repeat=True):
        raise ConfigError("mend it")
    Run.check_location(location, {}, "fingerprint")
    open_objects(location).put("something.txt", b"else")
    with pytest.raises(RunError, match="is not empty and not a run"):
        Run.check_location(location, {}, "fingerprint")


def test_the_output_of_a_driver_is_kept_while_it_runs_and_at_its_end(tmp_path):
    """In a process whose output goes to a file, as a job's does."""
    run = tmp_path / "run"
    code = (
        "import sys, time; from ray_si.submission import report; report._EVERY_S = 0.2\n"
        f"with report.reported({str(run)!r}, repeat=True):\n"
        "    print('begun', flush=True); time.sleep(1)\n"
        "    (log,) = report.open_objects(sys.argv[1]).list('job/driver-')\n"
        "    assert b'begun' in report.open_objects(sys.argv[1]).get(log)\n"
        "    print('ended', flush=True)\n"
    )
    with (tmp_path / "log").open("w") as file:
        command = [sys.executable, "-c", code, str(run)]
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False)
    assert done.returncode == 0, (tmp_path / "log").read_text()
    (log,) = open_objects(str(run)).list("job/driver-")
    assert open_objects(str(run)).get(log).decode().split() == ["begun", "ended"]
    assert outcome(str(run))["log"] == log


def test_only_the_end_of_a_long_log_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_TAIL", 10)
    monkeypatch.setattr(report, "_output_file", lambda: tmp_path / "log")
    (tmp_path / "log").write_text("0123456789abcdef")
    with reported(str(tmp_path / "run"), repeat=True):
        pass
    (log,) = open_objects(str(tmp_path / "run")).list("job/driver-")
    assert open_objects(str(tmp_path / "run")).get(log) == b"6789abcdef"


def test_drivers_lost_one_after_the_other_in_the_same_place_are_not_repeated(location):
    """A head lost to memory would be made again for ever; with progress it may be."""
    objects = open_objects(location)

    def lost(done):
        driver = JobReport(location)
        driver.begin()  # and it is killed
        objects.put("live.json", json.dumps({"phase": "bootstrap", "done": done}).encode())
        return driver.lost_alike

    assert [lost(10), lost(20), lost(30), lost(30)] == [0, 1, 1, 1]
    assert lost(30) == 2
    with (
        pytest.raises(ClusterLostError, match="3 drivers in a row were lost") as caught,
        reported(location, repeat=False),
    ):
        raise AssertionError("it must not begin")
    assert "memory on the head" in str(caught.value)
    assert outcome(location)["state"] == "stopped"
    for _ in range(4):
        lost(30)
    with pytest.raises(ConfigError), reported(location, repeat=True):  # lost before, not now
        raise ConfigError("x")
    assert (outcome(location)["state"], outcome(location)["exit_status"]) == ("mend", 2)
    with reported(location, repeat=False):  # a person submits it again
        pass


def test_a_job_that_may_not_stop_itself_ends_with_its_own_error(location, monkeypatch):
    def refuse():
        raise AuthenticationError("another token")

    monkeypatch.setattr(report, "JobSubmissionClient", refuse)
    monkeypatch.setenv(
        report.RAY_JOB_CONFIG_JSON_ENV_VAR, '{"metadata": {"job_submission_id": "x"}}'
    )
    with pytest.raises(ConfigError, match="mend it"), reported(location, repeat=False):
        raise ConfigError("mend it")


@pytest.mark.slow
def test_a_job_that_cannot_be_mended_by_repeating_is_stopped_and_not_failed(
    head, s3_environment, ray_environment, tmp_path
):
    """KubeRay repeats a job that FAILED and leaves one that was STOPPED (its controller, 1.7)."""
    client = JobSubmissionClient(head)

    def end_of(values, out):
        path = tmp_path / f"{uuid4().hex}.yaml"
        path.write_text(yaml.safe_dump(values))
        command = f"{sys.executable} -m ray_si build {path} --out {out} --no-repeat"
        id_ = client.submit_job(entrypoint=command)
        end = time.monotonic() + 180
        while not client.get_job_status(id_).is_terminal() and time.monotonic() < end:
            time.sleep(0.5)
        return str(client.get_job_status(id_)), client.get_job_logs(id_)

    out = f"s3://runs/{uuid4().hex}"
    status, log = end_of(replay_values() | {"seeds": "absent.jsonl"}, out)
    assert status == "STOPPED", log
    assert outcome(out)["state"] == "mend"
    assert "absent.jsonl" in outcome(out)["message"]
    assert len(list(open_objects(out).list("job/driver-"))) == 1

    status, log = end_of(replay_values() | {"budget": {"tokens": 20_000}}, out)
    assert status == "STOPPED", log
    assert outcome(out)["state"] == "stopped"
    assert "tokens are spent" in outcome(out)["message"]

    status, log = end_of(replay_values(), out)
    assert status == "SUCCEEDED", log
    assert outcome(out)["state"] == "done"
    assert len(list(open_objects(out).list("job/driver-"))) == 3
    from ray_si.audit.verify import verify

    assert all(check.ok for check in verify(out))
