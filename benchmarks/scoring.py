"""What scoring costs beside generating the same rows, on the bundled model.

    python benchmarks/scoring.py [--write] [--rows 96]
    python benchmarks/scoring.py --gpu [--write] [--rows 2048]     on a card, by the clock

One engine in one process writes the outputs of so many instructions, as a build in steps asks for
them (greedy, at most 96 tokens), and the same engine then scores these rows by each score that asks
a model. Seconds are of the processor, all threads together, after a batch to warm up; on a card
they are the clock's.
``share_of_generating`` is a score's over that of writing the outputs alone: the instructions and
inputs, which cost more, are not in it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from ray_si.config.scores import scores_of
from ray_si.engines import registry as engines
from ray_si.engines.base import Completion, Request, SamplingParams
from ray_si.run.seeds import load_seeds
from ray_si.scores import registry

MODEL = "smollm2-135m-instruct"
SAMPLING = SamplingParams(max_tokens=96, temperature=0.0)
WARM_UP = 32
RESULT = Path(__file__).with_suffix(".json")


def rows_of(
    engine: Any, count: int, clock: Callable[[], float]
) -> tuple[list[dict[str, str]], float, int]:
    """Rows written by the engine, the seconds that took, and tokens written."""
    seeds = [seed for seed in load_seeds("bundled")[0] if not seed.instances[0].input]
    instructions = [
        f"{seeds[k % len(seeds)].instruction} ({k // len(seeds) + 1})" for k in range(count)
    ]

    async def write(instruction: str, number: int) -> Completion:
        turns = [{"role": "user", "content": instruction}]
        done: Completion = await engine.generate(Request(turns, SAMPLING, number, "answer"))
        return done

    async def write_all(texts: list[str]) -> list[Completion]:
        return await asyncio.gather(*(write(text, k) for k, text in enumerate(texts)))

    asyncio.run(write_all(instructions[:WARM_UP]))
    began = clock()
    written = asyncio.run(write_all(instructions))
    seconds = clock() - began
    rows = [
        {"id": str(k), "instruction": text, "input": "", "output": done.text}
        for k, (text, done) in enumerate(zip(instructions, written, strict=True))
    ]
    return rows, seconds, sum(done.completion_tokens for done in written)


def seconds_of(
    engine: Any, kind: str, rows: list[dict[str, str]], clock: Callable[[], float]
) -> float:
    """Seconds of scoring the rows."""
    scorer = registry.create(scores_of({kind: {"generator": {"model": MODEL}}})[kind])
    assert registry.asks_a_model(scorer)

    async def score_all(some: list[dict[str, str]]) -> None:
        await asyncio.gather(*(scorer.score(row, engine.generate) for row in some))

    asyncio.run(score_all(rows[:WARM_UP]))
    began = clock()
    asyncio.run(score_all(rows))
    return clock() - began


def measured(rows: int, max_batch: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Seconds by ``clock`` of writing so many rows, and of each score of them."""
    engine = engines.create("transformers", MODEL, {"max_batch": max_batch, "threads": 2})
    written, generating, tokens = rows_of(engine, rows, clock)
    scores = {kind: seconds_of(engine, kind, written, clock) for kind in ("judge", "ifd")}
    return {
        "rows": rows,
        "tokens_written": tokens,
        "seconds_generating": round(generating, 1),
        "scores": {
            kind: {
                "seconds": round(seconds, 1),
                "share_of_generating": round(seconds / generating, 3),
            }
            for kind, seconds in scores.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--gpu", action="store_true", help="measure on a card")
    parser.add_argument("--write", action="store_true", help=f"update benchmarks/{RESULT.name}")
    options = parser.parse_args()
    report = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if options.gpu:
        report["gpu"] = {
            "machine": {"card": torch.cuda.get_device_name(), **versions},
            **measured(options.rows, 256, time.perf_counter),
        }
    else:
        report |= {
            "machine": {"cores": len(os.sched_getaffinity(0)), **versions},
            "load_average_before": round(os.getloadavg()[0], 1),
            **measured(options.rows, 32, time.process_time),
        }
    text = json.dumps(report, indent=1) + "\n"
    print(text)
    if options.write:
        RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
