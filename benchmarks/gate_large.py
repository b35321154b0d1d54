"""The exact ROUGE-L gate at ten million texts, and at a hundred million.

    python benchmarks/gate_large.py --write                  a quarter of an hour
    python benchmarks/gate_large.py --pool 100000            a look

Texts are those of gate.py. A pool that this machine's memory does not hold is searched as shards
would do it, but one after another: each part has both cores and the memory to itself, and the times
of all parts are added. That is what the same two cores would need with all of it in memory. Every
part is a fresh process; making the texts is never timed, tokenising them always is. For a sample of
the matches the score of the named text has to be what rouge_score says.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from gate import THRESHOLD
from measuring import (
    BATCH,
    batch_at,
    console,
    fresh,
    machine,
    peak_mib,
    resident,
    rounded,
    table,
    timed,
)
from rich.console import Console

POOLS = (10_000_000, 100_000_000)
AT_ONCE = 20_000_000
"""Texts of a part."""
BATCHES = 10
SAMPLE = 100
"""Matches whose scores are checked."""
RESULT = Path(__file__).with_suffix(".json")


def search_part(start: int, count: int, queries: int) -> tuple[dict[str, Any], Any]:
    """What one part of a pool costs, and finds for the batches of queries that begin there."""
    from ray_si.dedup import RougeIndex

    index = RougeIndex(threshold=THRESHOLD)
    before, build = resident(), 0.0
    for first in range(start, start + count, BATCH):
        build += timed(index.add, batch_at(first, min(BATCH, start + count - first)))[1]
    build += timed(lambda: index.nbytes)[1]
    bytes_now = resident() - before
    found, took = [], []
    for batch in range(BATCHES):
        best, elapsed = timed(index.best, batch_at(queries + BATCH * batch))
        found.append(best)
        took.append(elapsed)
    numbers = {
        "seconds": took,
        "build_seconds": build,
        "resident_bytes_per_instruction": bytes_now / count,
        "peak_rss_mib": peak_mib(),
    }
    ids, lcs, totals = (np.concatenate(column) for column in zip(*found, strict=True))
    return numbers, type(best)(np.where(ids < 0, -1, ids + start), lcs, totals)


def measured(pool: int) -> dict[str, Any]:
    """A pool, part by part."""
    from rouge_score.rouge_scorer import RougeScorer

    from ray_si.dedup.layers import nearer_by_rouge
    from ray_si.dedup.rouge_index import no_match

    count = BATCH * BATCHES
    best, parts = no_match(count), []
    for start in range(0, pool, AT_ONCE):
        numbers, found = fresh(search_part, start, min(AT_ONCE, pool - start), pool)
        console.log(numbers)
        best = nearer_by_rouge(best, found)
        parts.append(numbers)
    scorer = RougeScorer(["rougeL"])
    matched = np.flatnonzero(best.ids >= 0)
    for query in matched[:: max(1, len(matched) // SAMPLE)]:
        asked, named = batch_at(pool + int(query), 1)[0], batch_at(int(best.ids[query]), 1)[0]
        score = scorer.score(named, asked)["rougeL"].fmeasure
        ours = 2 * best.lcs[query] / best.totals[query]
        assert abs(score - ours) < 1e-12, (score, ours, named, asked)
    by_batch = np.array([part["seconds"] for part in parts]).sum(axis=0)
    return {
        "parts": len(parts),
        "candidates_per_second": count / float(by_batch.sum()),
        "slowest_batch_per_second": BATCH / float(by_batch.max()),
        "queries": count,
        "refused": len(matched) / count,
        "build_seconds": sum(part["build_seconds"] for part in parts),
        "resident_bytes_per_instruction": max(p["resident_bytes_per_instruction"] for p in parts),
        "peak_rss_mib": max(part["peak_rss_mib"] for part in parts),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pool", type=int, action="append", help="repeatable")
    parser.add_argument("--write", action="store_true", help=f"write benchmarks/{RESULT.name}")
    options = parser.parse_args()
    report: dict[str, Any] = {"machine": machine(), "threshold": THRESHOLD, "pools": {}}
    for pool in options.pool or POOLS:
        report["pools"][str(pool)] = measured(pool)
        Console().print(table(f"search in {pool:,}", {"exact": report["pools"][str(pool)]}))
        if options.write:
            RESULT.write_text(json.dumps(rounded(report), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
