"""A node that disappears from a cluster of several takes nothing of the run with it."""

from __future__ import annotations

import time

import pytest
import yaml

from tests.builds import digests
from tests.faults.conftest import Builds, output_of

pytestmark = pytest.mark.slow

QUICK_TO_NOTICE = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}


@pytest.fixture
def nodes():
    """A head that takes no replicas, and two nodes that do."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "include_dashboard": False,
            "_system_config": QUICK_TO_NOTICE,
        },
    )
    workers = [cluster.add_node(num_cpus=2) for _ in range(2)]
    yield cluster, workers
    cluster.shutdown()


def test_a_killed_node_changes_nothing(nodes, tmp_path):
    cluster, workers = nodes
    builds = Builds(cluster.address, tmp_path)
    values = yaml.safe_load(builds.config.read_text())
    values["dedup"] = {"cosine": 0.9, "shards": 3}
    builds.config.write_text(yaml.safe_dump(values))
    builds.finish(tmp_path / "undisturbed")

    run = tmp_path / "run"
    process = builds.start(run)
    while not list(run.glob("bootstrap/*/block-*.parquet")) and process.poll() is None:
        time.sleep(0.01)
    assert process.poll() is None
    cluster.remove_node(workers[0], allow_graceful=False)
    output = output_of(process, 240)
    assert process.returncode == 0, output
    assert digests(run) == digests(tmp_path / "undisturbed")
