"""What can be told of a submission before a cluster has it, and of addresses that are none."""

from __future__ import annotations

import asyncio
import http.server
import json
import re
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest
import requests
from hypothesis import given, strategies as st
from typer.testing import CliRunner

from ray_si.cli import app
from ray_si.errors import ConfigError, StorageError
from ray_si.submission import jobs
from ray_si.submission.jobs import Cluster, _Log, check_out, outcome_of, parse_env
from ray_si.submission.packaging import Package
from tests.clusters import free_port
from tests.command import assert_one_line_error, invoke


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("generator: {engine: replay, model: null}\ndedup: {cosine: off}\n")
    return path


@pytest.fixture
def answering():
    """Starts a web server that gives one answer to all, or each path its own; its address.

    An answer of `answers` is a status and a text, what is not in it is not found.
    """
    servers = []

    def serve(status: int, answer: str, answers=None) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                default = (status, answer) if answers is None else (404, "")
                told = (answers or {}).get(f"{self.command} {self.path}", default)
                self.send_response(told[0])
                self.end_headers()
                self.wfile.write(told[1].encode())

            def do_POST(self):
                self.do_GET()

            def log_message(self, *_):
                pass

        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_an_address_that_does_not_answer_is_one_line(small):
    address = f"http://127.0.0.1:{free_port()}"
    done = invoke("submit", small, "--out", "s3://runs/x", "--address", address)
    assert_one_line_error(done, f"no Ray dashboard answers at {address}")


def test_the_given_address_counts_and_not_the_environment(monkeypatch):
    address = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=f"answers at {address};"):
        Cluster(address)
    with pytest.raises(ConfigError, match=r"answers at http://127\.0\.0\.1:9;"):
        Cluster(None)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", address)
    with pytest.raises(ConfigError, match=f"answers at {address};"):
        Cluster(None)


@pytest.mark.parametrize(
    ("status", "answer", "message"),
    [
        (200, "hello", "is no Ray dashboard with jobs"),
        (404, "nothing", "is no Ray dashboard with jobs"),
        (200, '{"ray_version": "2.9.3"}', "runs Ray 2.9.3; ray_si needs 2.50 or newer there"),
        (200, "[]", "is no Ray dashboard with jobs"),
        (401, "Unauthorized", "wants a token: set RAY_AUTH_MODE=token"),
    ],
)
def test_an_address_that_is_no_cluster_of_ours_is_one_line(answering, status, answer, message):
    with pytest.raises(ConfigError, match=message) as caught:
        Cluster(answering(status, answer))
    assert "\n" not in str(caught.value)


@pytest.fixture
def cluster_with(answering, monkeypatch):
    """A `Cluster` of one job x, with a dead node, and of the answers given."""

    monkeypatch.setattr(jobs, "_REJOIN_S", 0)

    def make(details, answers=None):
        nodes = [{"raylet": {"nodeId": "new", "state": "ALIVE"}}]
        nodes.append({"raylet": {"nodeId": "old", "state": "DEAD"}})
        told = {
            "GET /api/version": (200, '{"ray_version": "2.60.0"}'),
            "GET /api/jobs/x": (200, details.json()),
            "GET /api/jobs/": (200, f"[{details.json()}]"),
            "GET /nodes?view=summary": (200, json.dumps({"data": {"summary": nodes}})),
            "POST /api/jobs/x/stop": (200, '{"stopped": false}'),
        }
        return Cluster(answering(200, "", told | (answers or {})), patience_s=0)

    return make


def test_a_job_of_a_head_that_another_one_replaced_is_lost_though_it_says_running(
    cluster_with, monkeypatch
):
    """The new head has it out of Redis."""
    cluster = cluster_with(job("RUNNING", node="old"))
    monkeypatch.setattr(jobs.time, "sleep", lambda s: s and pytest.fail("it is waited for"))
    asked = []
    cluster._client.stop_job = asked.append
    outcome = cluster.follow("x", print)
    assert (outcome.status, outcome.is_lost) == ("LOST", True)
    assert asked == ["x"], "the new head does not look at what it has until it is asked"


def test_a_job_whose_node_joins_a_new_head_again_goes_on(cluster_with):
    cluster = cluster_with(job("RUNNING", node="old"))
    nodes = iter([{"new"}, {"new", "old"}])
    cluster._client.live_nodes = lambda: next(nodes)
    cluster._client.stop_job = lambda _: pytest.fail("it runs")
    assert not cluster._is_gone(job("RUNNING", node="old"))


@pytest.mark.parametrize(("node", "is_refused"), [("old", False), ("new", True)])
def test_a_job_whose_node_is_gone_keeps_nobody_from_its_run(cluster_with, node, is_refused):
    cluster = cluster_with(job("RUNNING", node=node, metadata={"ray_si_run": "s3://a/b"}))
    cluster._client.submit_job = lambda **_: None
    cluster._status = lambda id_: None
    with pytest.raises(ConfigError) if is_refused else nullcontext():
        cluster.submit(Package(Path("p.zip"), 1, 1), "s3://a/b")


@pytest.mark.parametrize(
    ("details", "code", "is_lost"),
    [(("FAILED", None, "JOB_SUPERVISOR_ACTOR_DIED"), 1, True), (("SUCCEEDED", 0), 0, False)],
)
def test_a_log_that_cannot_be_read_hides_no_end(cluster_with, details, code, is_lost):
    cluster = cluster_with(job(*details), {"GET /api/jobs/x/logs": (500, "Traceback")})
    told = []
    outcome = cluster.follow("x", print, told.append)
    assert (outcome.exit_code, outcome.is_lost) == (code, is_lost)
    assert told == ["the end of the job's log cannot be read"]


def test_a_connection_that_is_silent_for_long_is_made_anew(cluster_with, monkeypatch):
    monkeypatch.setattr(jobs, "_SILENCE_S", 0.01)
    cluster = cluster_with(job("RUNNING", node="new"))

    async def silent(id_):
        await asyncio.sleep(60)
        yield ""

    cluster._client.tail_job_logs = silent
    asyncio.run(asyncio.wait_for(cluster._tail("x", _Log(print)), 10))


def test_a_token_that_is_no_longer_the_clusters_is_one_line(cluster_with):
    cluster = cluster_with(job("RUNNING"), {"GET /api/jobs/": (401, "Unauthorized")})
    done = invoke("jobs", "--address", cluster.address)
    assert_one_line_error(done, "wants a token: set RAY_AUTH_MODE=token")


def test_an_untrusted_certificate_is_told_as_such(monkeypatch):
    def refuse(*_, **__):
        raise requests.exceptions.SSLError("self-signed certificate")

    monkeypatch.setattr(requests, "request", refuse)
    with pytest.raises(ConfigError, match=r"is not trusted here: self-signed certificate;"):
        Cluster("https://127.0.0.1:8265")


@pytest.mark.parametrize("options", [[], ["--no-follow"]])
def test_ctrl_c_while_it_submits_names_the_job_that_may_be_there(
    cluster_with, small, options, monkeypatch
):
    cluster = cluster_with(job("SUCCEEDED"))

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs.JobSubmissionClient, "submit_job", interrupted)
    asked = ["submit", small, "--out", "s3://runs/x", "--address", cluster.address, *options]
    done = invoke(*asked)
    assert done.returncode == 130, done.stderr
    id_ = re.search(r"submitting as (\S+)", done.stderr).group(1)
    assert f"{id_} may have been submitted; follow it with" in done.stderr


def test_a_job_that_does_not_end_when_told_to_ends_stop_with_status_1(cluster_with, monkeypatch):
    monkeypatch.setattr(jobs.Cluster.stop, "__kwdefaults__", {"wait_s": 0})
    cluster = cluster_with(job("RUNNING"))
    done = invoke("jobs", "--address", cluster.address, "--stop", "x")
    assert done.returncode == 1
    assert "x: RUNNING; it was told to end, and has not yet" in done.stderr


def test_an_address_without_its_scheme_is_refused_with_an_example():
    with pytest.raises(ConfigError, match=r"not a dashboard's address: write http://127\.0\.0\.1"):
        Cluster("127.0.0.1:6379")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "runs/mine"], "would be a folder on the cluster's head"),
        (["--out", "gs://runs/mine"], "only folders and s3:// are supported"),
        (["--out", "s3://runs/x", "--set", "generator.gpu=1"], "there is no key generator.gpu"),
        (["--out", "s3://runs/x", "--set", "seeds=absent.jsonl"], "absent.jsonl"),
        (["--out", "s3://runs/x", "--env", "AWS_SECRET_ACCESS_KEY=x"], "dashboard would show"),
        (["--out", "s3://runs/x", "--include", "absent"], "there is no such file or folder"),
    ],
)
def test_what_is_wrong_here_is_said_before_any_cluster_is_asked(small, arguments, message):
    asked = ["submit", str(small), *arguments, "--address", "http://127.0.0.1:9"]
    done = CliRunner().invoke(app, asked, env={"COLUMNS": "300"})
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_places_that_all_nodes_can_mean_are_taken():
    check_out("s3://bucket/prefix")
    check_out("/mnt/shared/runs/mine")
    with pytest.raises(ConfigError):
        check_out("./mine")
    with pytest.raises(StorageError):
        check_out("s3://")


@pytest.mark.parametrize(
    "name",
    ["AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "PGPASSWORD", "DB_PWD", "GITHUB_PAT", "OPENAI_API_KEY"],
)
def test_secrets_are_not_put_where_the_dashboard_shows_them(name, monkeypatch):
    monkeypatch.setenv(name, "hush")
    for item in (name, f"{name}=hush"):
        with pytest.raises(ConfigError, match="dashboard") as caught:
            parse_env([item])
        assert "hush" not in str(caught.value)


def test_other_variables_are_taken_with_the_value_given_or_the_one_here(monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
    items = ["AWS_DEFAULT_REGION", "AWS_WEB_IDENTITY_TOKEN_FILE=/t", "TOKENIZERS_PARALLELISM=false"]
    assert parse_env([*items, "X=a=b"]) == {
        "AWS_DEFAULT_REGION": "eu-north-1",
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/t",
        "TOKENIZERS_PARALLELISM": "false",
        "X": "a=b",
    }
    with pytest.raises(ConfigError, match="NAME=VALUE"):
        parse_env(["NOT_SET_ANYWHERE"])


@given(st.text(), st.lists(st.lists(st.integers(0, 12), max_size=6), max_size=5))
def test_a_log_that_is_told_again_and_again_is_written_once(text, tellings):
    """Each telling begins at the start and breaks off after some parts; the last one is whole."""
    written = []
    log = _Log(written.append)
    for sizes in tellings:
        log.rewind()
        position = 0
        for size in sizes:
            log.take(text[position : position + size])
            position = min(len(text), position + size)
    log.rewind()
    log.take(text)
    assert "".join(written) == text


def job(status, code=None, error=None, message="why", node=None, metadata=None):
    from ray.dashboard.modules.job.pydantic_models import JobDetails

    return JobDetails(
        type="SUBMISSION",
        submission_id="x",
        status=status,
        entrypoint="e",
        message=message,
        error_type=error,
        driver_exit_code=code,
        driver_node_id=node,
        metadata=metadata,
    )


@pytest.mark.parametrize(
    ("details", "code", "is_lost"),
    [
        (("SUCCEEDED", 0), 0, False),
        (("STOPPED",), 143, False),
        (("FAILED", 2), 2, False),
        (("FAILED", 1), 1, False),
        (("FAILED", -9), 137, True),
        (("FAILED", 137), 137, True),
        (("FAILED", 143), 143, True),
        (("FAILED", None, "JOB_SUPERVISOR_ACTOR_DIED"), 1, True),
        (
            ("FAILED", None, "JOB_SUPERVISOR_ACTOR_START_FAILURE", "failed to get job supervisor."),
            1,
            True,
        ),
        (("FAILED", None, "JOB_SUPERVISOR_ACTOR_START_FAILURE", "Failed to start"), 1, False),
        (("FAILED", None, "RUNTIME_ENV_SETUP_FAILURE"), 1, False),
    ],
)
def test_a_job_is_tried_again_only_where_something_else_ended_it(details, code, is_lost):
    outcome = outcome_of(job(*details))
    assert (outcome.exit_code, outcome.is_lost) == (code, is_lost)
