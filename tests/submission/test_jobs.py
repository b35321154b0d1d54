"""What can be told of a submission before a cluster has it, and of addresses that are none."""

from __future__ import annotations

import http.server
import threading

import pytest
from hypothesis import given, strategies as st
from typer.testing import CliRunner

from ray_si.cli import app
from ray_si.errors import ConfigError, StorageError
from ray_si.submission.jobs import Cluster, _Log, check_out, outcome_of, parse_env
from tests.clusters import free_port
from tests.command import assert_one_line_error, invoke


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("generator: {engine: replay, model: null}\ndedup: {cosine: off}\n")
    return path


@pytest.fixture
def answering():
    """Starts a web server that gives one answer to everything; its address."""
    servers = []

    def serve(status: int, answer: str) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(answer.encode())

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
        (401, "Unauthorized", "wants a token: set RAY_AUTH_MODE=token"),
    ],
)
def test_an_address_that_is_no_cluster_of_ours_is_one_line(answering, status, answer, message):
    with pytest.raises(ConfigError, match=message) as caught:
        Cluster(answering(status, answer))
    assert "\n" not in str(caught.value)


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


def job(status, code=None, error=None, message="why"):
    from ray.dashboard.modules.job.pydantic_models import JobDetails

    return JobDetails(
        type="SUBMISSION",
        submission_id="x",
        status=status,
        entrypoint="e",
        message=message,
        error_type=error,
        driver_exit_code=code,
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
        (("FAILED", None, "RUNTIME_ENV_SETUP_FAILURE"), 1, False),
    ],
)
def test_a_job_is_tried_again_only_where_something_else_ended_it(details, code, is_lost):
    outcome = outcome_of(job(*details))
    assert (outcome.exit_code, outcome.is_lost) == (code, is_lost)
