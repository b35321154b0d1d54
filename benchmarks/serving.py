"""How busy the replicas are: the whole pipeline on engines that behave like GPUs, and real ones.

    python benchmarks/serving.py                    all parts that this machine can run; print
    python benchmarks/serving.py --write            also write serving.json and serving.svg
    python benchmarks/serving.py --only busy        one part: busy, rounds, calls, cpu, gpu
    python benchmarks/serving.py --only gpu --device cpu --shape tiny     that gpu runs, no more

busy    `replay` replicas of 64 slots, log-normal latency with a mean of 1 s: sum of the latencies
        over slots and wall-clock, in steady state and with ramp-up and tail, gate included. How
        near a tail can come to the ideal depends on the last latencies drawn, so there are several
        draws, and the same requests scheduled first come, first served, with nothing lost, stand
        beside each.
rounds  the cost of one more round, its 50 requests included, which take no time.
calls   latencies of 100 ms, where calls are the limit: requests a second of the pipeline, of a bare
        loop of one request a call over a Serve handle, and of the pipeline's client without the
        rest, on the same replicas.
cpu     tokens/s of the transformers engine and of a plain float32 ``generate`` at batch 8 on the
        same prompts with the bundled model, prefill included, and the memory of both; the engine
        also as replicas of one thread, one for each core.
gpu     tokens/s of random-weight models of Llama's architecture, whose texts end as unevenly as a
        model's: a plain bfloat16 ``generate``, the transformers engine with static and continuous
        batching and vLLM where it is installed, each by itself, and the whole pipeline around the
        transformers engine. Skipped where there is no GPU; it has not been run on one yet.

The last two are in benchmarks/engine_speed.py.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import heapq
import json
import math
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import engine_speed

from ray_si.config_file import parse_config

HERE = Path(__file__).parent
SIGMA = 0.8
REPLICAS, SLOTS = 4, 64
DRAWS = range(5)
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
    """One build's requests, their latencies, and what the replicas said of themselves."""

    def __init__(self, config: dict[str, Any]) -> None:
        from ray_si.distributed.builder import build
        from ray_si.distributed.prompting import Prompting
        from ray_si.engines.replay import latency
        from ray_si.errors import NoProgressError

        settings = parse_config(config)
        replay = settings.generator.replay
        self.latencies: list[float] = []
        self.commits: list[float] = []
        self.load: list[tuple[float, int]] = []
        self.began = 0.0
        original = Prompting.rows

        def noted(prompting: Any, round_: int) -> Any:
            self.began = self.began or time.monotonic()
            rows = original(prompting, round_)
            if round_ < settings.bootstrap.stall_rounds:
                for row in rows:
                    prompt = json.loads(row["prompt"])
                    took = latency(prompt, row["seed"], replay.latency_s, replay.latency_sigma)
                    self.latencies.append(took)
            return rows

        def listen(progress: Any) -> None:
            now = time.monotonic()
            if progress.note.startswith("round"):
                self.commits.append(now - self.began)
            elif self.began and progress.usage.replicas:
                self.load.append((now - self.began, progress.usage.running))
                self.finished = progress.usage.requests.total()

        Prompting.rows = noted  # type: ignore[method-assign]
        try:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                build(settings, f"{folder}/run", listen=listen)
        except NoProgressError:
            pass
        finally:
            Prompting.rows = original  # type: ignore[method-assign]
        self.seconds = self.commits[settings.bootstrap.stall_rounds - 1]
        self.latencies = self.latencies[
            : settings.bootstrap.stall_rounds * settings.bootstrap.prompts_per_round
        ]


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
        steady = [n for at, n in measured.load if 3 < at < 0.8 * measured.seconds]
        draws.append(
            {
                "seed": seed,
                "seconds": round(measured.seconds, 2),
                "ideal_seconds": round(ideal, 2),
                "first_come_seconds": round(first_come, 2),
                "longest_seconds": round(max(measured.latencies), 1),
                "of_ideal": round(ideal / measured.seconds, 3),
                "first_come_of_ideal": round(ideal / first_come, 3),
                "of_first_come": round(first_come / measured.seconds, 3),
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
    from ray_si.distributed.client import Client
    from ray_si.distributed.connect import connect
    from ray_si.distributed.serving import Serving
    from ray_si.engines.base import Request, SamplingParams
    from ray_si.engines.replay import ReplayEngine

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
        with Serving(config, "calls", embedder=False) as serving:
            (app,) = serving.generators.slots
            by_client = asyncio.run(client())
        serve.run(Bare.bind(), name="bare", route_prefix=None)
        by_handle = asyncio.run(bare())
        serve.delete("bare")
        pipeline = Measured(values(0.1, count, rounds, lookahead=2))
        assert ray.is_initialized()
    rate = count / pipeline.seconds
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


PARTS = {"busy": busy, "rounds": rounds, "calls": calls, "cpu": engine_speed.cpu}


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
