"""Where the time of a build goes: the pipeline itself (scripted replay) and the quick start.

    python benchmarks/pipeline.py            print
    python benchmarks/pipeline.py --write    also write benchmarks/pipeline.json

Phases are wall-clock seconds of one process on this machine; read their ratios. The replay answers
at once, so its build is all overhead: Ray, Serve, Ray Data, parsing, the gate, files.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import tempfile
from pathlib import Path
from typing import Any

import psutil

from ray_si import load_config
from ray_si.build.builder import build
from ray_si.config.file import parse_config

HERE = Path(__file__).parent
REPLAY = {
    "target_instructions": 1000,
    "generator": {"engine": "replay", "model": None, "max_batch": 64},
    "bootstrap": {"prompts_per_round": 64, "classification_share": 0.1},
}


def measure(name: str, config: Any) -> dict[str, Any]:
    """Build once into a temporary folder; phases, throughput, and the replica's peak memory."""
    peak = 0

    def listen(progress: Any) -> None:
        nonlocal peak
        for process in psutil.Process().children(recursive=True):
            try:
                if "GeneratorReplica" in process.name() or "GeneratorReplica" in " ".join(
                    process.cmdline()
                ):
                    status = Path(f"/proc/{process.pid}/status").read_text()
                    line = next(x for x in status.splitlines() if x.startswith("VmHWM"))
                    peak = max(peak, int(line.split()[1]) * 1024)
            except (psutil.NoSuchProcess, FileNotFoundError, StopIteration):
                continue

    with tempfile.TemporaryDirectory() as folder:
        result = build(config, f"{folder}/run", listen=listen)
    stats, seconds = result.stats, result.seconds
    tokens = stats["bootstrap_tokens"] + stats["instance_tokens"]
    return {
        "name": name,
        "seconds": {phase: round(value, 2) for phase, value in seconds.items()},
        "share_of_total": {
            phase: round(seconds[phase] / seconds["total"], 3)
            for phase in ("ray", "models", "bootstrap", "instances")
        },
        "requests": stats["requests"],
        "candidates": stats["candidates"],
        "accepted": stats["accepted"],
        "with_instance": stats["with_instance"],
        "rows": stats["rows"],
        "completion_tokens": tokens,
        "tokens_per_second": round(tokens / (seconds["bootstrap"] + seconds["instances"]), 1),
        "replica_peak_mib": round(peak / 2**20),
    }


def main() -> None:
    """Measure both builds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write benchmarks/pipeline.json")
    arguments = parser.parse_args()
    quickstart = load_config(HERE / "quickstart_former.yaml")  # of which the results are
    report = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "builds": [
            measure("replay, 1,000 instructions", parse_config(REPLAY)),
            measure("quick start", quickstart),
        ],
        "driver_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    text = json.dumps(report, indent=2) + "\n"
    print(text)
    if arguments.write:
        (HERE / "pipeline.json").write_text(text)


if __name__ == "__main__":
    main()
