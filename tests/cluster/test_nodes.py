"""Nodes that come and go while a build runs change where it runs, and not what it writes."""

from __future__ import annotations

import json
import threading
import time

import pytest
import yaml

from ray_si.build.checks import WAIT_VARIABLE
from ray_si.config.nodes import PRICE
from tests.builds import digests
from tests.faults.conftest import Builds
from tests.faults.test_killed_nodes import QUICK_TO_NOTICE

pytestmark = pytest.mark.slow


HEAD = {"num_cpus": 0, "include_dashboard": False}
"""Of a cluster: it takes no replicas."""


@pytest.fixture
def cluster():
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args=HEAD)
    yield made
    made.shutdown()


@pytest.fixture
def noticing():
    """A cluster that soon notices a node's death."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args=HEAD | {"_system_config": QUICK_TO_NOTICE})
    yield made
    made.shutdown()


def nodes_of(name, address) -> list[str]:
    """Ids of the nodes of the living actors of that class."""
    from ray._private.internal_api import get_state_from_address

    actors = get_state_from_address(address).actor_table(None)
    return [
        actor["Address"]["NodeID"]
        for actor in actors.values()
        if actor["State"] == "ALIVE" and name in actor["ActorClassName"]
    ]


@pytest.mark.parametrize(
    "replicas",
    [{"replicas": 1, "max_replicas": 2}, {"replicas": 2, "min_replicas": 1}],
    ids=["as the load asks", "as many as there is room for"],
)
def test_a_node_that_joins_is_used_and_one_that_leaves_is_not_missed(noticing, tmp_path, replicas):
    first = noticing.add_node(num_cpus=2)
    builds = Builds(noticing.address, tmp_path)
    values = yaml.safe_load(builds.config.read_text())
    values["target_instructions"] = 200
    values["generator"] |= {**replicas, "cpus": 2, "max_batch": 8}
    values["generator"]["replay"] = {"latency_s": 1.5}  # minutes, in which a node can join
    values["dedup"] = {"cosine": None, "shards": 2}
    builds.config.write_text(yaml.safe_dump(values))
    run = tmp_path / "run"
    process = builds.start(run)
    output: list[str] = []
    reader = threading.Thread(target=lambda: output.extend(process.stdout), daemon=True)
    reader.start()

    def until(condition, seconds=90):
        end = time.monotonic() + seconds
        while not condition():
            assert process.poll() is None, "".join(output)
            assert time.monotonic() < end, "".join(output)
            time.sleep(0.1)

    until(lambda: list(run.glob("bootstrap/*/block-*.parquet")))
    shards = nodes_of("Shard", noticing.address)
    assert sorted(shards) == sorted([first.node_id, noticing.head_node.node_id])
    second = noticing.add_node(num_cpus=2)
    until(lambda: second.node_id in nodes_of("GeneratorReplica", noticing.address))
    noticing.remove_node(first, allow_graceful=False)
    process.wait(timeout=240)
    reader.join()
    assert process.returncode == 0, "".join(output)
    undisturbed = tmp_path / "undisturbed"
    values["generator"] |= {"replicas": 1, "max_replicas": None, "replay": {}}
    builds.config.write_text(yaml.safe_dump(values))
    builds.finish(undisturbed)
    assert digests(run) == digests(undisturbed)


def test_replicas_do_not_take_more_nodes_than_a_ceiling_allows(cluster, tmp_path):
    """A node that costs 1 of 2.5 dollars an hour has one more like it come, whatever is asked."""
    priced = {"num_cpus": 2, "labels": {PRICE: "1"}}
    cluster.add_node(**priced)
    builds = Builds(cluster.address, tmp_path)
    values = yaml.safe_load(builds.config.read_text())
    values["generator"] |= {"replicas": 4, "min_replicas": 1, "cpus": 2}
    values["generator"]["replay"] = {"latency_s": 0.5}
    values["dedup"] = {"cosine": None}
    values["budget"] = {"dollars_per_hour": 2.5}
    builds.config.write_text(yaml.safe_dump(values))
    run = tmp_path / "run"
    process = builds.start(run)
    while not list(run.glob("bootstrap/*/block-*.parquet")):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.1)
    for _ in range(2):  # as an autoscaler would bring them for what is pending
        cluster.add_node(**priced)
    most, live = 0, {}
    while process.poll() is None:
        most = max(most, len(nodes_of("GeneratorReplica", cluster.address)))
        if (run / "live.json").exists():
            live = json.loads((run / "live.json").read_text())
        time.sleep(0.5)
    output = process.stdout.read()
    assert process.returncode == 0, output
    assert "budget.dollars_per_hour 2.5 has room for 2 of 4 replicas of generator" in output
    assert most == 2
    assert live["cluster"] | {"dollars": 0} == {
        "nodes": 3,
        "dollars_per_hour": 3.0,
        "at_most": 2.5,
        "dollars": 0,
    }
    refused = builds.start(tmp_path / "other")
    output, _ = refused.communicate(timeout=240)
    assert refused.returncode == 2, output
    assert "4 nodes cost $3.00 an hour, over budget.dollars_per_hour 2.5" in output
    assert not (tmp_path / "other").exists()


def test_eight_nodes_with_a_gpu_each_are_no_place_for_tensor_parallelism_over_four(
    cluster, tmp_path, monkeypatch
):
    for _ in range(8):
        cluster.add_node(num_cpus=1, num_gpus=1, resources={"accelerator_type:L4": 1})
    builds = Builds(cluster.address, tmp_path)
    values = yaml.safe_load(builds.config.read_text())
    sizes = {"tensor_parallel_size": 4}
    values["generator"] = {"engine": "vllm", "model": "nowhere/model", "gpus": 4, "vllm": sizes}
    values["generator"]["accelerator"] = "L4"
    builds.config.write_text(yaml.safe_dump(values))
    monkeypatch.setenv(WAIT_VARIABLE, "1")
    process = builds.start(tmp_path / "run")
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 2, output
    assert "asks for 1 CPU and 4 GPU and L4 on one node, and no node has that" in output
    assert not (tmp_path / "run").exists()
