"""A head with a dashboard, and commands against it, as a user has them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.integration.conftest import replay_values

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="session")
def head(s3_server) -> Iterator[str]:
    """Dashboard address of a Ray whose nodes find the session's S3 server."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as environment:
        for name, value in s3_server.items():
            environment.setenv(name, value)
        environment.delenv("RAY_ADDRESS", raising=False)
        port = free_port()
        cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 4,
                "include_dashboard": True,
                "dashboard_host": "127.0.0.1",
                "dashboard_port": port,
            },
        )
    yield f"http://127.0.0.1:{port}"
    cluster.shutdown()


@pytest.fixture
def config(tmp_path) -> Path:
    """A small run on the replay, slow enough to be interrupted."""
    values = replay_values()
    values["generator"]["replay"] = {"latency_s": 0.3, "latency_sigma": 0.5}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path
