"""What a round's end takes after its last answer: the gate and the tables, screened before and not.

    OMP_NUM_THREADS=1 python benchmarks/round_end.py --pool 20000 --candidates 20000 --write

A pool of made-up instructions (corpus.py) with random embeddings of 384 numbers; then two rounds of
candidates, whose completions come in blocks, parsed as a task of Ray Data parses them. The prompts
of the second have not seen what the first accepted, as with a lookahead of one. Screened: every
block is asked of the pool as it lands (`Deduplicator.screen`), one after the other here, and the
round's end is `decide_round` with what that found. Not screened: `decide_round` asks for all of it,
embeddings included, which a model would take far longer for. Writing the round's tables to storage
is in neither. Decisions are compared. Seconds are those of a clock, and of all cores ("cpu"), in
which BLAS counts the threads that wait for one another: give it one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import pyarrow as pa

from ray_si.config.file import parse_config
from ray_si.dedup import Deduplicator
from ray_si.dedup.layers import joined
from ray_si.pipeline.decisions import (
    Usable,
    decide_round,
    passed,
    read_candidates,
    texts_of,
    with_candidates,
)
from ray_si.run.schemas import RAW_BLOCK

RESULT = Path(__file__).with_suffix(".json")
WIDTH, A_COMPLETION, A_BLOCK = 384, 7, 64
CONFIG = parse_config({"generator": {"engine": "replay", "model": None}})


def embeddings(texts: Sequence[str]) -> np.ndarray:
    """One for each text, a function of it alone; some 40,000 a second."""
    seeds = (zlib.crc32(text.encode()) for text in texts)
    rows = [np.random.default_rng(seed).standard_normal(WIDTH, np.float32) for seed in seeds]
    return np.stack(rows)


def block(number: int, texts: Sequence[str]) -> pa.Table:
    """A raw block whose completions hold these texts."""
    rows = []
    for index in range(0, len(texts), A_COMPLETION):
        part = texts[index : index + A_COMPLETION]
        listed = "\n".join(f"{9 + i}. {text}." for i, text in enumerate(part))
        rows.append(
            {
                "block": number,
                "request_id": f"r00000-{number * A_BLOCK + index // A_COMPLETION:05d}",
                "seed": index,
                "classification_prompt": False,
                "demonstrations": [f"seed_{i}" for i in range(8)],
                "text": listed.partition(" ")[2],
                "finish_reason": "stop",
                "prompt_tokens": 400,
                "completion_tokens": 200,
                "mean_logprob": -1.0,
            }
        )
    return pa.Table.from_pylist(rows, RAW_BLOCK)


def measure(pool: int, candidates: int, cosine: float | None) -> dict[str, Any]:
    """Seconds of a round's end, both ways."""
    texts = list(corpus.texts(pool + 2 * candidates))
    seconds: dict[str, Any] = {}
    decided = {}
    for way in ("screened", "not_screened"):
        layers = 1 if way == "screened" else None
        gate = Deduplicator(0.7, cosine, embeddings, layers=layers)
        began = time.perf_counter()
        for start in range(0, pool, 20_000):
            part = texts[start : min(pool, start + 20_000)]
            gate.add(part, embeddings(part) if cosine else None)
            gate.settle()
        seen = len(gate)
        seconds[f"filling_{way}"] = time.perf_counter() - began
        for number in range(2):  # the first is the layer that the second's prompts did not see
            first = pool + number * candidates
            size = A_BLOCK * A_COMPLETION
            blocks = [
                with_candidates(CONFIG, block(k, texts[start : start + size]))
                for k, start in enumerate(range(first, first + candidates, size))
            ]
            began = time.perf_counter()
            rows, found, screened = [], [], []
            for table in blocks:
                block_rows, block_candidates = read_candidates(table)
                rows += block_rows
                found += block_candidates
                if layers:
                    screened.append(gate.screen(texts_of(passed(block_candidates)), seen))
            seconds[f"landing_{way}"] = time.perf_counter() - began
            known = joined(screened) if screened else None

            def decide(usable: Sequence[Usable], gate: Any = gate, known: Any = known) -> Any:
                return gate.filter(texts_of(usable), screened=known)

            began, cpu = time.perf_counter(), time.process_time()
            result = decide_round(CONFIG, number, rows, len(found), decide, found)
            seconds[f"end_{way}"] = time.perf_counter() - began
            seconds[f"end_{way}_cpu"] = time.process_time() - cpu
        decided[way] = (result.accepted.column("id").to_pylist(), result.rejected.to_pylist())
    assert decided["screened"] == decided["not_screened"], "decisions differ"
    return {
        "pool": pool,
        "candidates": candidates,
        "accepted": len(decided["screened"][0]),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pool", type=int, default=1_000_000)
    parser.add_argument("--candidates", type=int, default=100_000)
    parser.add_argument("--rouge-only", action="store_true", help="without the cosine gate")
    parser.add_argument("--write", action="store_true", help=f"update benchmarks/{RESULT.name}")
    options = parser.parse_args()
    report = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    name = "rouge" if options.rouge_only else "rouge and cosine"
    report[name] = measure(options.pool, options.candidates, None if options.rouge_only else 0.9)
    report["machine"] = {
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "python": platform.python_version(),
    }
    print(json.dumps(report, indent=1))
    if options.write:
        RESULT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
