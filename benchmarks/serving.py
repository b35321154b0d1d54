"""How busy the replicas are: the whole pipeline on engines that behave like GPUs, and real ones.

    python benchmarks/serving.py                    all parts that this machine can run; print
    python benchmarks/serving.py --write            also write serving.json and serving.svg
    python benchmarks/serving.py --only busy        one part: busy, whole, rounds, calls, cpu, gpu
    python benchmarks/serving.py --only gpu --device cpu --shape tiny     that gpu runs, no more

busy    `replay` replicas of 64 slots, log-normal latency with a mean of 1 s: sum of the latencies
        over slots and wall-clock, in steady state and with ramp-up and tail, gate included. How
        near a tail can come to the ideal depends on the last latencies drawn, so there are several
        draws, and the same requests scheduled first come, first served, with nothing lost, stand
        beside each.
whole   the same replicas through whole builds, to the last instance: with instances written while
        the bootstrap's last rounds are awaited, as a build does it, and all of them after it.
rounds  the cost of one more round, its 50 requests included, which take no time.
calls   latencies of 100 ms, where calls are the limit: requests a second of the pipeline, of a bare
        loop of one request a call over a Serve handle, and of the pipeline's client without the
        rest, on the same replicas.
cpu     tokens/s of the transformers engine and of a plain float32 ``generate`` at batch 8 on the
        same prompts with the bundled model, prefill included, and the memory of both; the engine
        also as replicas of one thread, one for each core.
gpu     tokens/s of random-weight models of Llama's architecture, whose texts end as unevenly as a
        model's: a plain bfloat16 ``generate``, the transformers engine and vLLM where it is
        installed, each by itself, and the whole pipeline around the transformers engine. Skipped
        where there is no GPU; it has not been run on one yet.

The last two are in benchmarks/engine_speed.py.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import heapq
import json
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import engine_speed

from ray_si.config.file import parse_config

HERE = Path(__file__).parent
SIGMA = 0.8
REPLICAS, SLOTS = 4, 64
DRAWS, WHOLE_DRAWS = range(5), range(3)
"""Seeds of a run, each with latencies of its own."""


def median(mean_s: float) -> float:
    """Of a log-normal distribution with this mean and the deviation `SIGMA`."""
    return mean_s * math.exp(-(SIGMA**2) / 2)


def values(mean_s: float, prompts: int, rounds: int, **bootstrap: Any) -> dict[str, Any]:
    """A build that ends after so many rounds, with the ROUGE-L gate."""
    return {
        "target_instructions": 10**9,
        "generator": {
            "engine": "replay",
            "model": None,
            "replicas": REPLICAS,
            "max_batch": SLOTS,
            "cpus": 0,
            "replay": {"latency_s": median(mean_s), "latency_sigma": SIGMA if mean_s else 0},
        },
        "dedup": {"cosine": None},
        "bootstrap": {
            "prompts_per_round": prompts // rounds,
            "block_size": 50,
            "stall_rounds": rounds,  # and every round counts as stalled
            "stall_acceptance": 0.9999,
            **bootstrap,
        },
    }


class Measured:
    """One build's requests, their latencies, and what the replicas said of themselves.

    ``commits`` are when each round was committed, ``ended`` when the last instance was written, in
    seconds since the first round was asked for; ``latencies`` those of the committed rounds in
    order, ``later`` those of classification and instances.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        from ray_si.build.builder import build
        from ray_si.engines.replay.engine import latency
        from ray_si.errors import NoProgressError
        from ray_si.pipeline.prompting import Prompting, rendered
        from ray_si.run.run import Run

        settings = parse_config(config)
        replay = settings.generator.replay
        asked: dict[int, list[float]] = {}
        self.commits: list[float] = []
        self.load: list[tuple[float, int]] = []
        self.began = self.ended = 0.0
        original = Prompting.drawn

        def took(prompt: Any, seed: int) -> float:
            return latency(prompt, seed, replay.latency_s, replay.latency_sigma)

        def noted(prompting: Any, round_: int) -> Any:
            self.began = self.began or time.monotonic()
            rows = original(prompting, round_)
            asked[round_] = [
                took(json.loads(row["prompt"]), row["seed"]) for row in rendered(settings, rows)
            ]
            return rows

        def listen(progress: Any) -> None:
            now = time.monotonic() - self.began
            if progress.note.startswith("round "):
                self.commits.append(now)
            elif self.began and progress.usage.replicas and not self.ended:
                self.load.append((now, progress.usage.running))
            if progress.phase == "instances" and progress.done == progress.total:
                self.ended = self.ended or now

        Prompting.drawn = noted  # type: ignore[method-assign]
        try:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                with contextlib.suppress(NoProgressError):
                    build(settings, f"{folder}/run", listen=listen)
                run = Run.open(f"{folder}/run")
                self.later = [took(*each) for each in later_requests(settings, run)]
        finally:
            Prompting.drawn = original  # type: ignore[method-assign]
        self.latencies = [each for round_ in range(len(self.commits)) for each in asked[round_]]


def later_requests(config: Any, run: Any) -> Iterator[tuple[Any, int]]:
    """Prompts and seeds of classification and instances, of a run that has come so far."""
    from ray_si.pipeline.prompting import classification_request, instance_request
    from ray_si.run.instance_parts import read_blocks

    for block in read_blocks(run) if run.instances() else ():
        for row in block.select(["instruction", "is_classification", "seed"]).to_pylist():
            seed = row["seed"]
            yield classification_request(config, row["instruction"], seed).prompt, seed
            found = instance_request(config, row["instruction"], row["is_classification"], seed)
            yield found.prompt, seed


def scheduled(latencies: list[float], slots: int) -> float:
    """Seconds for these requests, first come, first served, with nothing lost between them."""
    free = [0.0] * slots
    for took in latencies:
        heapq.heapreplace(free, free[0] + took)
    return max(free)


def busy() -> dict[str, Any]:
    """15,000 requests of a mean of 1 s on 256 slots, with several draws of their latencies."""
    rounds, slots = 6, REPLICAS * SLOTS
    draws = []
    for seed in DRAWS:
        config = values(1.0, 15_000, rounds, lookahead=2) | {"seed": seed}
        measured = Measured(config)
        ideal = sum(measured.latencies) / slots
        first_come = scheduled(measured.latencies, slots)
        # steady: from when all slots have been filled once until the last requests run out
        steady = [n for at, n in measured.load if 3 < at < 0.8 * measured.commits[-1]]
        draws.append(
            {
                "seed": seed,
                "seconds": round(measured.commits[-1], 2),
                "ideal_seconds": round(ideal, 2),
                "first_come_seconds": round(first_come, 2),
                "longest_seconds": round(max(measured.latencies), 1),
                "of_ideal": round(ideal / measured.commits[-1], 3),
                "first_come_of_ideal": round(ideal / first_come, 3),
                "of_first_come": round(first_come / measured.commits[-1], 3),
                "steady_state": round(sum(min(n, slots) for n in steady) / len(steady) / slots, 3),
            }
        )
    shares = ("of_ideal", "first_come_of_ideal", "of_first_come", "steady_state")
    return {
        "requests": len(measured.latencies),
        "rounds": rounds,
        "slots": slots,
        "median": {share: statistics.median(draw[share] for draw in draws) for share in shares},
        "draws": draws,
        "load": [[round(at, 1), running] for at, running in measured.load],
    }


def whole() -> dict[str, Any]:
    """Builds of 16,000 requests, 6,000 of them of the bootstrap, filled and not."""
    from ray_si.build.instances import InstancePhase

    slots, begin = REPLICAS * SLOTS, InstancePhase.begin
    draws = []
    try:
        for seed in WHOLE_DRAWS:
            config = values(1.0, 6_000, 6, lookahead=2, stall_acceptance=0, min_words=18) | {
                "target_instructions": 5_000,
                "seed": seed,
                "dedup": {"rouge": 1.0, "cosine": None},  # of the script's texts too few pass
            }
            found: dict[str, Any] = {"seed": seed}
            for name, way in (("one_after_the_other", lambda self: None), ("filled", begin)):
                InstancePhase.begin = way  # type: ignore[method-assign]
                measured = Measured(config)
                ideal = (sum(measured.latencies) + sum(measured.later)) / slots
                found |= {
                    "rounds": len(measured.commits),
                    "requests": len(measured.latencies) + len(measured.later),
                    "ideal_seconds": round(ideal, 2),
                    name: {
                        "bootstrap_seconds": round(measured.commits[-1], 2),
                        "seconds": round(measured.ended, 2),
                        "of_ideal": round(ideal / measured.ended, 3),
                    },
                }
            draws.append(found)
    finally:
        InstancePhase.begin = begin  # type: ignore[method-assign]
    ways = ("one_after_the_other", "filled")
    return {
        "median_of_ideal": {
            way: statistics.median(draw[way]["of_ideal"] for draw in draws) for way in ways
        },
        "draws": draws,
    }


def rounds() -> dict[str, Any]:
    """Rounds of 50 requests that take no time, one after another."""
    count, skipped = 24, 4  # the first start worker processes
    measured = Measured(values(0.0, 50 * count, count, lookahead=0))
    first, last = measured.commits[skipped - 1], measured.commits[count - 1]
    return {
        "rounds": count - skipped,
        "seconds_a_round": round((last - first) / (count - skipped), 3),
    }


def calls() -> dict[str, Any]:
    """Requests a second at 100 ms."""
    import ray
    from ray import serve

    from ray_si.config import RunConfig
    from ray_si.engines.base import Request, SamplingParams
    from ray_si.engines.replay.engine import ReplayEngine
    from ray_si.serving.applications import Serving
    from ray_si.serving.client import Client
    from ray_si.serving.connect import connect

    count, rounds = 12_000, 4
    config: RunConfig = parse_config(values(0.1, count, rounds, lookahead=2))
    requests = [
        Request(f"{i}. " + "word " * 200, SamplingParams(), seed=i) for i in range(count // 2)
    ]

    options = config.generator.engine_options()

    @serve.deployment(
        num_replicas=REPLICAS, max_ongoing_requests=1 << 14, ray_actor_options={"num_cpus": 0}
    )
    class Bare:
        def __init__(self) -> None:
            self._engine = ReplayEngine(**options)

        async def generate(self, request: Request) -> Any:
            return await self._engine.generate(request)

    async def bare() -> float:
        handle = serve.get_app_handle("bare")
        room = asyncio.Semaphore(round(1.5 * REPLICAS * SLOTS))

        async def one(request: Request) -> None:
            async with room:
                await handle.generate.remote(request)

        await handle.generate.remote(requests[0])
        began = time.perf_counter()
        await asyncio.gather(*map(one, requests))
        return len(requests) / (time.perf_counter() - began)

    async def client() -> float:
        asking = Client(app, round(1.5 * REPLICAS * SLOTS), (0,))
        began = time.perf_counter()
        async with asking.watched():
            await asyncio.gather(*map(asking.ask, requests))
        return len(requests) / (time.perf_counter() - began)

    with connect(None):
        with Serving(config, "calls", 1, embedder=False) as serving:
            (app,) = serving.generators.slots
            by_client = asyncio.run(client())
        serve.run(Bare.bind(), name="bare", route_prefix=None)  # type: ignore[attr-defined]
        by_handle = asyncio.run(bare())
        serve.delete("bare")
        pipeline = Measured(values(0.1, count, rounds, lookahead=2))
        assert ray.is_initialized()
    rate = count / pipeline.commits[-1]
    return {
        "requests": count,
        "handle_per_second": round(by_handle),
        "client_per_second": round(by_client),
        "pipeline_per_second": round(rate),
        "pipeline_of_handle": round(rate / by_handle, 2),
    }


def plot(result: dict[str, Any], path: Path) -> None:
    """Busy slots over time, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "ray_si"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 3))
    at, running = zip(*result["load"], strict=True)
    axes.fill_between(at, [min(n, result["slots"]) for n in running], step="post", alpha=0.6)
    axes.axhline(result["slots"], color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel="seconds", ylabel="busy slots", xlim=(0, None), ylim=(0, None))
    axes.set_title(f"{result['requests']} requests in {result['rounds']} rounds", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


PARTS = {"busy": busy, "whole": whole, "rounds": rounds, "calls": calls, "cpu": engine_speed.cpu}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", choices=[*PARTS, "gpu"], action="append", help="a part; repeat for more"
    )
    parser.add_argument("--write", action="store_true", help="update serving.json and serving.svg")
    parser.add_argument(
        "--shape", choices=engine_speed.SHAPES, action="append", help="of gpu; default: 1b and 8b"
    )
    parser.add_argument("--device", default="cuda", help="of gpu; cpu tries it out, unwritten")
    arguments = parser.parse_args()
    path = HERE / "serving.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    gpu = functools.partial(engine_speed.gpu, arguments.shape or ["1b", "8b"], arguments.device)
    parts = PARTS | {"gpu": gpu}
    for name in arguments.only or parts:
        found = parts[name]()
        if not found:
            print(f"{name}: skipped, there is no GPU here (torch.cuda.is_available() is false)")
            continue
        if found.get("device") == "cpu":
            print(name, json.dumps(found, indent=2))
            continue
        report[name] = found
        print(name, json.dumps({k: v for k, v in report[name].items() if k != "load"}, indent=2))
    report["machine"] = machine
    if arguments.write:
        path.write_text(json.dumps(report, indent=2) + "\n")
        if "busy" in report:
            plot(report["busy"], HERE / "serving.svg")


if __name__ == "__main__":
    main()
