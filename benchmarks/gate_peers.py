"""Other ways to find near-duplicates by words, and rensa beside the exact ROUGE-L gate.

    python benchmarks/gate_peers.py                    rensa at 52,000 and 500,000
    python benchmarks/gate_peers.py --pool 20000       a look
    python benchmarks/gate_peers.py --write            also write gate_peers.json, a pool at a time

gate.py runs the exact peers, on the same texts and queries:

- rapidfuzz: `process.cdist` over all pairs with `LCSseq.similarity`, all cores. Token ids are code
  points of a string, the form it takes without copying, and only the call is timed, neither the
  tokenising nor the search for the best; `Indel.normalized_similarity` (the same F) with a cutoff
  is no faster.
- original: as the Self-Instruct code does it, a process pool for each candidate which scores all
  pairs with `rouge_score`.

This script runs the approximate one, with the exact index before and after it:

- rensa: `RMinHashDeduplicator`, 128 permutations over the set of words, with LSH in as many bands
  as it takes by itself and its check of the sketches, with the usual threshold 0.7 and with 0.54,
  the Jaccard similarity at which two texts of one length and with the same words in common have
  F = 0.7. It keeps no text of the pool that it takes for a duplicate of an earlier one.
- rensa, rho: its fastest sketches, in `RMinHashLSH` with 16 bands, a matrix at a time. Nothing is
  checked behind that.

Both split texts at white space, which is timed, as the exact index's tokenising is. Recall and
precision are against the exact decisions. rensa comes with `pip install -e ".[bench]"`.

Speeds are by the clock and by the processor's time, which is the one to compare where other work
shares the machine.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import corpus
import numpy as np
from measuring import BATCH, batch_at, fresh, machine, peak_mib, resident, rounded, table, timed
from rich.console import Console

THRESHOLD = 0.7
PAIRS_AT_ONCE = 1 << 28
"""Bytes of the matrix that one call of rapidfuzz fills."""
ORIGINAL_CANDIDATES = 3
PERMUTATIONS, THRESHOLDS, BANDS = 128, (0.7, 0.54), 16
POOLS = (52_000, 500_000)
RESULT = Path(__file__).with_suffix(".json")


def rapidfuzz(
    pool: int, seconds: float, ids: np.ndarray
) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Brute force for as many queries as the time allows.

    Also returns, for each of them, the best score above the threshold (else 0) and the score with
    the text that ``ids`` names (0 for id -1).
    """
    from rapidfuzz.distance import LCSseq
    from rapidfuzz.process import cdist
    from rouge_score.tokenize import tokenize

    vocabulary: dict[str, str] = {}

    def encode(text: str) -> str:
        words = tokenize(text, None)
        return "".join(vocabulary.setdefault(word, chr(len(vocabulary))) for word in words)

    limit = Fraction(str(THRESHOLD))
    texts = [encode(text) for text in corpus.texts(pool)]
    lengths = np.fromiter(map(len, texts), np.int32, pool)
    step = max(1, min(1000, PAIRS_AT_ONCE // pool))
    call = functools.partial(cdist, scorer=LCSseq.similarity, dtype=np.uint8, workers=-1)
    took, best, named = 0.0, [], []
    while took < seconds and len(best) < len(ids):
        part = list(map(encode, batch_at(pool + len(best), min(step, len(ids) - len(best)))))
        matrix, elapsed = timed(call, part, texts)
        took += elapsed
        for query, overlaps in zip(part, matrix, strict=True):
            totals = lengths + len(query)
            above = np.flatnonzero(
                overlaps.astype(np.int32) * (2 * limit.denominator) > totals * limit.numerator
            )
            scores = 2.0 * overlaps[above] / totals[above]
            named.append(scores[above == ids[len(best)]].sum())
            best.append(scores.max(initial=0))
    numbers = {
        "candidates_per_second": len(best) / took,
        "queries": len(best),
        "peak_rss_mib": peak_mib(),
    }
    return numbers, np.array(best), np.array(named)


def original(pool: int) -> tuple[dict[str, Any], np.ndarray]:
    """A process pool a candidate; also the best scores above the threshold, 0 where none is."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    texts, candidates = batch_at(0, pool), batch_at(pool, ORIGINAL_CANDIDATES)

    def nearest(candidate: str) -> float:
        with multiprocessing.get_context("fork").Pool(os.cpu_count()) as workers:
            scores = workers.map(functools.partial(scorer.score, candidate), texts)
        return max(score["rougeL"].fmeasure for score in scores)

    best, seconds = timed(lambda: np.array([nearest(text) for text in candidates]))
    numbers = {"candidates_per_second": len(best) / seconds, "queries": len(best)}
    return numbers, np.where(best.round(12) > THRESHOLD, best, 0)


def check_equal(ours: np.ndarray, others: np.ndarray, who: str) -> None:
    """Raise unless decisions are identical and scores equal to 1e-12."""
    wrong = np.flatnonzero(((ours > 0) != (others > 0)) | (np.abs(ours - others) > 1e-12))
    if len(wrong):
        k = wrong[0]
        raise RuntimeError(
            f"{len(wrong)} of {len(ours)} scores differ from {who}; query {k}: {ours[k]!r} by the "
            f"index, {others[k]!r} by {who}"
        )


def exact(pool: int) -> tuple[dict[str, Any], np.ndarray]:
    """`RougeIndex`; also whether it finds anything for each of the queries."""
    from ray_si.dedup import RougeIndex

    RougeIndex(THRESHOLD).search(batch_at(0, 10))
    index = RougeIndex(THRESHOLD)
    build = 0.0
    for start in range(0, pool, BATCH):
        build += by_cpu(index.add, batch_at(start, min(BATCH, pool - start)))[1]
    build += by_cpu(lambda: index.nbytes)[1]  # it may still be sorting what it got
    queries = batch_at(pool)
    index.search(batch_at(pool + BATCH, 100))
    speed, (_, ids) = speeds(index.search, queries)
    return speed | {"build_cpu_seconds": build, "peak_rss_mib": peak_mib()}, ids >= 0


def rensa(pool: int, threshold: float) -> tuple[dict[str, Any], np.ndarray]:
    """`RMinHashDeduplicator`; also whether it finds anything for each of the queries."""
    from rensa import RMinHashDeduplicator

    index = RMinHashDeduplicator(threshold=threshold, num_perm=PERMUTATIONS, use_lsh=True)

    def words(texts: list[str], start: int) -> list[tuple[str, list[str]]]:
        return [(str(i), text.lower().split()) for i, text in enumerate(texts, start)]

    def insert(texts: list[str], start: int) -> None:
        index.add_pairs(words(texts, start))

    before, build = resident(), 0.0
    for start in range(0, pool, BATCH):
        texts = batch_at(start, min(BATCH, pool - start))
        build += by_cpu(insert, texts, start)[1]
    grown = resident() - before
    index.is_duplicate_pairs(words(batch_at(pool + BATCH, 100), pool))
    speed, found = speeds(
        lambda texts: index.is_duplicate_pairs(words(texts, pool)), batch_at(pool)
    )
    numbers = {
        "build_cpu_seconds": build,
        "resident_bytes_per_instruction": grown / pool,
        "peak_rss_mib": peak_mib(),
        "kept_of_the_pool": index.len(),
    }
    return speed | numbers, np.array(found)


def rho(pool: int) -> tuple[dict[str, Any], np.ndarray]:
    """`RMinHashLSH` over sketches by rho; also whether it finds anything for each query."""
    from rensa import RMinHash, RMinHashLSH

    index = RMinHashLSH(threshold=THRESHOLDS[-1], num_perm=PERMUTATIONS, num_bands=BANDS)

    def sketches(texts: list[str]) -> Any:
        words = [text.lower().split() for text in texts]
        return RMinHash.digest_matrix_from_token_sets_rho(words, num_perm=PERMUTATIONS, seed=1)

    def insert(texts: list[str], start: int) -> None:
        index.insert_matrix(sketches(texts), start)

    before, build = resident(), 0.0
    for start in range(0, pool, BATCH):
        texts = batch_at(start, min(BATCH, pool - start))
        build += by_cpu(insert, texts, start)[1]
    grown = resident() - before
    speed, found = speeds(
        lambda texts: index.query_duplicate_flags_matrix(sketches(texts)), batch_at(pool)
    )
    numbers = {
        "build_cpu_seconds": build,
        "resident_bytes_per_instruction": grown / pool,
        "peak_rss_mib": peak_mib(),
    }
    return speed | numbers, np.array(found)


def by_cpu(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """`timed`, by the processor's time."""
    began = time.process_time()
    return function(*arguments), time.process_time() - began


def speeds(search: Any, queries: list[str]) -> tuple[dict[str, Any], Any]:
    """Queries a second by both clocks, and what was found."""
    (found, seconds), cpu = by_cpu(timed, search, queries)
    return {
        "candidates_per_second": len(queries) / seconds,
        "candidates_per_cpu_second": len(queries) / cpu,
        "queries": len(queries),
    }, found


def compared(pool: int) -> dict[str, dict[str, Any]]:
    """The exact index, rensa, and the exact index again."""
    first, refused = fresh(exact, pool)
    entries = {"exact": first}
    for threshold in (*THRESHOLDS, None):
        name = f"rensa {threshold}" if threshold else "rensa, rho"
        numbers, found = fresh(rensa, pool, threshold) if threshold else fresh(rho, pool)
        numbers["recall"] = (found & refused).sum() / refused.sum()
        numbers["precision"] = (found & refused).sum() / found.sum()
        entries[name] = numbers
    entries["exact, again"] = fresh(exact, pool)[0]
    return entries


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pool", type=int, action="append", help="repeatable")
    parser.add_argument("--write", action="store_true", help=f"write benchmarks/{RESULT.name}")
    options = parser.parse_args()
    about = machine() | {"rensa": importlib.metadata.version("rensa")}
    report: dict[str, Any] = {"machine": about, "threshold": THRESHOLD, "pools": {}}
    if RESULT.exists() and options.write:
        earlier = json.loads(RESULT.read_text(encoding="utf-8"))
        report = earlier if earlier["machine"] == about else report
    for pool in options.pool or POOLS:
        report["pools"][str(pool)] = compared(pool)
        Console().print(table(f"search in {pool:,}", report["pools"][str(pool)]))
        if options.write:
            RESULT.write_text(json.dumps(rounded(report), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
