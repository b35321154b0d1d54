"""What drawing demonstrations from thin regions of the pool does to acceptance and diversity.

    python benchmarks/steering.py            print
    python benchmarks/steering.py --write    also write benchmarks/steering.json

The former quick start's bootstrap (quickstart_former.yaml) with the bundled model, uniform and
diverse, over the same run seeds; phase 1 alone, in this process. Acceptance is accepted of all
candidates, and of those that the filters let pass. Diversity of what is accepted: distinct-2 (Li et
al., arXiv 1510.03055), the mean cosine of pairs, and the Vendi score of the embeddings (Friedman
and Dieng, arXiv 2210.02410): the exponential of the entropy of the eigenvalues of the cosine matrix
over n, an effective number of different texts.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ray_si import load_config
from ray_si.config import RunConfig
from ray_si.dedup.tokens import tokenize
from ray_si.pipeline.decisions import all_candidates, decide_round, passed, texts_of
from ray_si.pipeline.prompting import Prompting, instruction_request
from ray_si.planning.preview import DryRun, raw_row
from ray_si.run.schemas import embeddings_of

HERE = Path(__file__).parent
TARGET = 150
SEEDS = (0, 1)
MACHINE = (2, 6)
"""Machine-written demonstrations of the 8 in a prompt."""


def settings(sampling: str, machine: int, seed: int) -> RunConfig:
    """The quick start in smaller rounds, so that most prompts have a pool to draw from."""
    return load_config(
        HERE / "quickstart_former.yaml",
        [
            f"seed={seed}",
            f"target_instructions={TARGET}",
            "bootstrap.prompts_per_round=16",
            "bootstrap.classification_share=0",
            f"bootstrap.machine_demonstrations={machine}",
            f"bootstrap.demonstration_sampling={sampling}",
        ],
    )


def measure(dry_run: DryRun, config: RunConfig) -> dict[str, Any]:
    """Rounds until enough is accepted."""
    prompting, gate = Prompting(config, dry_run.seeds), dry_run.gate()
    tables: list[pa.Table] = []
    counts: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    while (round_ := len(tables)) < 60 and prompting.accepted < TARGET:
        drawn = prompting.requests(round_)
        requests = [instruction_request(config, prompting.render(a), a.seed) for a in drawn]
        rows = [raw_row(a, done) for a, done in zip(drawn, dry_run.answer(requests), strict=True)]
        room = TARGET - prompting.accepted
        embeddings = gate.embed(texts_of(passed(all_candidates(config, rows))))
        accepted, _, manifest, _ = decide_round(
            config,
            round_,
            rows,
            room,
            lambda usable, vectors=embeddings: gate.filter(texts_of(usable), vectors),
            embeddings=embeddings,
        )
        prompting.extend(accepted)
        tables.append(accepted)
        counts.update({name: manifest[name] for name in ("candidates", "requests", "accepted")})
        refused.update(manifest["rejected"])
    table = pa.concat_tables(tables)
    decided = counts["candidates"] - refused["target_reached"]
    by_gate = refused["rouge"] + refused["cosine"]
    return {
        "accepted": counts["accepted"],
        "rounds": len(tables),
        "requests": counts["requests"],
        "acceptance": round(counts["accepted"] / decided, 4),
        "acceptance_at_the_gate": round(counts["accepted"] / (counts["accepted"] + by_gate), 4),
        "refused": dict(refused.most_common()),
        **diversity(table["instruction"].to_pylist(), embeddings_of(table)),
    }


def diversity(texts: list[str], vectors: np.ndarray | None) -> dict[str, float]:
    """Of accepted instructions, ``vectors`` normalized, shape (n, dimension)."""
    assert vectors is not None
    tokens = [tokenize(text) for text in texts]
    pairs = [pair for words in tokens for pair in pairwise(words)]
    kernel = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    values = np.linalg.eigvalsh(kernel / len(kernel))
    values = values[values > 1e-12]
    n = len(kernel)
    return {
        "distinct_2": round(len(set(pairs)) / len(pairs), 4),
        "mean_cosine": round(float((kernel.sum() - np.trace(kernel)) / (n * (n - 1))), 4),
        "vendi": round(float(np.exp(-(values * np.log(values)).sum())), 2),
    }


def main() -> None:
    """Measure every combination."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write benchmarks/steering.json")
    arguments = parser.parse_args()
    dry_run = DryRun(settings("uniform", 2, 0))
    results = []
    for machine in MACHINE:
        for sampling in ("uniform", "diverse"):
            for seed in SEEDS:
                started = time.monotonic()
                found = measure(dry_run, settings(sampling, machine, seed))
                key = {"machine_demonstrations": machine, "sampling": sampling, "seed": seed}
                results.append(key | found)
                print(f"{time.monotonic() - started:.0f} s {results[-1]}", file=sys.stderr)
    report = {
        "model": "smollm2-135m-instruct",
        "embedder": "all-minilm-l6-v2",
        "note": "one run each; seeds differ by more than samplings may",
        "runs": results,
    }
    text = json.dumps(report, indent=2) + "\n"
    print(text)
    if arguments.write:
        (HERE / "steering.json").write_text(text)


if __name__ == "__main__":
    main()
