"""What a replica is given of the cluster, by configuration."""

from __future__ import annotations

import pytest

from ray_si.config.file import parse_config
from ray_si.serving.placement import placement


def placed(**generator):
    return placement(parse_config({"generator": generator}).generator)


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_a_replica_on_one_gpu_is_an_actor_with_its_cores_and_kind_of_gpu(engine):
    options = placed(engine=engine, cpus=3, gpus=1, accelerator="L4")
    actor = {"num_cpus": 3, "num_gpus": 1, "accelerator_type": "L4"}
    assert options == {"ray_actor_options": actor}
    assert "accelerator_type" not in placed(engine=engine, cpus=3, gpus=1)["ray_actor_options"]


def test_a_model_over_several_gpus_has_a_bundle_for_each_close_together():
    sizes = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}
    options = placed(engine="vllm", cpus=5, gpus=4, accelerator="H100", vllm=sizes)
    kinds = {"GPU": 1.0, "accelerator_type:H100": 0.001}
    assert options["placement_group_bundles"] == [kinds | {"CPU": 5.0}, kinds, kinds, kinds]
    assert options["placement_group_strategy"] == "PACK"
    assert options["ray_actor_options"] == {"num_cpus": 5.0}  # its GPUs are its workers'
