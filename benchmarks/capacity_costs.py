"""What a build costs the driver for each candidate, instruction and request; benchmarks/capacity.py
reads the result.

    python benchmarks/capacity_costs.py --write

Time and memory of the code that a build runs, on a made-up pool of 200,000 instructions. What a
request costs is a whole build on the scripted replay that answers at once, both cores busy, so
it holds everything around the model: rendering, handles, tasks, the replica's own bookkeeping.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any, cast

import corpus
import pyarrow as pa

from ray_si.build.builder import build
from ray_si.build.instances import InstancePhase
from ray_si.config.file import parse_config
from ray_si.dedup import DedupResult
from ray_si.pipeline.decisions import decide_round
from ray_si.pipeline.progress import Reporter
from ray_si.pipeline.prompting import Prompting
from ray_si.run.checkpoint import POOL_COLUMNS, CommittedRounds
from ray_si.run.run import Run
from ray_si.run.schemas import ACCEPTED
from ray_si.run.seeds import load_seeds
from ray_si.serving.applications import Generators
from ray_si.serving.background import Alarm

RESULT = Path(__file__).with_name("capacity.json")
SMALL, POOL = 1000, 200_000
REPLAY: dict[str, Any] = {
    "target_instructions": 3000,
    "generator": {"engine": "replay", "model": None, "max_batch": 256, "cpus": 1},
    "bootstrap": {"prompts_per_round": 512},
    "dedup": {"rouge": 1.0, "cosine": None},  # the script has few words
}


def lists() -> dict[str, float]:
    """Of the driver's lists of the pool: bytes, and seconds to choose demonstrations from them."""
    texts = list(corpus.texts(POOL))
    ids = [f"r{i // 1000:05d}-{i % 1000:05d}-00" for i in range(POOL)]
    table = _accepted(ids, texts)
    few = {"bootstrap": {"prompts_per_round": 4}}  # so that the pool is most of what is read
    config = parse_config(REPLAY | few)
    seeds, _ = load_seeds("bundled")
    nobody = cast(Any, None)
    tracemalloc.start()
    prompting = Prompting(config, seeds)
    prompting.extend(table)
    lists = tracemalloc.get_traced_memory()[0]
    driver = lists + table.select(POOL_COLUMNS).nbytes  # which it keeps, and the instances share
    with tempfile.TemporaryDirectory() as folder:
        run = Run.prepare(f"{folder}/run", {"identity": {}, "config": {}}, "benchmark")
        with run.held():
            rounds = CommittedRounds(run)
            manifest: Any = {"round": 0, "accepted": POOL, "objects": []}
            rounds.append(manifest, table)
            generators = Generators({}, {"app": 64})
            arrow, before = pa.total_allocated_bytes(), tracemalloc.get_traced_memory()[0]
            reporter = Reporter(lambda progress: None)
            phase = InstancePhase(config, run, rounds, generators, reporter, nobody, Alarm())
            phase._missing.extend(range(POOL // config.instances.block_size))
            later = tracemalloc.get_traced_memory()[0] - before
            later += pa.total_allocated_bytes() - arrow
    tracemalloc.stop()
    small = Prompting(config, seeds)
    small.extend(table.slice(0, SMALL))
    sees_all = 1 + config.bootstrap.lookahead  # the first round that draws on the pool
    seconds = []
    for each in (small, prompting):
        times = []
        for _ in range(10):
            began = time.perf_counter()
            each.rows(sees_all)
            times.append(time.perf_counter() - began)
        seconds.append(min(times))
    return {
        "round_s": max(0.0, seconds[1] - seconds[0]) / (POOL - SMALL),
        "driver_bytes": driver / POOL,
        "instances_bytes": later / POOL,
    }


def decide_s(count: int = 8000) -> float:
    """Seconds a candidate: parsing, filters, the round's tables; the gate lets everything pass."""
    texts = list(corpus.texts(count))
    rows = []
    for start in range(0, count, 8):
        body = "\n".join(f"{9 + i}. {text}." for i, text in enumerate(texts[start : start + 8]))
        rows.append(
            {
                "request_id": f"r00000-{start:05d}",
                "seed": start,
                "classification_prompt": False,
                "demonstrations": [f"seed_{i}" for i in range(8)],
                "text": body.partition(" ")[2],
                "finish_reason": "stop",
                "error": None,
                "prompt_tokens": 400,
                "completion_tokens": 200,
                "mean_logprob": -1.0,
            }
        )
    began = time.perf_counter()
    _, _, manifest, _ = decide_round(
        parse_config(REPLAY),
        0,
        rows,
        count,
        lambda usable: DedupResult(accepted=list(range(len(usable)))),
    )
    seconds = time.perf_counter() - began
    assert manifest["candidates"] >= 0.9 * count
    return seconds / float(manifest["candidates"])


def request_s() -> float:
    """Seconds of a core for each request of a build whose model answers at once."""
    import ray

    ray.init("local", include_dashboard=False, log_to_driver=False, logging_level=40)
    with tempfile.TemporaryDirectory() as folder:
        result = build(parse_config(REPLAY), f"{folder}/run")
    ray.shutdown()
    seconds = result.seconds["bootstrap"] + result.seconds["instances"]
    requests = result.stats["requests"] + 2 * result.stats["accepted"]
    return float((os.cpu_count() or 1) * seconds / requests)


def _accepted(ids: list[str], texts: list[str]) -> pa.Table:
    """Accepted rows, of which the lists read only some columns."""
    rows = [
        {"id": id_, "instruction": text, "classification_prompt": False}
        for id_, text in zip(ids, texts, strict=True)
    ]
    return pa.Table.from_pylist(rows, ACCEPTED)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help=f"write benchmarks/{RESULT.name}")
    options = parser.parse_args()
    costs = {"decide_s": decide_s(), **lists(), "request_s": request_s()}
    report = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "pool": POOL,
        "costs": {name: float(f"{value:.3g}") for name, value in costs.items()},
    }
    if RESULT.exists():
        report = json.loads(RESULT.read_text()) | report
    text = json.dumps(report, indent=1) + "\n"
    print(text)
    if options.write:
        RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
