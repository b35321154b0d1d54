"""What requests cost around the models, and how busy slots are, where answers take seconds.

    python benchmarks/streams.py --case 8x128 --case 4x64
    python benchmarks/streams.py --case 8x128 --against ../older --write

Builds on the scripted replay with the ROUGE-L gate, which end after some rounds. Of each: slots
busy in steady state (all filled once, requests left), and seconds of a core for each request, by
the kind of process that spends them: Ray Data's tasks, in which the clients are; the replicas;
Serve's controller; the driver with the gate; Ray's own processes. Starting them is not counted: the
clock begins with the first answer and ends with the last commit.

``--against`` names another checkout of ray_si, measured in the same run, case by case. The page
docs/architecture.md says what to make of the numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

RESULT = Path(__file__).with_suffix(".json")
SIGMA = 0.8
"""Log-standard-deviation of the latencies."""

KINDS = {
    "tasks": ("MapBatches", "MapWorker", "_map_task", "_answer", "_guarded"),
    "replicas": ("ServeReplica",),
    "controller": ("ServeController",),
    "ray": ("raylet", "gcs_server"),
}
"""What tells a process's kind, in its name."""


class Case(NamedTuple):
    """A build: ``median_s`` is that of the latencies."""

    replicas: int
    slots: int
    median_s: float
    prompts: int
    rounds: int
    lookahead: int


CASES = {
    "8x128": Case(8, 128, 4.0, 4096, 3, 1),
    "8x128 fitted": Case(8, 128, 4.0, 2048, 12, 8),
    "4x64": Case(4, 64, 0.73, 2500, 4, 2),
    "4x64 at 100 ms": Case(4, 64, 0.073, 3000, 4, 2),
    "16x512": Case(16, 512, 5.8, 16384, 3, 1),
}


class Processor:
    """Seconds that the processes under this one have used, by kind; ``with`` watches them."""

    def __init__(self) -> None:
        self._kinds: dict[int, str] = {}
        self._used: dict[int, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Processor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def total(self) -> dict[str, float]:
        """So far."""
        self._look()
        seconds: dict[str, float] = defaultdict(float)
        for pid, used in self._used.items():
            seconds[self._kinds.get(pid, "other")] += used
        return dict(seconds)

    def _watch(self) -> None:
        while not self._ended.wait(2):
            self._look()

    def _look(self) -> None:
        import psutil

        this = psutil.Process()
        self._note(this.pid, "driver", this)
        for process in this.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                name = " ".join(process.cmdline()[:2])
                kinds = [kind for kind, marks in KINDS.items() if any(m in name for m in marks)]
                self._note(process.pid, kinds[0] if kinds else None, process)

    def _note(self, pid: int, kind: str | None, process: Any) -> None:
        if kind:
            self._kinds[pid] = kind
        times = process.cpu_times()
        self._used[pid] = times.user + times.system


def measure(case: Case) -> dict[str, Any]:
    """Build once, here."""
    import ray_si
    from ray_si.errors import NoProgressError

    # public names alone, so that an older checkout has them, too
    build: Any = getattr(ray_si, "build_dataset", None) or ray_si.build
    slots = case.replicas * case.slots
    config = ray_si.RunConfig.model_validate(
        {
            "target_instructions": 10**9,
            "generator": {
                "engine": "replay",
                "model": None,
                "replicas": case.replicas,
                "max_batch": case.slots,
                "cpus": 0,
                "replay": {"latency_s": case.median_s, "latency_sigma": SIGMA},
            },
            "dedup": {"cosine": None},
            "bootstrap": {
                "prompts_per_round": case.prompts,
                "block_size": 64,
                "lookahead": case.lookahead,
                "stall_rounds": case.rounds,  # and every round counts as stalled
                "stall_acceptance": 0.9999,
            },
        }
    )
    began: dict[str, Any] = {}
    seen: list[tuple[float, int, int]] = []  # moment, slots in use, requests answered
    commits: list[float] = []
    with Processor() as processor:

        def listen(progress: Any) -> None:
            answered = progress.usage.requests.total()
            if answered and not began:
                began.update(at=time.monotonic(), answered=answered, cpu=processor.total())
            if progress.note.startswith("round "):
                commits.append(time.monotonic())
                began.update(end=processor.total(), done=answered)
            elif began and not commits[case.rounds - 1 :]:
                seen.append((time.monotonic(), progress.usage.running, answered))

        with (
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
            suppress(NoProgressError),
        ):
            build(config, f"{folder}/run", listen=listen)
    requests = case.prompts * case.rounds
    # steady: from when all slots have been filled once until the last requests run out
    last = next((at for at, _, done in seen if done > requests - 1.5 * slots), commits[-1])
    steady = [min(n, slots) for at, n, _ in seen if began["at"] + 2 < at < last]
    spent = {kind: began["end"][kind] - began["cpu"].get(kind, 0.0) for kind in began["end"]}
    counted = requests - began["answered"]
    return {
        "seconds": round(commits[-1] - began["at"], 1),
        "requests_per_second": round(counted / (commits[-1] - began["at"]), 1),
        "busy": round(sum(steady) / max(1, len(steady)) / slots, 3),
        "cpu_ms_a_request": {
            kind: round(1000 * seconds / counted, 3)
            for kind, seconds in sorted({**spent, "all": sum(spent.values())}.items())
        },
        "load": [[round(at - began["at"], 1), running] for at, running, _ in seen],
    }


def measured_in(checkout: Path, name: str) -> dict[str, Any]:
    """The case in a process of its own that imports ray_si from there."""
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    command = [sys.executable, str(Path(__file__).resolve()), "--here", "--case", name]
    done = subprocess.run(
        command, cwd=checkout, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=CASES, action="append", help="repeat for more")
    parser.add_argument("--against", type=Path, help="another checkout, measured beside")
    parser.add_argument("--here", action="store_true", help="in this process; print JSON alone")
    parser.add_argument("--write", action="store_true", help=f"update benchmarks/{RESULT.name}")
    options = parser.parse_args()
    names = options.case or list(CASES)
    if options.here:
        print(json.dumps(measure(CASES[names[0]])))
        return
    report = json.loads(RESULT.read_text()) if RESULT.exists() else {"cases": {}}
    for name in names:
        result: dict[str, Any] = {"case": CASES[name]._asdict()}
        if options.against:
            result["before"] = measured_in(options.against.resolve(), name)
        result["now"] = measured_in(Path(__file__).resolve().parents[1], name)
        report["cases"][name] = result
        for when in ("before", "now"):
            if when in result:
                shown = {k: v for k, v in result[when].items() if k != "load"}
                print(name, when, json.dumps(shown), flush=True)
    report["machine"] = {"cores": os.cpu_count()}
    if options.write:
        RESULT.write_text(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
