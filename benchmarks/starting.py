"""How soon a build on many replicas has its first answer, where some come late and some fail.

    python benchmarks/starting.py [--write] [--replicas 64]

The replicas are `replay` engines on a real Ray Serve, on four nodes and a head that are processes
of this machine. They take an exponentially distributed time to start, and a tenth of the starts
fail. One build begins with the first of them, one with all; both are ended once all are there.
Nulls are what had not come within `MOST_S`; the machine's load before each build stands beside it.
What Ray and 64 Python processes take to come up on so few cores is part of every number; a real
model's loading would take the place of `START_S`. Looked at once a second.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import platform
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent
NODES, CORES = 4, 4
START_S, FAILING = 20.0, 0.1
MOST_S = 240.0
"""After which a build is ended that has not all its replicas yet."""


def values(replicas: int, least: int) -> dict[str, Any]:
    """A build that goes on until it is ended."""
    return {
        "target_instructions": 10**9,
        "generator": {
            "engine": "replay",
            "model": None,
            "replicas": replicas,
            "min_replicas": least,
            "max_batch": 8,
            "cpus": 0.8 * NODES * CORES / replicas,
            "replay": {"latency_s": 2.0, "start_s": START_S, "failing_starts": FAILING},
        },
        "dedup": {"cosine": None},
        "bootstrap": {"stall_rounds": 10**6},  # what the replay writes is soon all there already
    }


class Watch:
    """Notes when replicas came, in seconds since it was made; ends the build with the last one."""

    def __init__(self, replicas: int) -> None:
        self.began = time.monotonic()
        self.came: list[float] = []
        self.first_answer: float | None = None
        self.failed_starts = 0
        self.memory_mib = 0.0
        self._replicas = replicas
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def listen(self, progress: Any) -> None:
        """As `ray_si.build.builder.build` has it."""
        self.failed_starts = max(self.failed_starts, progress.usage.failed_starts)
        if self.first_answer is None and progress.usage.requests.total():
            self.first_answer = time.monotonic() - self.began

    def _look(self) -> None:
        while not self._ended.wait(0.25):
            running = self._running()
            now = time.monotonic() - self.began
            self.came += [now] * (running - len(self.came))
            is_done = len(self.came) == self._replicas and self.first_answer is not None
            if is_done or now > MOST_S:
                self.memory_mib = replica_memory_mib()
                time.sleep(3)  # the meter is asked once a second
                os.kill(os.getpid(), signal.SIGINT)
                return

    def _running(self) -> int:
        """Replicas that Serve has ready now."""
        import ray
        from ray import serve
        from ray.serve.schema import ReplicaState

        if not ray.is_initialized():
            return 0
        deployments = [
            deployment
            for application in serve.status().applications.values()
            for deployment in application.deployments.values()
        ]
        return sum(each.replica_states.get(ReplicaState.RUNNING, 0) for each in deployments)


def replica_memory_mib() -> float:
    """What a replica's process holds by itself and its part of what it shares; the mean."""
    sizes = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "ServeReplica" in " ".join(process.cmdline()):
                sizes.append(process.memory_full_info().pss / 2**20)
    return sum(sizes) / max(1, len(sizes))


def start(replicas: int, least: int) -> dict[str, Any]:
    """One build, from nothing to its last replica."""
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    from ray_si.build.builder import build
    from ray_si.config.file import parse_config

    load = os.getloadavg()[0]
    node = {"num_cpus": CORES, "object_store_memory": 200 << 20}
    cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    try:
        for _ in range(NODES):
            cluster.add_node(**node)
        ray.init(cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        serve.start(proxy_location="Disabled")
        settings = parse_config(values(replicas, least))
        with (
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
            Watch(replicas) as watch,
            contextlib.suppress(KeyboardInterrupt),
        ):
            build(settings, f"{folder}/run", listen=watch.listen)
    finally:
        ray.shutdown()
        cluster.shutdown()

    def at(count: int) -> float | None:
        return round(watch.came[count - 1], 1) if count <= len(watch.came) else None

    return {
        "replicas": replicas,
        "begins_with": least,
        "failed_starts": watch.failed_starts,
        "first_answer_s": watch.first_answer and round(watch.first_answer, 1),
        "first_replica_s": at(1),
        "half_of_them_s": at(replicas // 2),
        "nine_tenths_s": at(replicas * 9 // 10),
        "all_s": at(replicas),
        "came": len(watch.came),
        "load_before": round(load, 1),
        "memory_of_a_replica_mib": round(watch.memory_mib),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="also write starting.json")
    parser.add_argument("--replicas", type=int, default=64)
    options = parser.parse_args()
    replicas = options.replicas
    results = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "nodes": NODES,
        "mean_start_s": START_S,
        "failing_starts": FAILING,
        "starts": [start(replicas, least) for least in (1, replicas)],
    }
    text = json.dumps(results, indent=2) + "\n"
    print(text, end="")
    if options.write:
        (HERE / "starting.json").write_text(text)


if __name__ == "__main__":
    main()
