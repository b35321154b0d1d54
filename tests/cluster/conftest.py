"""A head with a dashboard, and commands against it, as a user has them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
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


def start_head(port: int):
    """A Ray whose dashboard listens on that port of this machine; `shutdown` ends it."""
    from ray.cluster_utils import Cluster

    return Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 4,
            "include_dashboard": True,
            "dashboard_host": "127.0.0.1",
            "dashboard_port": port,
            # the default is one for all of a machine: beside another Ray, no job would start
            "dashboard_agent_listen_port": free_port(),
        },
    )


@pytest.fixture(scope="session")
def ray_environment(s3_server) -> Iterator[dict[str, str]]:
    """The environment of nodes that find the session's S3 server, and this Python as "python".

    Without Ray's tokens, which a Ray started earlier in this process turns on from then.
    """
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = s3_server | {"PATH": path, "RAY_USAGE_STATS_ENABLED": "0", "COLUMNS": "200"}
    variables["RAY_AUTH_MODE"] = "disabled"
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("RAY_ADDRESS", raising=False)
        for name, value in variables.items():
            environment.setenv(name, value)
        yield dict(os.environ)


@pytest.fixture(scope="session")
def head(ray_environment) -> Iterator[str]:
    """Dashboard address of a Ray that outlives its jobs."""
    port = free_port()
    cluster = start_head(port)
    yield f"http://127.0.0.1:{port}"
    cluster.shutdown()


class Submission:
    """A ``ray-si submit`` in a process of its own, whose lines are there as they come."""

    def __init__(self, *arguments: object, environment: dict[str, str]) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "ray_si", "submit", *map(str, arguments)],
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def read_until(self, text: str) -> str:
        """The next line with that text."""
        for line in self.process.stdout:
            self.lines.append(line)
            if text in line:
                return line
        raise AssertionError(f"{text!r} never came:\n{self.output}")

    def end(self) -> int:
        """Its exit status, once it has one."""
        self.lines += self.process.stdout
        return self.process.wait(timeout=240)

    @property
    def output(self) -> str:
        return "".join(self.lines)


@pytest.fixture
def submit(ray_environment) -> Iterator:
    """Starts a `Submission`."""
    started = []

    def start(*arguments: object) -> Submission:
        started.append(Submission(*arguments, environment=ray_environment))
        return started[-1]

    yield start
    for submission in started:
        submission.process.kill()
        submission.process.communicate()


@pytest.fixture
def config(tmp_path) -> Path:
    """A small run on the replay, slow enough to be interrupted."""
    values = replay_values()
    values["generator"]["replay"] = {"latency_s": 1.0, "latency_sigma": 0.5}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path
