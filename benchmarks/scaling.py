"""One build on 1, 2, 4, 8 nodes: requests a second, and where replicas and gate shards went.

    python benchmarks/scaling.py --nodes 1 2 4 8 --write

The nodes are real ones of Ray (a raylet, a store, workers of their own) on this one machine. The
scripted replay answers after two seconds, as a hosted model does, and computes nothing
meanwhile; so what is measured is whether everything around the models keeps more of them busy: the
driver, the gate over as many shards as nodes, Ray Data's tasks, Serve's handles. Work grows with
the nodes. The best that a size could reach is slots / mean latency; ``share_of_ideal`` is what it
did, ends of phases included, and ``efficiency`` compares a size's requests a second with as many
times those of one node. ``steady`` is both again between a quarter and nine tenths of the requests,
where nothing starts or ends any more: what starts takes turns on the cores of this machine, and has
cores of its own where nodes are machines. ``cores_busy`` is what all of it took of this machine's
cores, starting included: where it comes near their number, they are what bounds it. Each size can
be measured by itself; the others stay in the result.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from streams import Processor

LATENCY_S, SIGMA = 2.0, 0.3
"""Of a request: median, and standard deviation of its logarithm."""

SLOTS = 32
"""Requests that a replica answers at once; a replica takes a whole node."""

CPUS = 2
TARGET = 3200
"""Accepted instructions for each node."""

RESULT = Path(__file__).with_suffix(".json")


def config(nodes: int) -> dict[str, Any]:
    """A run with a replica and a gate shard for each node, and work in proportion."""
    return {
        "target_instructions": TARGET * nodes,
        "generator": {
            "engine": "replay",
            "model": None,
            "replicas": nodes,
            "cpus": CPUS,
            "max_batch": SLOTS,
            "replay": {"latency_s": LATENCY_S, "latency_sigma": SIGMA},
        },
        "bootstrap": {"prompts_per_round": 2 * SLOTS * nodes, "block_size": 16},
        "instances": {"block_size": 16},
        "dedup": {"rouge": 1.0, "cosine": None, "shards": nodes},  # the script has few words
    }


def places() -> dict[str, list[int]]:
    """How many replicas, and how many gate shards, stand on each node that has any."""
    from ray._private.state import actors

    found: dict[str, Counter[str]] = {"replicas": Counter(), "shards": Counter()}
    for actor in actors().values():
        if actor["State"] == "ALIVE":
            kind = {"Shard": "shards"}.get(actor["ActorClassName"])
            if "GeneratorReplica" in actor["ActorClassName"]:
                kind = "replicas"
            if kind:
                found[kind][actor["Address"]["NodeID"]] += 1
    return {kind: sorted(counts.values()) for kind, counts in found.items()}


def measure(nodes: int) -> dict[str, Any]:
    """Build once on a cluster of that many nodes, and a head that takes no replicas."""
    from ray.cluster_utils import Cluster

    from ray_si.build.builder import build
    from ray_si.config.file import parse_config

    began = time.perf_counter()
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    placed: dict[str, list[int]] = {}
    answered: list[tuple[float, int]] = []

    def listen(progress: Any) -> None:
        answered.append((time.monotonic(), progress.usage.requests.total()))
        if progress.phase == "bootstrap" and progress.done and not placed:
            placed.update(places())

    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=CPUS)
        cluster.wait_for_nodes()
        started = time.perf_counter() - began
        with tempfile.TemporaryDirectory() as folder, Processor() as processor:
            used, start = sum(processor.total().values()), time.perf_counter()
            result = build(
                parse_config(config(nodes)), f"{folder}/run", address=cluster.address, listen=listen
            )
            used = sum(processor.total().values()) - used
            busy = used / (time.perf_counter() - start)
    finally:
        cluster.shutdown()
    seconds = result.seconds["bootstrap"] + result.seconds["instances"]
    requests = result.stats["requests"] + 2 * result.stats["accepted"]
    ideal = nodes * SLOTS / (LATENCY_S * math.exp(SIGMA**2 / 2))
    return {
        "requests": requests,
        "seconds": round(seconds, 2),
        "requests_per_second": round(requests / seconds, 2),
        "share_of_ideal": round(requests / seconds / ideal, 3),
        "steady": steady(answered, ideal),
        "cores_busy": round(busy, 2),
        "cluster_seconds": round(started, 1),
        "models_seconds": round(result.seconds["models"], 1),
        "replicas_by_node": placed["replicas"],
        "shards_by_node": placed["shards"],
    }


def steady(answered: list[tuple[float, int]], ideal: float) -> dict[str, float]:
    """Requests a second between a quarter and nine tenths of them, by what was told meanwhile."""
    last = max(count for _, count in answered)
    began, before = next(told for told in answered if told[1] >= last / 4)
    ended, after = next(told for told in answered if told[1] >= 0.9 * last)
    rate = (after - before) / (ended - began)
    return {"requests_per_second": round(rate, 2), "share_of_ideal": round(rate / ideal, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--write", action="store_true", help=f"write benchmarks/{RESULT.name}")
    options = parser.parse_args()
    measured: dict[str, Any] = {}
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as fresh:
        for nodes, size in zip(options.nodes, fresh.imap(measure, options.nodes), strict=True):
            measured[str(nodes)] = size
            print(nodes, json.dumps(size), flush=True)
    others = json.loads(RESULT.read_text())["nodes"] if RESULT.exists() else {}
    sizes: dict[str, Any] = others | measured
    sizes = {key: sizes[key] for key in sorted(sizes, key=int)}
    if "1" in sizes:
        for key, size in sizes.items():
            for found, one in (
                (size, sizes["1"]),
                (size.get("steady"), sizes["1"].get("steady")),  # older results have none
            ):
                if found and one:
                    rate = found["requests_per_second"] / one["requests_per_second"]
                    found["efficiency"] = round(rate / int(key), 3)
    report = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "latency_s": LATENCY_S,
        "latency_sigma": SIGMA,
        "slots_per_node": SLOTS,
        "accepted_per_node": TARGET,
        "nodes": sizes,
    }
    text = json.dumps(report, indent=1) + "\n"
    print(text)
    if options.write:
        RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
