"""What a round's end takes after its last answer: the gate and the tables, screened before and not.

    OMP_NUM_THREADS=1 python benchmarks/round_end.py --write          some minutes, 8 GiB
    OMP_NUM_THREADS=1 python benchmarks/round_end.py --pool 20000     less of both

A pool of made-up instructions (corpus.py) with random embeddings of 384 numbers, of the spectrum of
real ones (embeddings.py); then two rounds of candidates, whose completions come in blocks, parsed
as a task of Ray Data parses them. The prompts of the second have not seen what the first accepted,
as with a lookahead of one, and its blocks come in before and after the first is decided and
written, by turns with the first's. Screened: every block is asked of the pool, and of the other
blocks, as it lands (`Deduplicator.screen`), one after the other here, and the round's end is
`joined` and `decide_round` with what that found. Not screened: `decide_round` asks for all of it,
embeddings included, which a model would take far longer for. Making the bytes of the round's tables
is told apart ("writing"); storing them is in nothing. Decisions on the second round are compared,
and its end is what is told. Seconds are those of a clock, and of all cores ("cpu"), in which BLAS
counts the threads that wait for one another: give it one. "Searching" is what `screen` took for
both rounds, embeddings apart, while they landed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import pyarrow as pa
from embeddings import DIMENSION, MEAN_COSINE, variances

from ray_si.config.file import parse_config
from ray_si.dedup import Deduplicator
from ray_si.dedup.layers import Screened, joined
from ray_si.pipeline.decisions import (
    RoundDecisions,
    Usable,
    decide_round,
    passed,
    read_candidates,
    texts_of,
    with_candidates,
)
from ray_si.pipeline.gate import OpenGate
from ray_si.run.schemas import RAW_BLOCK
from ray_si.storage.tables import to_parquet

RESULT = Path(__file__).with_suffix(".json")
A_COMPLETION, A_BLOCK = 7, 64
DEVIATIONS = np.sqrt(variances()).astype(np.float32)
CONFIG = parse_config({"generator": {"engine": "replay", "model": None}})


def embeddings(texts: Sequence[str]) -> np.ndarray:
    """One for each text, a function of it alone; some 40,000 a second."""
    seeds = (zlib.crc32(text.encode()) for text in texts)
    rows = [np.random.default_rng(seed).standard_normal(DIMENSION, np.float32) for seed in seeds]
    made = np.stack(rows) * DEVIATIONS
    made[:, 0] += np.sqrt(MEAN_COSINE)
    return made


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


class Round:
    """Its blocks as they land; ``number`` is its own, ``seen`` the pool of its prompts."""

    def __init__(self, number: int, texts: Sequence[str], seen: int) -> None:
        self.number, self.seen = number, seen
        size = A_BLOCK * A_COMPLETION
        self.blocks = [
            with_candidates(CONFIG, block(k, texts[start : start + size]))
            for k, start in enumerate(range(0, len(texts), size))
        ]
        self.rows: list[Any] = []
        self.found: list[Usable] = []
        self.screened: list[Screened] = []
        self.searching = self.searching_cpu = 0.0

    def land(self, gate: OpenGate, count: int, *, screens: bool) -> None:
        """So many more blocks are there."""
        for table in self.blocks[:count]:
            rows, candidates = read_candidates(table)
            self.rows += rows
            self.found += candidates
            if screens:
                texts = texts_of(passed(candidates))
                given = gate.embed(texts)
                began, cpu = time.perf_counter(), time.process_time()
                screened = gate.gate.screen(texts, self.seen, given, self.number)
                self.searching += time.perf_counter() - began
                self.searching_cpu += time.process_time() - cpu
                self.screened.append(replace(screened, embeddings=given))
        del self.blocks[:count]

    def decide(self, gate: OpenGate) -> RoundDecisions:
        """The round's end."""
        known = joined(self.screened) if self.screened else None
        given = None if known else gate.embed(texts_of(passed(self.found)))
        return decide_round(
            CONFIG,
            self.number,
            self.rows,
            len(self.found),
            lambda usable: gate.filter(texts_of(usable), given, known),
            self.found,
            known.embeddings if known else given,
        )


def write(decided: RoundDecisions) -> None:
    """Make the bytes of its tables."""
    for table in (decided.accepted, decided.rejected, decided.embeddings):
        if table is not None:
            to_parquet(table)


def measure(pool: int, candidates: int, cosine: float | None) -> dict[str, Any]:
    """Seconds of a round's end, both ways."""
    texts = list(corpus.texts(pool + 2 * candidates))
    seconds: dict[str, Any] = {}
    decided = {}
    for way in ("screened", "not_screened"):
        screens = way == "screened"
        behind = Deduplicator(0.7, cosine, layers=1 if screens else None)
        gate = OpenGate(behind, embeddings if cosine else None, None)
        began = time.perf_counter()
        for start in range(0, pool, 20_000):
            part = texts[start : min(pool, start + 20_000)]
            behind.add(part, gate.embed(part))
            behind.settle()
        seconds[f"filling_{way}"] = time.perf_counter() - began
        first, second = (
            Round(number, texts[start : start + candidates], pool)
            for number, start in enumerate(range(pool, len(texts), candidates))
        )
        began, half = time.perf_counter(), len(second.blocks) // 2
        for _ in range(half):
            first.land(gate, 1, screens=screens)
            second.land(gate, 1, screens=screens)
        first.land(gate, len(first.blocks), screens=screens)
        seconds[f"landing_{way}"] = time.perf_counter() - began
        write(first.decide(gate))
        began = time.perf_counter()
        second.land(gate, len(second.blocks), screens=screens)
        seconds[f"landing_{way}"] += time.perf_counter() - began
        if screens:
            seconds["searching"] = first.searching + second.searching
            seconds["searching_cpu"] = first.searching_cpu + second.searching_cpu
        began, cpu = time.perf_counter(), time.process_time()
        result = second.decide(gate)
        seconds[f"end_{way}"] = time.perf_counter() - began
        seconds[f"end_{way}_cpu"] = time.process_time() - cpu
        began = time.perf_counter()
        write(result)
        seconds[f"writing_{way}"] = time.perf_counter() - began
        decided[way] = result
    for one, other in zip(*decided.values(), strict=True):
        assert one == other, "decisions differ"
    return {
        "pool": pool,
        "candidates": candidates,
        "accepted": decided["screened"].accepted.num_rows,
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
