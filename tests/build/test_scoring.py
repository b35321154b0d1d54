"""Scores by models on Serve replicas: durable blocks, killed and resumed, no row lost."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext

import numpy as np
import pytest

from ray_si.build import hosting, scoring
from ray_si.build.scoring import score_run
from ray_si.config.scores import scores_of
from ray_si.errors import EngineError
from ray_si.export.training_lines import Source
from ray_si.run.run import Run
from ray_si.scores.stored import StoredScores
from ray_si.storage.objects import open_objects
from tests import loopback
from tests.command import ENVIRONMENT, assert_one_line_error, invoke
from tests.engines.huggingface.test_reward import made as reward_model
from tests.run.finished import finished_run

REPLAY = {"engine": "replay", "model": None, "cpus": 0.1, "prompt_style": "chat"}
JUDGE = {"judge": {"generator": REPLAY}}


def values(run, name):
    ids = next(Source(run).tables(["id"]))["id"]
    return StoredScores(run).values(name, ids)


def contents(location):
    objects = open_objects(str(location))
    keys = [key for key in objects.list("scores/") if "lease/" not in key]
    return {key: hashlib.sha256(objects.get(key)).hexdigest() for key in keys}


def test_every_row_is_graded_and_rewarded(ray_session, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "_AT_ONCE", 64)  # several windows
    run = finished_run(tmp_path / "run", rows_per_shard=200)
    folder = reward_model(tmp_path / "model")
    sections = scores_of(
        JUDGE | {"reward": {"generator": {"model": folder, "cpus": 0.1}}, "length": None}
    )
    told = []
    summaries = score_run(run, sections, listen=lambda *step: told.append(step))
    assert [summary.name for summary in summaries] == ["judge", "reward", "length"]
    assert all(summary.scored == summary.rows == 120 for summary in summaries)
    assert ("judge", 120, 120) in told
    grades, rewards = values(run, "judge"), values(run, "reward")
    assert ((grades >= 1) & (grades <= 5)).all()
    assert len(np.unique(rewards)) > 100
    assert score_run(run, sections) == summaries  # asks nothing


def test_a_killed_scoring_goes_on_and_ends_with_the_same_bytes(ray_address, tmp_path):
    run = finished_run(tmp_path / "run", instructions=300, rows_per_shard=1000)
    slow = REPLAY | {"replay": {"latency_s": 0.25}, "max_batch": 16}
    command = [
        sys.executable, "-m", "ray_si", "score", run.location, "judge", "--address", ray_address,
        "--set", f"judge.generator={slow!r}".replace("'", '"').replace("None", "null"),
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": ENVIRONMENT["PYTHONPATH"]}  # Ray's token, too
    killed = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 150
    while len(list((tmp_path / "run").rglob("block-*.parquet"))) < 4:  # one is of the instances
        assert killed.poll() is None, killed.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    before = contents(tmp_path / "run")
    assert not any(key.endswith("manifest.json") for key in before)
    sections = scores_of({"judge": {"generator": slow | {"replay": {"latency_s": 0.0}}}})
    [summary] = score_run(Run.open(run.location), sections)
    after = contents(tmp_path / "run")
    blocks = {key: digest for key, digest in before.items() if "block-" in key}
    assert len(blocks) >= 3
    assert {key: after[key] for key in blocks} == blocks
    other = finished_run(tmp_path / "other", instructions=300, rows_per_shard=1000)
    assert score_run(other, sections)[0].scored == summary.scored == 600
    assert contents(tmp_path / "other") == after


def test_a_model_that_cannot_give_a_score_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "is_this_machine", lambda address: True)
    run = finished_run(tmp_path / "run")
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    reward = "reward.generator.model=smollm2-135m-instruct"
    done = invoke("score", run.location, "reward", "--set", reward)
    assert_one_line_error(done, "has no scalar head")
    with pytest.raises(EngineError, match="no model folder"):
        score_run(run, scores_of({"judge": {"generator": {"model": "./absent"}}, "length": None}))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before


def test_a_model_is_looked_for_where_its_replicas_run_and_not_once_the_score_is_there(
    tmp_path, monkeypatch
):
    looked = []
    loopback.install(monkeypatch.setattr)
    monkeypatch.setattr(scoring, "connect", lambda address: nullcontext(False))  # a cluster
    monkeypatch.setattr(scoring, "is_this_machine", lambda address: False)
    monkeypatch.setattr(hosting, "check_engines", lambda *asked, **_: looked.append(asked))
    monkeypatch.setattr(hosting.checks, "check_location", lambda location: None)
    run = finished_run(tmp_path / "run")
    absent = {"engine": "vllm", "model": "/models/of/gpu/nodes", "prompt_style": "chat"}
    sections = scores_of({"judge": {"generator": absent}})
    [summary] = score_run(run, sections, address="auto")
    [(config, [request])] = looked
    assert config.generator_for(request.purpose).model == "/models/of/gpu/nodes"
    monkeypatch.setattr(scoring, "is_this_machine", lambda address: True)
    assert score_run(run, sections) == [summary]


def test_labels_on_an_endpoint_without_log_probabilities_are_refused(tmp_path, endpoint):
    endpoint.set(no_logprobs=True)
    run = finished_run(tmp_path / "run")
    generator = {"engine": "openai", "model": "replay-1", "prompt_style": "chat"}
    generator["openai"] = {"base_url": endpoint.url, "api_key_env": "RAY_SI_TEST_KEY"}
    with pytest.raises(EngineError, match="gives no log-probabilities"):
        score_run(run, scores_of({"judge": {"generator": generator}}))
