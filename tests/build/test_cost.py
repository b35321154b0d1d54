"""What a cluster costs, from the prices that its nodes tell, and what a ceiling has room for."""

from __future__ import annotations

import pytest

from ray_si.build.checks import wait_for_room
from ray_si.build.cost import ClusterCost, Node, affordable, check_ceiling, with_replicas
from ray_si.config.file import parse_config
from ray_si.config.nodes import PRICE
from ray_si.errors import ConfigError

HEAD = Node({}, 0.5)
CPU = Node({"CPU": 4.0}, 0.4)
L4 = Node({"CPU": 8.0, "GPU": 1.0}, 1.0)
L4X4 = Node({"CPU": 48.0, "GPU": 4.0}, 5.0)


def configured(ceiling, **generator):
    generator = {"engine": "replay", "model": None, "gpus": 1} | generator
    values = {"generator": generator, "budget": {"dollars_per_hour": ceiling}}
    return parse_config(values | {"embedder": {"cpus": 2}})


def test_prices_are_read_from_the_labels_of_nodes():
    node = {"Resources": {"CPU": 2.0}, "Labels": {PRICE: "0.5"}}
    assert Node.of(node) == Node({"CPU": 2.0}, 0.5)
    assert Node.of(node | {"Labels": {}}).dollars is None
    assert Node.of(node | {"Labels": {PRICE: "cheap"}}).dollars is None


def test_time_is_paid_at_the_rate_of_the_nodes_that_were_there():
    cost = ClusterCost(_since=0.0)
    cost.note([Node({}, 0.5), Node({}, 1.5), Node({})], now=0.0)
    assert cost.as_dict() == {"nodes": 2, "dollars_per_hour": 2.0, "dollars": 0.0}
    cost.note([Node({}, 0.5)], now=1800.0)
    assert cost.as_dict() == {"nodes": 1, "dollars_per_hour": 0.5, "dollars": 1.0}
    cost.note([], now=5400.0)
    assert cost.dollars == pytest.approx(1.5)


def test_a_cluster_without_prices_has_no_cost_line():
    cost = ClusterCost()
    cost.note([Node({})])
    assert cost.as_dict() == {}


def test_a_status_has_the_ceiling_beside_the_cost():
    cost = ClusterCost(ceiling=15)
    cost.note([L4])
    assert cost.as_dict() == {"nodes": 1, "dollars_per_hour": 1.0, "at_most": 15, "dollars": 0.0}


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([HEAD, L4, L4], None),
        ([HEAD, L4, L4, L4], r"4 nodes cost \$3\.50 an hour, over budget\.dollars_per_hour 3"),
        ([Node({"CPU": 4.0})], "no node of the cluster tells what it costs, by a label"),
        ([Node({"CPU": 4.0}), L4], None),
    ],
)
def test_a_cluster_that_costs_more_already_or_tells_nothing_is_refused(nodes, message):
    if message is None:
        check_ceiling(nodes, 3)
        return
    with pytest.raises(ConfigError, match=message):
        check_ceiling(nodes, 3)


@pytest.mark.parametrize(
    ("ceiling", "nodes", "generator", "replicas"),
    [
        (3.0, [HEAD, L4], {"replicas": 8}, 2),  # the node there, and one more
        (3.5, [HEAD, L4], {"replicas": 8}, 3),
        (100, [HEAD, L4], {"replicas": 8}, 8),
        (1.5, [HEAD, L4], {"replicas": 8}, 1),
        (6.5, [HEAD, L4, L4X4], {"replicas": 8}, 5),  # nothing left for another
        (11.6, [HEAD, L4, L4X4], {"replicas": 16}, 9),  # the dearest that may come
        (3.0, [HEAD, L4], {"replicas": 1, "max_replicas": 8}, 2),
        (2.3, [HEAD, CPU, L4], {"replicas": 9, "gpus": 0, "cpus": 4}, 3),  # GPUs do not come for it
        (3.0, [HEAD, CPU], {"replicas": 8}, 8),  # no node like it: not known yet
        (0.9, [HEAD, CPU], {"replicas": 30, "gpus": 0, "cpus": 0.2}, 20),  # 4 / 0.2, in floats 19
    ],
)
def test_replicas_are_as_many_as_the_ceiling_has_room_for(ceiling, nodes, generator, replicas):
    config = configured(ceiling, **generator)
    counts = affordable(config, nodes, embedder=False)
    assert counts == {"generator": replicas}
    capped = with_replicas(config, counts).generator
    assert (capped.max_replicas or capped.replicas) == replicas
    assert capped.replicas == min(config.generator.replicas, replicas)


def test_sections_share_what_may_be_paid():
    config = configured(4.5, replicas=8)
    config = config.model_copy(update={"instance_generator": config.generator})
    counts = affordable(config, [HEAD, L4], embedder=True)
    assert counts == {"generator": 2, "instance_generator": 2, "embedder": 1}


def test_shards_on_gpus_are_paid_first():
    config = configured(3.0, replicas=8)
    shards = config.dedup.model_copy(update={"gpus": 1.0, "shards": 1})
    config = config.model_copy(update={"dedup": shards})
    assert affordable(config, [HEAD, L4], embedder=True)["generator"] == 1
    assert affordable(config, [HEAD, L4], embedder=False)["generator"] == 2
    many = config.model_copy(update={"dedup": shards.model_copy(update={"shards": 3})})
    with pytest.raises(ConfigError, match=r"3 has no room for the GPUs of dedup.shards: the 2 no"):
        affordable(many, [HEAD, L4], embedder=True)


def test_parts_of_a_replica_come_together_or_not_at_all():
    sizes = {"tensor_parallel_size": 4, "pipeline_parallel_size": 2}
    config = configured(21, engine="vllm", model="m", gpus=8, replicas=4, vllm=sizes)
    assert affordable(config, [HEAD, L4X4], embedder=False) == {"generator": 2}


def test_less_than_work_begins_with_is_refused_before_more_nodes_come():
    config = configured(3.0, replicas=8, min_replicas=4)
    with pytest.raises(
        ConfigError, match=r"3 has no room for 4 replicas of generator: the 2 nodes"
    ):
        affordable(config, [HEAD, L4], embedder=False)


def test_a_ceiling_that_nobody_could_keep_to_is_one_line(ray_session):
    config = configured(3.0, gpus=0)
    with pytest.raises(ConfigError, match="no node of the cluster tells what it costs"):
        wait_for_room(config, embedder=False, is_ours=False)
    assert wait_for_room(config, embedder=False, is_ours=True) is config  # where none will come
