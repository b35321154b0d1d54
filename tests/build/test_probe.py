"""What an engine needs is looked for where its replicas will run, not where the driver does."""

from __future__ import annotations

import os

import pytest
import yaml

from ray_si.build.builder import check
from ray_si.build.probe import check_engines
from ray_si.config.file import parse_config
from ray_si.errors import EngineError
from ray_si.pipeline.longest_requests import longest_requests
from ray_si.run.seeds import load_seeds
from tests.builds import replay_values
from tests.command import ENVIRONMENT, ray_si
from tests.engines.test_memory import write

SEEDS = load_seeds("bundled")[0]


def probe(notify=lambda note: None, **generator):
    config = parse_config({"generator": {"cpus": 0.5, **generator}})
    check_engines(config, longest_requests(config, SEEDS), embedder=False, notify=notify)


@pytest.fixture
def model(tmp_path):
    """A folder with a model's configuration, and the header of its weights."""

    def make(size=1000, **config):
        return write(tmp_path, {"a": ("BF16", [size], 2 * size)}, **config)

    return make


def test_what_a_replica_needs_is_there(ray_session):
    probe()


def test_a_missing_package_model_or_context_is_one_line(ray_session, model):
    with pytest.raises(EngineError, match=r"generator, where its replicas run: .*package vllm"):
        probe(engine="vllm")
    with pytest.raises(EngineError, match="there is no model folder /nowhere/at/all"):
        probe(model="/nowhere/at/all")
    with pytest.raises(EngineError, match="exceed the context of 512"):
        probe(model=model(max_position_embeddings=512))


def test_weights_larger_than_the_nodes_memory_are_refused_before_they_load(ray_session, model):
    with pytest.raises(EngineError, match=r"take 1862\.6 GiB, and there are .* GiB for them"):
        probe(model=model(10**12, max_position_embeddings=8192))


def test_weights_larger_than_this_machines_memory_are_refused_where_replicas_run_on_it(model):
    folder = model(10**12, max_position_embeddings=8192)
    with pytest.raises(EngineError, match=r"take 1862\.6 GiB, and there are .* GiB for them"):
        check(parse_config({"generator": {"model": folder}}))


def test_a_driver_that_has_neither_vllm_nor_the_model_begins_nothing_and_ends_with_one_line(
    tmp_path, ray_address
):
    """As on a cluster whose head has another image than its workers."""
    values = replay_values()
    values["generator"] = {"engine": "vllm", "model": "/models/of/gpu/nodes", "cpus": 1}
    config, run = tmp_path / "run.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(values))
    assert check(parse_config(values), here=False).seeds  # nothing that a driver must have
    environment = ENVIRONMENT | dict(os.environ)  # with a token, where that Ray wants one
    done = ray_si("build", config, "--out", run, "--address", ray_address, env=environment)
    assert done.returncode == 2
    assert "generator, where its replicas run: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not run.exists()
