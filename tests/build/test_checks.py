"""A cluster without room, or with nodes that cannot see the run, is told so before models load."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from uuid import uuid4

import pytest
import ray
import yaml

from ray_si.build.builder import build
from ray_si.build.checks import (
    WAIT_VARIABLE,
    _marker,
    _probe,
    check_location,
    demands,
    lack,
    leaves_cores,
    room_for_cores,
    wait_for_room,
)
from ray_si.config.file import parse_config
from ray_si.errors import ConfigError, StorageError
from tests.builds import replay_values
from tests.clusters import free_port
from tests.command import assert_one_line_error, ray_si


def configured(**generator):
    generator = {"engine": "replay", "model": None} | generator
    return parse_config({"generator": generator, "embedder": {"cpus": 1}})


def wanted(**generator):
    return demands(configured(**generator), embedder=True)


SMALL, LARGE = {"CPU": 4.0}, {"CPU": 32.0, "GPU": 4.0, "accelerator_type:L4": 1.0}


def _spread(gpus, stages=1):
    """A model that vLLM spreads over GPUs, in stages on nodes of their own."""
    sizes = {"tensor_parallel_size": gpus // stages, "pipeline_parallel_size": stages}
    return {"engine": "vllm", "model": "m", "gpus": gpus, "vllm": sizes}


@pytest.mark.parametrize(
    ("generator", "nodes", "message"),
    [
        ({"replicas": 4, "gpus": 1}, [SMALL, LARGE], None),
        ({"replicas": 5, "gpus": 1}, [SMALL, LARGE], "asks for 5 GPU and there are 4"),
        ({"replicas": 1, "gpus": 8}, [LARGE, LARGE], "8 GPU on one node, and no node has that"),
        ({"cpus": 35}, [SMALL, LARGE], "a replica of generator asks for 35 CPU on one node"),
        ({"cpus": 40}, [SMALL, LARGE], "asks for 41 CPU and there are 36"),
        ({"gpus": 1, "accelerator": "L4"}, [SMALL, LARGE], None),
        ({"gpus": 1, "accelerator": "H100"}, [LARGE], "1 GPU and H100 on one node"),
        ({"replicas": 1}, [], "asks for 2 CPU and there are 0"),
        (_spread(8, 2), [LARGE, LARGE], None),
        (_spread(8), [LARGE, LARGE], "1 CPU and 8 GPU on one node, and no node has that"),
        (_spread(8, 2), [LARGE, SMALL], "asks for 8 GPU and there are 4"),
    ],
)
def test_what_is_asked_is_held_against_what_is_there(generator, nodes, message):
    found = lack(wanted(**generator), nodes)
    assert found == message if message is None else message in found


@pytest.mark.parametrize(
    ("dedup", "nodes", "message"),
    [
        ({"gpus": 1}, [SMALL, LARGE], None),
        ({"gpus": 0.5, "shards": 2}, [SMALL, LARGE], None),
        ({"gpus": 0.5, "shards": 3}, [SMALL, LARGE], "asks for 4.5 GPU and there are 4"),
        ({"shards": 9}, [SMALL, LARGE], None),
    ],
)
def test_shards_on_gpus_count_beside_the_replicas(dedup, nodes, message):
    config = parse_config(
        {"generator": {"engine": "replay", "model": None, "gpus": 1, "replicas": 3}, "dedup": dedup}
    )
    found = lack(demands(config, embedder=True), nodes)
    assert found == message if message is None else message in found
    assert lack(demands(config, embedder=False), nodes) is None  # there is no gate


def test_shards_on_gpus_that_no_node_has_are_told():
    config = parse_config(
        {"generator": {"engine": "replay", "model": None}, "dedup": {"gpus": 0.5, "shards": 2}}
    )
    found = lack(demands(config, embedder=True), [SMALL, {"GPU": 0.4}, {"GPU": 0.6}][:2])
    assert found == "the configuration asks for 1 GPU and there are 0.4"
    found = lack(demands(config, embedder=True), [SMALL, *[{"GPU": 0.4}] * 3])
    assert found == (
        "a shard of dedup asks for 0.5 GPU on one node, and no node has that; the largest has 0 "
        "CPU and 0.4 GPU"
    )


def test_a_fixed_cluster_without_gpus_is_an_error_once_nodes_had_their_time(
    ray_session, monkeypatch, tmp_path
):
    monkeypatch.setenv(WAIT_VARIABLE, "1.5")
    values = replay_values()
    values["generator"] |= {"replicas": 2, "min_replicas": 2, "gpus": 4}
    notes = []
    with pytest.raises(ConfigError, match=r"asks for 8 GPU and there are 0 after 1\.5 s"):
        build(parse_config(values), str(tmp_path / "run"), listen=lambda p: notes.append(p.note))
    assert any("asks for 8 GPU and there are 0; waiting up to 1.5 s" in note for note in notes)
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv(WAIT_VARIABLE, "soon")
    with pytest.raises(ConfigError, match="is not a number of seconds"):
        wait_for_room(configured(gpus=1), embedder=False, is_ours=False)


def test_replicas_that_have_no_room_yet_are_not_waited_for_where_nodes_may_come(ray_session):
    notes = []
    config = configured(cpus=3, replicas=64)
    wait_for_room(config, embedder=False, is_ours=False, notify=notes.append)
    assert notes == [
        "the configuration asks for 192 CPU and there are 4; beginning with the replicas that have "
        "room"
    ]
    with pytest.raises(ConfigError, match="asks for 192 CPU and there are 4"):
        wait_for_room(config, embedder=False, is_ours=True)


def test_cores_that_others_have_are_not_left_over(ray_session):
    config = configured(cpus=1)  # and one for the embedder
    await_free(4)
    before = room_for_cores(adopted=False)
    assert before == 4
    assert leaves_cores(config, 2, before)
    assert not leaves_cores(config, 2.25, before)
    other = ray.remote(num_cpus=3)(_Holder).remote()
    ray.get(other.__ray_ready__.remote())
    try:
        await_free(1)
        assert not leaves_cores(config, 2, before)  # it came meanwhile
        assert not leaves_cores(config, 0, room_for_cores(adopted=False))
        assert leaves_cores(config, 1, room_for_cores(adopted=True))  # these 3 may be the models'
        assert not leaves_cores(configured(cpus=4), 0, room_for_cores(adopted=True))
    finally:
        ray.kill(other)
    await_free(4)
    assert leaves_cores(config, 2, room_for_cores(adopted=False))


class _Holder:
    """Has the cores that it asks for, as another build's models do."""


def await_free(cores):
    deadline = time.monotonic() + 60
    while ray.available_resources().get("CPU", 0.0) != cores:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_location_that_a_node_cannot_use_is_named_with_the_node(ray_session, s3_environment):
    check_location(f"s3://runs/{uuid4().hex}")
    with pytest.raises(StorageError, match=r"nodes like .* cannot use s3://absent/run: .*bucket"):
        check_location("s3://absent/run")


def test_a_folder_that_is_another_one_on_a_node_is_told_apart(ray_session, tmp_path):
    check_location(str(tmp_path / "run"))  # this machine's nodes share it
    assert list(tmp_path.iterdir()) == []
    with _marker(str(tmp_path / "not" / "yet")) as marker:
        assert _probe(str(tmp_path), marker) is None
    assert "another folder there than here" in _probe(str(tmp_path), marker)


@pytest.fixture(scope="module")
def mixed(ray_environment):
    """A cluster of a head that reaches the S3 server and of a node that does not."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 2, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=3, env_vars={"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"})
    cluster.wait_for_nodes()
    yield cluster.address
    cluster.shutdown()


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(replay_values()))
    return path


@pytest.mark.slow
def test_a_bucket_that_only_the_head_reaches_is_refused_before_models_load(
    mixed, config, ray_environment, s3_environment
):
    out = f"s3://runs/{uuid4().hex}"
    done = ray_si("build", config, "--out", out, "--address", mixed, env=ray_environment)
    assert done.returncode == 2
    assert "(3 CPU) cannot use " + out in done.stderr
    assert "does not answer" in done.stderr
    assert "loading the models" not in done.stderr
    assert "Traceback" not in done.stderr
    again = ray_si("status", out, env=ray_environment)
    assert_one_line_error(again, "is not a run")


@pytest.mark.slow
def test_a_cluster_of_another_version_is_one_line(mixed, config, ray_environment, tmp_path):
    """The cluster's own note of its versions is changed: there is one Ray here."""
    code = (
        "import json, ray; from ray.experimental import internal_kv as kv; ray.init('auto'); "
        "from ray._private import ray_constants as c; "
        "kv._internal_kv_put(b'CLUSTER_METADATA', json.dumps({'ray_version': '2.41.0', "
        "'python_version': '3.9.1', 'ray_commit': ''}).encode(), overwrite=True, "
        "namespace=c.KV_NAMESPACE_CLUSTER)"
    )
    environment = ray_environment | {"RAY_ADDRESS": mixed}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    build = "build", config, "--out", tmp_path / "run", "--address", mixed
    done = ray_si(*build, env=ray_environment)
    assert done.returncode == 2
    (error,) = [x for x in done.stderr.splitlines() if x != "start - starting Ray"]
    assert f"the cluster at {mixed} runs Ray 2.41.0 on Python 3.9.1" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_cluster_that_wants_a_token_is_told_from_one_that_is_not_there(
    ray_environment, config, tmp_path
):
    port = free_port()
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
    build = "build", config, "--out", tmp_path / "run", "--address", f"127.0.0.1:{port}"
    with guarded_head(port, ray_environment | token):
        without = ray_si(*build, env=ray_environment)
        within = ray_si(*build, env=ray_environment | token)
    assert without.returncode == 2
    assert "where it wants a token, set RAY_AUTH_MODE=token" in without.stderr
    assert "Traceback" not in without.stderr
    assert within.returncode == 0, within.stderr


@contextmanager
def guarded_head(port, environment):
    """A Ray of its own, which `ray start` keeps in the foreground."""
    folder = tempfile.TemporaryDirectory(prefix="ray")  # a short path, for sockets
    command = ["ray", "start", "--head", "--block", "--num-cpus=2", f"--port={port}"]
    command += ["--include-dashboard=false", "--node-ip-address=127.0.0.1"]
    command += [f"--temp-dir={folder.name}", f"--dashboard-agent-listen-port={free_port()}"]
    output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with folder, subprocess.Popen(command, env=environment, **output) as head:
        try:
            for _ in range(300):
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                time.sleep(0.2)
            time.sleep(5)
            yield
        finally:
            head.terminate()
