"""A head with a dashboard, and commands against it, as a user has them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
RAY = str(Path(sys.executable).parent / "ray")


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


@contextmanager
def node_with_gpus(address: str, gpus: int, cpus: int = 0) -> Iterator[subprocess.Popen]:
    """A node that says it has so many, of which torch sees none; in the Ray that is used here."""
    import ray

    command = [RAY, "start", "--block", f"--address={address}", f"--num-cpus={cpus}"]
    command += [f"--num-gpus={gpus}", "--disable-usage-stats", "--include-log-monitor=false"]
    before = ray.cluster_resources().get("GPU", 0)
    environment = os.environ | {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}  # ends at once
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as process:
        try:
            await_gpus(lambda there: there >= before + gpus)
            yield process
        finally:
            process.terminate()
            process.wait(60)
            await_gpus(lambda there: there <= before)


def await_gpus(enough: Callable[[float], bool]) -> None:
    """Return once the number of GPUs in the Ray that is used here is enough."""
    import ray

    for _ in range(300):
        if enough(ray.cluster_resources().get("GPU", 0)):
            return
        time.sleep(0.1)
    raise AssertionError(f"there are {ray.cluster_resources()}")


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
