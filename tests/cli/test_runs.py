"""The command line as a user meets it: a process, its output, its exit status."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from ray_si.build.checks import WAIT_VARIABLE
from ray_si.run.run import Run
from tests import loopback
from tests.command import ENVIRONMENT, assert_one_line_error, invoke, ray_si

VERBS = (
    "build",
    "check",
    "status",
    "verify",
    "regate",
    "preview",
    "estimate",
    "export",
    "dedup",
    "report",
)
REPLAY = """
target_instructions: 60
generator: {engine: replay, model: null, cpus: 0.5}
bootstrap: {prompts_per_round: 4, block_size: 4}
dedup: {cosine: off}
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(REPLAY)
    return path


def test_help_shows_every_verb_and_examples():
    text = invoke("--help").stdout
    assert all(verb in text for verb in VERBS)
    assert "ray-si build configs/quickstart.yaml" in invoke("build", "--help").stdout


def test_check_says_what_it_found(config):
    done = invoke("check", config)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ok: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "absent.yaml"], "absent.yaml: No such file"),
        (["status", "absent"], "absent is not a run"),
        (["verify", "absent"], "absent is not a run"),
        (["regate", "absent", "--to", "run"], "absent is not a run"),
        (["export", "absent", "--format", "alpaca", "--to", "x"], "absent is not a run"),
        (["report", "absent", "--to", "x.html"], "absent is not a run"),
        (["report", "absent", "--to", "absent/x.html"], "lies inside a run"),
        (["report", "absent", "--to", "x.html", "--json", "x.html"], "for the page and for"),
        (["build", "absent.yaml", "--out", "run"], "absent.yaml: No such file"),
    ],
)
def test_wrong_paths_are_one_line(tmp_path, arguments, message):
    assert_one_line_error(invoke(*arguments, cwd=tmp_path), message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("target=5", "did you mean target_instructions?"),
        ("dedup.rouge=7", "dedup.rouge"),
        ("seeds=absent.jsonl", "no seed tasks at absent.jsonl"),
        ("generator.engine=transformers", "generator: model is needed"),
        ("nonsense", "key=value"),
    ],
)
def test_wrong_settings_are_one_line_and_write_nothing(tmp_path, config, override, message):
    done = invoke("build", config, "--out", tmp_path / "run", "--set", override)
    assert_one_line_error(done, message)
    assert not (tmp_path / "run").exists()


def test_an_unwritable_place_is_refused(tmp_path, config):
    (tmp_path / "occupied").write_text("a file")
    done = invoke("build", config, "--out", tmp_path / "occupied" / "run")
    assert_one_line_error(done, "cannot be written")


def test_what_only_ray_can_refuse_leaves_nothing_behind(ray_session, tmp_path, config):
    def refused(done, message):
        assert done.returncode == 2, done.stderr
        assert message in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "run").exists()

    command = "build", config, "--out", tmp_path / "run"
    absent = "127.0.0.1:1"
    refused(ray_si(*command, "--address", absent), f"no Ray cluster answers at {absent}")
    no_wait = ENVIRONMENT | {WAIT_VARIABLE: "0"}
    large = "--set", "generator.cpus=9999"
    refused(invoke(*command, *large, env=no_wait), "asks for 9999 CPU")


def test_interrupted_it_says_how_to_go_on_and_goes_on(ray_session, tmp_path, config):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "ray_si", "build", str(config), "--out", str(run)]
    slow = ["--set", "generator.replay.latency_s=0.7"]
    process = subprocess.Popen(
        command + slow, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 400
    while not list(run.glob("bootstrap/round-00000/manifest.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)  # an impatient second one
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "The same command goes on from there." in errors
    assert "Traceback" not in errors, errors
    verified = invoke("verify", run)
    assert verified.returncode == 0, verified.stdout
    assert "unfinished" in verified.stdout
    kept = {path: path.read_bytes() for path in run.glob("bootstrap/round-00000/*")}
    assert json.loads(invoke("status", run, "--json").stdout)["phase"] == "bootstrap"

    done = invoke("build", config, "--out", run)  # the latency is not part of the configuration
    assert done.returncode == 0, done.stderr
    assert all(path.read_bytes() == data for path, data in kept.items())
    status = json.loads(invoke("status", run, "--json").stdout)
    assert set(status) >= {"phase", "target", "accepted", "rejected", "instances", "rows"}
    assert (status["phase"], status["accepted"]) == ("done", 60)
    assert "Sample rows" in done.stdout
    assert f"{run}/data" in done.stdout

    checks = json.loads(invoke("verify", run, "--json").stdout)
    assert {"check", "ok", "count", "findings", "notes"} == set(checks[0])
    assert all(check["ok"] for check in checks)

    told = " ".join(invoke("build", config, "--out", run).stdout.split())
    for name in ("README.md", "report.html"):
        assert (run / name).stat().st_size > 1000
        assert f"{run}/{name}" in told
    done = invoke("report", run, "--to", tmp_path / "page.html", "--json", tmp_path / "stats.json")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.html").read_bytes() == (run / "report.html").read_bytes()
    assert json.loads((tmp_path / "stats.json").read_text())["funnel"]["rows"] == status["rows"]

    regated = tmp_path / "regated"
    done = invoke("regate", run, "--rouge", "0.5", "--to", regated)
    assert done.returncode == 0, done.stderr
    assert "dropped" in done.stdout
    assert invoke("verify", regated).stdout.splitlines()[-1] == "ok"
    (regated / "stray").write_text("x")
    damaged = invoke("verify", regated)
    assert damaged.returncode == 1
    assert damaged.stdout.splitlines()[-1] == "stray: is named by nothing"

    uninterrupted = tmp_path / "other"
    with loopback.installed():  # a cluster changes no byte
        assert invoke("build", config, "--out", uninterrupted).returncode == 0
    for name in ("data/train-00000-of-00001.parquet", "README.md", "report.html"):
        assert (run / name).read_bytes() == (uninterrupted / name).read_bytes()

    for format_, keys in (
        ("alpaca", {"instruction", "input", "output"}),
        ("messages", {"messages"}),
        ("prompt-completion", {"prompt", "completion"}),
    ):
        done = invoke("export", run, "--format", format_, "--to", tmp_path / "train")
        assert done.returncode == 0, done.stderr
        lines = (tmp_path / "train" / f"{format_}.jsonl").read_text().splitlines()
        assert len(lines) == status["rows"]
        assert set(json.loads(lines[0])) == keys


def test_an_unfinished_run_is_not_exported(tmp_path):
    from ray_si.run.seeds import load_seeds

    header = {"config": {"target_instructions": 5}, "identity": {}}
    run = Run.prepare(str(tmp_path / "run"), header, "fingerprint")
    with run.held():
        run.create(load_seeds("bundled")[0])
    done = invoke("export", tmp_path / "run", "--format", "alpaca", "--to", tmp_path / "out")
    assert_one_line_error(done, "is not finished")
    assert not (tmp_path / "out").exists()
