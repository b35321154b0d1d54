"""What durable runs cost, and how soon a large one goes on.

    python benchmarks/durability.py [--write] [--pool 1000000]

``overhead`` builds the same run on the scripted replay with the latency of a hosted model (median
300 ms), once on a disk, every object synced to it before the next step, and once in memory
(/dev/shm), where syncing costs nothing; alternately, several times. Bootstrap and instances are
compared, not the start of Ray. ``resume`` writes a run of a million accepted instructions, then
measures what stands between its resumption and the first prompts of the next round: reading the
manifests, filling the gate, the blocks of instances, sampling; Ray's and the models' own start come
on top.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import corpus
import pyarrow as pa

from ray_si.build.builder import build
from ray_si.build.gate import open_gate
from ray_si.build.instances import InstancePhase
from ray_si.config import RunConfig
from ray_si.config.file import parse_config
from ray_si.pipeline.progress import Reporter
from ray_si.pipeline.prompting import Prompting
from ray_si.run.checkpoint import CommittedRounds
from ray_si.run.run import Run
from ray_si.run.schemas import ACCEPTED, REJECTED
from ray_si.run.seeds import load_seeds

REPEATS = 3
ROUND = 1000
"""Accepted instructions of a round in the run that is resumed."""


def config(target: int) -> RunConfig:
    """The scripted replay at the latency of a hosted model, one replica, no embedder."""
    return parse_config(
        {
            "target_instructions": target,
            "generator": {
                "engine": "replay",
                "model": None,
                "max_batch": 64,
                "replay": {"latency_s": 0.3, "latency_sigma": 0.5},
            },
            "bootstrap": {"prompts_per_round": 128, "block_size": 32},
            "dedup": {"cosine": None},
        }
    )


def overhead() -> dict[str, Any]:
    """Seconds of the phases on disk and in memory."""
    import ray

    ray.init("local", include_dashboard=False, log_to_driver=False, logging_level=40)
    seconds: dict[str, list[float]] = {"disk": [], "memory": []}
    folders = {"disk": str(Path.cwd()), "memory": "/dev/shm"}
    for _ in range(REPEATS + 1):  # the first of each warms up and is not counted
        for name, parent in folders.items():
            with tempfile.TemporaryDirectory(dir=parent) as folder:
                took = build(config(800), f"{folder}/run").seconds
            seconds[name].append(took["bootstrap"] + took["instances"])
    ray.shutdown()
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    return {
        "seconds": {name: [round(value, 2) for value in v[1:]] for name, v in seconds.items()},
        "median_seconds": {name: round(value, 2) for name, value in medians.items()},
        "overhead": round(medians["disk"] / medians["memory"] - 1, 4),
    }


def resume(pool: int) -> dict[str, Any]:
    """Seconds from a run on disk to the prompts of its next round."""
    settings = config(2 * pool)
    seeds, digest = load_seeds("bundled")
    header = {"config": settings.model_dump(mode="json"), "identity": settings.identity()}
    with tempfile.TemporaryDirectory() as folder:
        run = Run.prepare(f"{folder}/run", header, settings.fingerprint(digest))
        with run.held():
            run.create(seeds)
            write_rounds(run, pool)
        began = time.perf_counter()
        run, nobody = Run.open(f"{folder}/run"), cast(Any, None)
        with run.held():
            rounds = CommittedRounds.read(run)
            with open_gate(settings, run, rounds, seeds, nobody):
                filled = time.perf_counter()
                reporter = Reporter(lambda progress: None)
                InstancePhase(settings, run, rounds, nobody, reporter, nobody, nobody)
                prompting = Prompting(settings, seeds)
                for table in rounds.tables:
                    prompting.extend(table)
                requests = prompting.rows(len(rounds.manifests))
        ready = time.perf_counter()
    return {
        "accepted": pool,
        "rounds": -(-pool // ROUND),
        "gate_seconds": round(filled - began, 2),
        "prompts_seconds": round(ready - filled, 2),
        "seconds": round(ready - began, 2),
        "requests": len(requests),
    }


def write_rounds(run: Run, pool: int) -> None:
    """Commit made-up rounds until the pool has that many accepted instructions."""
    texts = corpus.texts(pool)
    for round_ in range(-(-pool // ROUND)):
        rows = [
            {"id": f"r{round_:05d}-{k:05d}-00", "instruction": text, "round": round_}
            for k, text in zip(range(ROUND), texts, strict=False)
        ]
        accepted = pa.Table.from_pylist(rows, ACCEPTED)
        manifest = {"round": round_, "accepted": len(rows), "candidates": len(rows), "rejected": {}}
        run.commit_round(round_, [], accepted, pa.Table.from_pylist([], REJECTED), manifest)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pool", type=int, default=1_000_000, help="of the run that is resumed")
    parser.add_argument("--write", action="store_true", help="write benchmarks/durability.json")
    options = parser.parse_args()
    report = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "resume": resume(options.pool),
        "overhead": overhead(),
    }
    text = json.dumps(report, indent=1) + "\n"
    print(text)
    if options.write:
        Path(__file__).with_suffix(".json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
