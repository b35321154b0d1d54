"""How often approximate FAISS indexes decide as the exact one does at the cosine gate.

    python benchmarks/embedding_recall.py [--texts 20000] [--threshold 0.9] [--write]

Texts are the bundled seed instructions' clauses recombined, in families of four: an opening with
two closings of other seeds, the same with the first closing alone, with a third one, and with about
a quarter of the words left out. So many nearest pairs lie near the threshold; how many is reported.
Three quarters, drawn at random, are the pool; the rest are the queries.

For each factory string, and search parameters where it has any:

- recall: of the queries that the exact index ("Flat") refuses, because their nearest text in the
  pool has a cosine above the threshold, the share that this one refuses too
- precision: of the queries that it refuses, the share that "Flat" does (quantised vectors can
  give a cosine that is too high)
- same nearest: the share of all queries with the same nearest text
- build and search seconds, all cores, training included; bytes a vector when serialised
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from rich.console import Console
from rich.table import Table

from ray_si.engines.registry import embedder
from ray_si.run.seeds import load_seeds

MODEL = "all-minilm-l6-v2"
KINDS = (
    ("Flat", ""),
    ("SQfp16", ""),
    ("HNSW32", "efSearch=16"),
    ("HNSW32", "efSearch=64"),
    ("IVF1024,Flat", "nprobe=16"),
    ("IVF1024,SQ8", "nprobe=16"),
)
NEAR = 0.05
"""Cosines this close to the threshold count as near."""


def instructions(n: int, seed: int = 0) -> list[str]:
    """``n`` distinct recombined instructions, in random order."""
    tasks, _ = load_seeds("bundled")
    clauses = [re.split(r"(?<=[,.:;?!])\s+", task.instruction) for task in tasks]
    openings = [parts[0] for parts in clauses]
    closings = [parts[-1] for parts in clauses]
    rng = np.random.default_rng(seed)

    def families() -> Iterator[str]:
        while True:
            opening = openings[rng.integers(len(openings))]
            first, second, third = rng.choice(closings, 3, replace=False)
            whole = f"{opening} {first} {second}"
            words = whole.split()
            yield whole
            yield f"{opening} {first}"
            yield f"{whole} {third}"
            yield " ".join(itertools.compress(words, rng.random(len(words)) > 0.25))

    made: dict[str, None] = {}
    for text in families():
        made[text] = None
        if len(made) == n:
            break
    texts = list(made)
    return [texts[i] for i in rng.permutation(n)]


def measure(
    kind: str, parameters: str, pool: np.ndarray, queries: np.ndarray
) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Times and size of one index, and the ids and cosines it finds."""
    index = faiss.index_factory(pool.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
    began = time.perf_counter()
    index.train(pool)
    index.add(pool)
    built = time.perf_counter()
    if parameters:
        faiss.ParameterSpace().set_index_parameters(index, parameters)
    cosines, ids = index.search(queries, 1)
    numbers = {
        "build_seconds": round(built - began, 3),
        "search_seconds": round(time.perf_counter() - built, 3),
        "bytes_per_vector": round(faiss.serialize_index(index).nbytes / len(pool)),
    }
    return numbers, ids[:, 0], cosines[:, 0]


def compare(pool: np.ndarray, queries: np.ndarray, threshold: float) -> dict[str, Any]:
    """Every kind against the first, which is exact."""
    rows: dict[str, Any] = {}
    nearest = None
    for kind, parameters in KINDS:
        numbers, ids, cosines = measure(kind, parameters, pool, queries)
        refused = cosines > threshold
        if nearest is None:
            nearest, exact_ids, should = cosines, ids, refused
        shared = int((refused & should).sum())
        rows[f"{kind} {parameters}".strip()] = {
            "recall": round(shared / max(int(should.sum()), 1), 4),
            "precision": round(shared / max(int(refused.sum()), 1), 4),
            "same_nearest": round(float((ids == exact_ids).mean()), 4),
            **numbers,
        }
    return {
        "refused_by_flat": round(float(should.mean()), 4),
        "nearest_near_threshold": round(float(np.mean(abs(nearest - threshold) < NEAR)), 4),
        "kinds": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--threshold", type=float, default=0.9)
    parser.add_argument("--write", action="store_true", help="write embedding_recall.json")
    options = parser.parse_args()
    vectors = embedder(MODEL).encode(instructions(options.texts))
    pool, queries = np.split(vectors, [3 * len(vectors) // 4])
    report = {
        "model": MODEL,
        "dimension": vectors.shape[1],
        "threshold": options.threshold,
        "pool": len(pool),
        "queries": len(queries),
        "faiss": faiss.__version__,
        "threads": faiss.omp_get_max_threads(),
        **compare(pool, queries, options.threshold),
    }
    kinds = report["kinds"]
    table = Table("", *next(iter(kinds.values())), title=f"against Flat at {options.threshold}")
    for name, row in kinds.items():
        table.add_row(name, *map(str, row.values()))
    Console().print(table, {key: value for key, value in report.items() if key != "kinds"})
    if options.write:
        text = json.dumps(report, indent=1) + "\n"
        Path(__file__).with_suffix(".json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
