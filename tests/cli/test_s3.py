"""Runs on S3 as a user of the command line meets them."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest

from ray_si.storage.local import LocalObjects
from ray_si.storage.objects import open_objects
from tests.command import ENVIRONMENT, assert_one_line_error, invoke, ray_si
from tests.faults.flaky_s3 import FlakyS3

REPLAY = """
target_instructions: 60
generator: {engine: replay, model: null, cpus: 0.5}
bootstrap: {prompts_per_round: 4, block_size: 4}
instances: {block_size: 8}
dedup: {cosine: off}
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(REPLAY)
    return path


@pytest.mark.parametrize(
    ("location", "changes", "message"),
    [
        ("s3://absent-bucket/run", {}, "s3://absent-bucket/run: there is no such bucket"),
        ("s3://", {}, "names no bucket"),
        ("s3://runs/../run", {}, "cannot be the name of an object"),
        ("gs://runs/run", {}, "only folders and s3:// are supported"),
        (
            "s3://runs/run",
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"},
            "127.0.0.1:1 does not answer",
        ),
        ("s3://runs/run", {"AWS_ENDPOINT_URL": "127.0.0.1:1"}, "check AWS_ENDPOINT_URL_S3"),
        (
            "s3://runs/run",
            {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
            "there are no credentials",
        ),
        ("s3://runs/run", {"AWS_PROFILE": "absent"}, "profile (absent) could not be found"),
    ],
)
def test_what_is_wrong_with_s3_is_one_line(tmp_path, config, s3_server, location, changes, message):
    environment = ENVIRONMENT | s3_server | {"HOME": str(tmp_path)} | changes
    environment = {name: value for name, value in environment.items() if value is not None}
    done = invoke("build", config, "--out", location, env=environment)
    assert_one_line_error(done, message)
    assert "secret" not in done.stderr


def test_a_prefix_without_a_run_has_no_status(s3_server):
    done = invoke("status", "s3://runs/nothing/here", env=ENVIRONMENT | s3_server)
    assert_one_line_error(done, "s3://runs/nothing/here is not a run")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_build_through_a_flaky_s3_has_the_same_bytes(
    tmp_path, config, s3_server, s3_environment, seed
):
    done = ray_si("build", config, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    location = f"s3://runs/{uuid4().hex}/run"
    with FlakyS3(s3_server["AWS_ENDPOINT_URL"], seed=seed) as proxy:
        environment = ENVIRONMENT | s3_server | {"AWS_ENDPOINT_URL_S3": proxy.url}
        done = ray_si("build", config, "--out", location, env=environment)
        assert done.returncode == 0, done.stderr
        assert proxy.befell.total() > 0.05 * proxy.requests.total()
        status = ray_si("status", location, "--json", env=environment)
        assert json.loads(status.stdout)["phase"] == "done"
        to = ("--format", "alpaca", "--to", f"{location}-export")
        assert ray_si("export", location, *to, env=environment).returncode == 0
    ray_si("export", tmp_path / "run", "--format", "alpaca", "--to", tmp_path / "export")
    exported = open_objects(f"{location}-export").get("alpaca.jsonl")
    assert exported == (tmp_path / "export" / "alpaca.jsonl").read_bytes()
    here, there = LocalObjects(tmp_path / "run"), open_objects(location)
    assert list(there.list("data/")) == list(here.list("data/"))
    assert all(there.get(key) == here.get(key) for key in here.list("data/"))
