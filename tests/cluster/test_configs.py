"""The configurations are ones that a build takes, and fit the machines that they are for."""

from __future__ import annotations

import pytest
import yaml

from ray_si.build.builder import check_inputs
from ray_si.build.checks import demands, lack
from ray_si.config.file import load_config
from ray_si.engines.registry import ENGINES
from tests.clusters import ROOT

LOOP = ROOT / "configs/loop.yaml"  # has sections of its own: tests/cli/test_training.py
CONFIGS = sorted({*(ROOT / "configs").glob("*.yaml")} - {LOOP})
MACHINES = {
    "gpu-1": [{"CPU": 8.0, "GPU": 1.0}],
    "gpu-8-70b": [{"CPU": 96.0, "GPU": 8.0}],
    "gpu-64": [{"CPU": 8.0, "GPU": 1.0}] * 64,
    "endpoint": [{"CPU": 4.0}],
}
"""What each of them is written for."""


def load(path):
    engine = yaml.safe_load(path.read_text()).get("generator", {}).get("engine", "transformers")
    if engine not in ENGINES:
        pytest.skip(f"there is no engine {engine} here")
    return load_config(path)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_is_one_that_a_build_takes(path):
    check_inputs(load(path))


@pytest.mark.parametrize("name", MACHINES)
def test_the_machines_that_a_configuration_is_for_have_room_for_it(name):
    config = load(ROOT / "configs" / f"{name}.yaml")
    wanted = demands(config, embedder=config.dedup.cosine is not None)
    assert lack(wanted, MACHINES[name]) is None
    assert lack(wanted, MACHINES[name][:-1] or [{"CPU": 0.0}])


def test_a_model_over_four_gpus_of_a_node_is_refused_eight_nodes_with_one():
    """Tensor parallelism over Ethernet would pass for room, and crawl."""
    config = load(ROOT / "configs" / "gpu-8-70b.yaml")
    wanted = demands(config, embedder=config.dedup.cosine is not None)
    nodes = [{"CPU": 12.0, "GPU": 1.0}] * 8
    assert "4 GPU on one node, and no node has that; the largest has" in (lack(wanted, nodes) or "")
