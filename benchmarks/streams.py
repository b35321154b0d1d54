"""What requests cost around the models, and how busy slots are, where answers take seconds.

    python benchmarks/streams.py --case "8x128 fitted" --case 4x64
    python benchmarks/streams.py --case 8x128 --against ../older --write

Builds on the scripted replay with the ROUGE-L gate, in one case the cosine gate as well, which end
after some rounds. Of each: slots busy in steady state (all filled once, requests left), and seconds
of a core for each request answered in that time, by what spends them: the replicas; the clients,
which are the threads of Ray Data's tasks beside the main one; that main one, where Ray Data's
operators run (render, parse); Serve's controller; the embedder; the driver with the gate; Ray's own
processes.

``--against`` names another checkout of ray_si, measured in the same run, case by case. The page
docs/benchmarks.md says what to make of the numbers.
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

LOOK_S = 2.0
"""Between looks at what processes have used."""

KINDS = {
    "operators": ("MapBatches", "MapWorker", "_map_task", "_answer", "_guarded"),
    "embedder": ("ServeReplica:", "-embedder"),
    "replicas": ("ServeReplica:",),
    "controller": ("ServeController",),
    "ray": ("raylet", "gcs_server"),
}
"""What tells a process's kind, in its name; of the embedder's, both do."""


class Case(NamedTuple):
    """A build: ``median_s`` is that of the latencies.

    With ``cosine`` there is the cosine gate, with an embedder that looks its tokens up in a table.
    Such a build ends where the steady state does, not with its last answers.
    """

    replicas: int
    slots: int
    median_s: float
    prompts: int
    rounds: int
    lookahead: int
    cosine: bool = False


CASES = {
    "8x128": Case(8, 128, 4.0, 4096, 3, 1),
    "8x128 fitted": Case(8, 128, 4.0, 2048, 12, 8),
    "4x64": Case(4, 64, 0.73, 2500, 4, 2),
    "4x64 at 100 ms": Case(4, 64, 0.073, 3000, 16, 2),
    "64x128": Case(64, 128, 34.8, 16384, 3, 2, cosine=True),
}


class _SteadyStateEnded(Exception):  # noqa: N818, nothing is wrong
    """Ends a build."""


class Processor:
    """Seconds that the processes under this one have used, by kind; ``with`` watches them."""

    def __init__(self) -> None:
        self._used: dict[tuple[int, str], float] = {}
        self._kinds: dict[int, str] = {}
        self._history: list[tuple[float, dict[str, float]]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Processor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def total(self) -> dict[str, float]:
        """Used so far."""
        self._look()
        return self._history[-1][1]

    def between(self, start: float, end: float) -> dict[str, float]:
        """What was used between two moments of the monotonic clock, give or take a look."""
        before, after = self._at(start), self._at(end)
        return {kind: seconds - before.get(kind, 0.0) for kind, seconds in after.items()}

    def _at(self, moment: float) -> dict[str, float]:
        return min(self._history, key=lambda look: abs(look[0] - moment))[1]

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_S):
            self._look()

    def _look(self) -> None:
        import psutil

        this = psutil.Process()
        self._note(this, "driver")
        for process in this.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                name = " ".join(process.cmdline()[:2])
                self._note(process, next((k for k, marks in KINDS.items() if _is(k, name)), None))
        total: dict[str, float] = defaultdict(float)
        for (_, kind), seconds in self._used.items():
            total[kind] += seconds
        self._history.append((time.monotonic(), dict(total)))

    def _note(self, process: Any, kind: str | None) -> None:
        if kind:
            self._kinds[process.pid] = kind
        kind = self._kinds.get(process.pid, "other")
        times = process.cpu_times()
        seconds = times.user + times.system
        if kind == "operators":
            main = next(t for t in process.threads() if t.id == process.pid)
            operators = main.user_time + main.system_time
            self._used[process.pid, "clients"] = seconds - operators
            seconds = operators
        self._used[process.pid, kind] = seconds


def _is(kind: str, name: str) -> bool:
    every = all if kind == "embedder" else any
    return every(mark in name for mark in KINDS[kind])


def embedder_in(folder: Path) -> str:
    """A model whose embeddings are means of random vectors, one for each token, of 384 numbers."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding

    from ray_si.engines.bundled import resolve

    tokenizer = SentenceTransformer(resolve("all-minilm-l6-v2")).tokenizer
    tokenizer = tokenizer.backend_tokenizer
    tokenizer.no_padding()
    rng = torch.Generator().manual_seed(0)
    vectors = torch.randn(tokenizer.get_vocab_size(), 384, generator=rng)
    SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_weights=vectors)], device="cpu"
    ).save(str(folder))
    return str(folder)


def measure(case: Case) -> dict[str, Any]:
    """Build once, here."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        return _measure(case, Path(folder))


def _measure(case: Case, folder: Path) -> dict[str, Any]:
    import ray_si
    from ray_si.errors import NoProgressError

    # public names alone, so that an older checkout has them, too
    build: Any = getattr(ray_si, "build_dataset", None) or ray_si.build
    slots, requests = case.replicas * case.slots, case.prompts * case.rounds
    embedder = {"embedder": {"model": embedder_in(folder / "embedder")}} if case.cosine else {}
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
            **embedder,
            "dedup": {} if case.cosine else {"cosine": None},
            "bootstrap": {
                "prompts_per_round": case.prompts,
                "block_size": 64,
                "lookahead": case.lookahead,
                "stall_rounds": case.rounds,  # and every round counts as stalled
                "stall_acceptance": 0.9999,
            },
        }
    )
    seen: list[tuple[float, int, int]] = []  # moment, slots in use, requests answered
    commits: list[float] = []
    with Processor() as processor:

        def listen(progress: Any) -> None:
            answered = progress.usage.requests.total()
            if progress.note.startswith("round "):
                commits.append(time.monotonic())
            elif answered and not commits[case.rounds - 1 :]:
                seen.append((time.monotonic(), progress.usage.running, answered))
            if case.cosine and answered > requests - 1.2 * slots:
                raise _SteadyStateEnded

        with suppress(NoProgressError, _SteadyStateEnded):
            build(config, f"{folder}/run", listen=listen)
    # steady: from when all slots have been filled once until the last requests run out
    began = seen[0][0]
    first = next((at for at, n, _ in seen if n >= 0.98 * slots), began + 2)
    last = next((at for at, _, done in seen if done > requests - 1.5 * slots), seen[-1][0])
    steady = [(at, min(n, slots), done) for at, n, done in seen if first <= at <= last]
    counted = steady[-1][2] - steady[0][2]
    spent = processor.between(first, last)
    return {
        "seconds": round(seen[-1][0] - began, 1),
        "steady_seconds": round(last - first, 1),
        "requests_per_second": round(counted / (last - first), 1),
        "busy": round(sum(n for _, n, _ in steady) / len(steady) / slots, 3),
        "cores_busy": round(sum(spent.values()) / (last - first), 2),
        "cpu_ms_a_request": {
            kind: round(1000 * seconds / counted, 3)
            for kind, seconds in sorted({**spent, "all": sum(spent.values())}.items())
        },
        "load": [[round(at - began, 1), running] for at, running, _ in seen],
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


def commit_of(checkout: Path) -> str:
    """Which commit another checkout is of."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


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
            report["before"] = commit_of(options.against)
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
