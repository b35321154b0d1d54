"""Whole builds through an OpenAI-compatible endpoint that misbehaves."""

from __future__ import annotations

import json
import time

import pyarrow.parquet as pq
import pytest

from ray_si.audit.verify import verify
from ray_si.build.builder import build
from ray_si.config.file import parse_config
from ray_si.errors import BudgetError, EngineError, GenerationError
from ray_si.run.run import Run
from ray_si.run.status import status as status_of
from tests.builds import digests
from tests.command import ENVIRONMENT, assert_one_line_error, invoke
from tests.endpoint import KEY, MODEL

pytestmark = pytest.mark.usefixtures("ray_session")

FAULTS = {"busy": 0.17, "busy_until": 0.16, "broken": 0.03, "gateway": 0.01}
FAULTS |= {"page": 0.01, "cut": 0.02, "hang": 0.005}


@pytest.fixture
def values(endpoint, replay_config):
    """Of a small build from that endpoint."""
    options = {"base_url": endpoint.url, "api_key_env": "RAY_SI_TEST_KEY"}
    options |= {"concurrency": 16, "timeout_s": 2, "retries": 12}
    generator = {"engine": "openai", "model": MODEL, "cpus": 0.5, "openai": options}
    return replay_config | {"generator": generator}


def _training_rows(location):
    tables = [pq.read_table(path) for path in sorted(location.glob("data/*.parquet"))]
    return [row | {"model": None} for table in tables for row in table.to_pylist()]


def test_a_third_refused_and_all_kinds_of_faults_leave_no_trace(
    finished, endpoint, values, tmp_path
):
    endpoint.set(faults=FAULTS, retry_after=0.05)
    build(parse_config(values), str(tmp_path / "run"))
    counts = endpoint.seen()["counts"]
    assert counts["busy"] + counts["busy_until"] > 0.2 * counts["requests"]
    # behind the endpoint is the engine of that run, so its rows are the same but for the model
    assert _training_rows(tmp_path / "run") == _training_rows(finished[0])
    assert all(check.ok for check in verify(str(tmp_path / "run")))
    stored = b"".join(p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file())
    assert KEY.encode() not in stored


def _errors(location, pattern):
    paths = location.glob(pattern)
    return [error or "" for path in paths for error in pq.read_table(path)["error"].to_pylist()]


def test_what_an_endpoint_refuses_is_not_asked_again_and_no_error_of_it_ends_the_build(
    endpoint, values, tmp_path
):
    """Not even half a surrogate pair, which no file can hold: it is stored as what it can be."""
    endpoint.set(filtered=0.1)
    location = tmp_path / "run"
    values["budget"] = {"tokens": 30_000}
    with pytest.raises(BudgetError):
        build(parse_config(values), str(location))
    before = digests(location, "instances/block-*")
    assert "stopped by a content filter" in _errors(location, "instances/block-*")
    values["budget"] = {}
    endpoint.set(filtered=0.1, faults={"half_a_pair": 0.2}, spare_greetings=True)
    result = build(parse_config(values), str(location))
    after = digests(location, "instances/block-*")
    assert {name: after[name] for name in before} == before
    assert result.stats["rejected"]["refused"] > 0
    assert result.stats["instances_rejected"]["refused"] > 0
    assert result.stats["accepted"] == values["target_instructions"]
    errors = _errors(location, "*/**/block-*.parquet")
    assert any("no such face: \ufffd" in error for error in errors)
    assert all(check.ok for check in verify(str(location)))


def test_an_endpoint_that_shuts_its_door_stops_the_run_which_goes_on_later(
    finished, endpoint, values, tmp_path
):
    endpoint.set(latency_s=0.05)
    location = tmp_path / "run"
    config = parse_config(values)

    def revoke_in_the_middle(progress):
        if progress.phase == "bootstrap" and progress.candidates:
            endpoint.set(faults={"revoked": 1.0})

    with pytest.raises(GenerationError, match=r"refused the key in RAY_SI_TEST_KEY \(HTTP 401\)"):
        build(config, str(location), listen=revoke_in_the_middle)
    assert status_of(Run.open(str(location)))["phase"] == "bootstrap"
    endpoint.set()
    build(config, str(location))
    assert _training_rows(location) == _training_rows(finished[0])


def test_what_an_endpoint_denies_is_said_before_anything_is_written(endpoint, values, tmp_path):
    values["generator"]["model"] = "gpt-9"
    began = time.monotonic()
    with pytest.raises(EngineError, match="gpt-9"):
        build(parse_config(values), str(tmp_path / "run"))
    assert time.monotonic() - began < 10
    assert not (tmp_path / "run").exists()


def test_check_says_so_on_one_line(endpoint, values, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(values))
    environment = ENVIRONMENT | {"RAY_SI_TEST_KEY": KEY}
    assert invoke("check", path, env=environment).stdout.startswith("ok: ")
    for key, value, message in (
        ("api_key_env", "RAY_SI_NO_KEY", "the environment variable RAY_SI_NO_KEY holds no key"),
        ("base_url", f"{endpoint.host}/site/v1", "another protocol"),
        ("base_url", "http://127.0.0.1:9/v1", "no connection"),
    ):
        done = invoke("check", path, "--set", f"generator.openai.{key}={value}", env=environment)
        assert_one_line_error(done, message)
