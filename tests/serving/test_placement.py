"""One function says what Ray is asked for: actor, bundles, and what has to be on a node."""

from __future__ import annotations

import pytest

from ray_si.config.file import parse_config
from ray_si.serving.placement import Room, embedding_device, placement


def asked(**generator):
    return placement(parse_config({"generator": generator}).generator).deployment_options()


def placed(gpus, tensor=1, pipeline=1, **generator):
    sizes = {"tensor_parallel_size": tensor, "pipeline_parallel_size": pipeline}
    values = {"engine": "vllm", "model": "m", "gpus": gpus, "cpus": 2, "vllm": sizes, **generator}
    return placement(parse_config({"generator": values}).generator)


@pytest.mark.parametrize("accelerator", [None, "H100"])
@pytest.mark.parametrize(
    ("gpus", "tensor", "pipeline"), [(0, 1, 1), (1, 1, 1), (4, 4, 1), (2, 1, 2), (16, 8, 2)]
)
def test_bundles_nodes_and_the_probe_ask_for_the_same(gpus, tensor, pipeline, accelerator):
    found = placed(gpus, tensor, pipeline, accelerator=accelerator)
    options, nodes = found.deployment_options(), list(found.on_nodes())
    bundles = options.get("placement_group_bundles", [])
    actor = options["ray_actor_options"]
    asked = sum(bundle["GPU"] for bundle in bundles) if bundles else actor["num_gpus"]
    assert asked == gpus == sum(node["GPU"] for node in nodes)
    assert sum(node["CPU"] for node in nodes) == actor["num_cpus"] == 2
    assert [node["GPU"] for node in nodes] == ([tensor] * pipeline if gpus > 1 else [gpus])
    kinds = [bundle.get("accelerator_type:H100") for bundle in bundles] or [
        actor.get("accelerator_type") and 0.001
    ]
    assert set(kinds) == {0.001 if accelerator else None}
    assert found.probe_options()["num_gpus"] == min(gpus, 1)


def test_a_group_that_works_on_every_layer_stays_on_one_node():
    assert placed(4, 4).deployment_options()["placement_group_strategy"] == "STRICT_PACK"
    assert placed(8, 4, 2).deployment_options()["placement_group_strategy"] == "PACK"
    spread = parse_config({"generator": {"gpus": 4}}).generator  # transformers, in one process
    assert placement(spread).deployment_options()["ray_actor_options"]["num_gpus"] == 4


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_a_replica_on_one_gpu_is_an_actor_with_its_cores_and_kind_of_gpu(engine):
    options = asked(engine=engine, cpus=3, gpus=1, accelerator="L4")
    actor = {"num_cpus": 3, "num_gpus": 1, "accelerator_type": "L4"}
    assert options == {"ray_actor_options": actor}
    assert "accelerator_type" not in asked(engine=engine, cpus=3, gpus=1)["ray_actor_options"]


def test_a_model_over_several_gpus_has_a_bundle_for_each_close_together():
    sizes = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}
    options = asked(engine="vllm", cpus=5, gpus=4, accelerator="H100", vllm=sizes)
    kinds = {"GPU": 1.0, "accelerator_type:H100": 0.001}
    assert options["placement_group_bundles"] == [kinds | {"CPU": 5.0}, kinds, kinds, kinds]
    assert options["placement_group_strategy"] == "PACK"
    assert options["ray_actor_options"] == {"num_cpus": 5.0}  # its GPUs are its workers'


def test_an_embedder_without_a_share_of_a_gpu_stays_off_those_that_it_can_see():
    assert embedding_device(0.0) == "cpu"
    assert embedding_device(0.1) is None


def test_room_is_taken_for_all_parts_of_a_replica_or_for_none():
    room = Room([{"CPU": 4.0, "GPU": 1.0}, {"CPU": 4.0, "GPU": 2.0}])
    part = {"CPU": 1.0, "GPU": 1.0}
    assert not room.take([part] * 4)
    assert room.take([part] * 3)
    assert not room.take([part])
    assert room.take([{"CPU": 0.2, "GPU": 0.0}] * 25)  # five cores, in floats less than 25 times
    assert not room.take([{"CPU": 0.2, "GPU": 0.0}])
