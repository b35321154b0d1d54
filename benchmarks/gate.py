"""What the exact ROUGE-L gate costs, beside other ways to find near-duplicates.

    python benchmarks/gate.py                      search at 52,000 and 1,000,000, filter, sharded
    python benchmarks/gate.py --large              also search at 10,000,000
    python benchmarks/gate.py --only search --pool 20000 --seconds 2     a look
    python benchmarks/gate.py --write              also write gate.json; parts not run are kept

Texts come from corpus.py: 15 tokens on average, one in 20 a near-duplicate of an earlier one. Pool
and queries are disjoint parts of one stream. Every measurement runs alone in a fresh process, so
its peak memory is its own; making the texts is never timed, tokenising them always is.

``search`` compares, for the same queries against the same pool:

- exact: `RougeIndex.search` in batches of 10,000, after `add`; then one more batch is added and the
  next one searched, which is what a build does. Memory is the index's own count (nbytes) and the
  growth of the resident set while adding. The first use, numba's compilation or its cache
  included, is timed apart on a small index.
- rapidfuzz and original: see gate_peers.py. Decisions and scores of rapidfuzz, and the score of the
  pair that the index named, have to equal the exact index's; otherwise the run fails. The original
  is measured at 52,000 at most, scaled in proportion beyond.

``similar`` is the exhaustive search for the ten nearest texts and the mean similarity, at 52,000.
``tokenizers`` compares the tokenizers, on the same texts in ASCII and written in other scripts, at
52,000. ``profile`` counts what a search at 1,000,000 reads: lists, entries, texts.

``filter`` gates new texts from an empty pool on, each against all accepted before it, in batches of
10,000. ``sharded`` filters batches of 10,000 against a pool, by one `Deduplicator` in this process
and by one and two shards on a local Ray; decisions have to be equal. Overhead is the additional
time per candidate relative to the first. Every shard looks at every candidate, so splitting the
pool itself costs something: that is measured with the same shards as objects of this process.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import itertools
import json
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import corpus
import numpy as np
from gate_peers import check_equal, original, rapidfuzz
from gate_sharded import sharded
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
from rich.table import Table

THRESHOLD = 0.7
POOLS, LARGE_POOL = (52_000, 1_000_000), 10_000_000
FILTERED = SHARDED_POOL = 1_000_000
MAX_BATCHES = 20
ORIGINAL_POOL = 52_000
PARTS = ("search", "filter", "similar", "profile", "sharded", "tokenizers")
SCRIPTS = {
    "ascii": ("reference", "auto"),
    "quotes": ("reference", "auto"),
    "cyrillic": ("unicode", "auto"),
    "han": ("unicode", "auto"),
}
"""What texts are written in -> the tokenizers compared; quotes: ASCII, one in 20 with a ’."""
PROFILED = 1000
"""Queries whose work is counted."""


def exact(pool: int, seconds: float) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """The numbers of `RougeIndex`, and its scores and ids for the queries after the pool."""
    from ray_si.dedup import RougeIndex

    def small() -> None:
        index = RougeIndex(threshold=THRESHOLD)
        index.add(batch_at(0, 1000))
        index.search(batch_at(1000, 100))

    _, first_use = timed(small)
    index = RougeIndex(threshold=THRESHOLD)
    before, build = resident(), 0.0
    for start in range(0, pool, BATCH):
        build += timed(index.add, batch_at(start, min(BATCH, pool - start)))[1]
    own, waited = timed(lambda: index.nbytes)  # until the last texts have their postings
    grown, build = resident() - before, build + waited
    assert len(index) == pool

    results, took = [], []
    while sum(took) < seconds and len(took) < MAX_BATCHES:
        result, elapsed = timed(index.search, batch_at(pool + BATCH * len(took)))
        results.append(result)
        took.append(elapsed)
    scores, ids = (np.concatenate(parts) for parts in zip(*results, strict=True))
    peak = peak_mib()

    after = pool + BATCH * len(took)
    add_batch = timed(index.add, batch_at(after))[1]
    search_after = timed(index.search, batch_at(after + BATCH))[1]
    numbers = {
        "candidates_per_second": len(scores) / sum(took),
        "first_batch_per_second": BATCH / took[0],
        "slowest_batch_per_second": BATCH / max(took),
        "queries": len(scores),
        "refused": float((ids >= 0).mean()),
        "first_use_seconds": first_use,
        "build_seconds": build,
        "bytes_per_instruction": own / pool,
        "resident_bytes_per_instruction": grown / pool,
        "peak_rss_mib": peak,
        "add_batch_seconds": add_batch,
        "search_batch_after_add_seconds": search_after,
    }
    return numbers, scores, ids


def search(pool: int, seconds: float) -> dict[str, Any]:
    """All contenders at one pool size."""
    ours, scores, ids = fresh(exact, pool, seconds)
    brute, best, named = fresh(rapidfuzz, pool, seconds, ids)
    check_equal(scores[: len(best)], best, "rapidfuzz")
    check_equal(scores[: len(best)], named, "the text it names")

    measured_at = min(pool, ORIGINAL_POOL)
    slow, slow_best = fresh(original, measured_at)
    slow |= {"scaled": pool > measured_at, "measured_at": measured_at}
    if slow["scaled"]:
        slow["candidates_per_second"] *= measured_at / pool
    else:
        check_equal(scores[: len(slow_best)], slow_best, "rouge_score")

    entries = {"exact": ours, "rapidfuzz": brute, "original": slow}
    for name, entry in entries.items():
        if name != "exact":
            entry["exact_is_times_faster"] = (
                ours["candidates_per_second"] / entry["candidates_per_second"]
            )
    return entries


def filtering(n: int) -> dict[str, Any]:
    """`Deduplicator.filter` from an empty pool on."""
    from ray_si.dedup import Deduplicator

    gate = Deduplicator(rouge=THRESHOLD, cosine=None)
    before, took, accepted = resident(), [], 0
    for start in range(0, n, BATCH):
        result, elapsed = timed(gate.filter, batch_at(start, min(BATCH, n - start)))
        accepted += len(result.accepted)
        took.append(elapsed)
    tenths = [float(part.sum()) for part in np.array_split(took, min(10, len(took)))]
    return {
        "texts": n,
        "accepted": accepted,
        "seconds": sum(took),
        "texts_per_second": n / sum(took),
        "seconds_by_tenth": tenths,
        "resident_bytes_per_text": (resident() - before) / n,
        "peak_rss_mib": peak_mib(),
    }


def similar(pool: int, seconds: float) -> dict[str, Any]:
    """`RougeIndex.most_similar`, which compares with every text."""
    from ray_si.dedup import RougeIndex

    index = RougeIndex(threshold=THRESHOLD)
    for start in range(0, pool, BATCH):
        index.add(batch_at(start, min(BATCH, pool - start)))
    index.most_similar(batch_at(pool, 2))
    took, queries = 0.0, 0
    while took < seconds:
        took += timed(index.most_similar, batch_at(pool + queries, 64))[1]
        queries += 64
    return {
        "pool": pool,
        "candidates_per_second": queries / took,
        "nanoseconds_per_pair": took / queries / pool * 1e9,
        "queries": queries,
    }


def written(script: str, texts: list[str]) -> list[str]:
    """The texts in another script: Cyrillic letter for letter, Han with two for a word."""
    if script == "ascii":
        return texts
    if script == "quotes":
        return [text if i % 20 else f"{text}’s" for i, text in enumerate(texts)]
    if script == "cyrillic":
        letters = {ord("a") + i: chr(0x430 + i) for i in range(26)}
        return [text.translate(letters) for text in texts]
    return ["".join(map(_han, text.split())) for text in texts]


@functools.cache
def _han(word: str) -> str:
    """Two of 3,500 ideographs, the same for the same word."""
    number = zlib.crc32(word.encode())
    return chr(0x4E00 + number % 3500) + chr(0x4E00 + number // 3500 % 3500)


def tokenizing(pool: int, script: str, seconds: float) -> dict[str, dict[str, Any]]:
    """Tokenizers on texts of one script, batch by batch in turn; the medians of a batch."""
    from ray_si.dedup import RougeIndex

    indexes, took, encoded, builds, refused = {}, {}, {}, {}, {}
    for name in SCRIPTS[script]:
        warm = RougeIndex(THRESHOLD, name)
        warm.add(written(script, batch_at(0, 1000)))
        warm.search(written(script, batch_at(1000, 100)))
        indexes[name], took[name], encoded[name] = RougeIndex(THRESHOLD, name), [], []
        builds[name] = refused[name] = 0
    for start in range(0, pool, BATCH):
        texts = written(script, batch_at(start, min(BATCH, pool - start)))
        for name, index in indexes.items():
            builds[name] += timed(index.add, texts)[1]
    batches = 0
    while sum(map(sum, took.values())) < seconds and batches < MAX_BATCHES:
        queries = written(script, batch_at(pool + BATCH * batches))
        batches += 1
        for name, index in indexes.items():
            tokenise = functools.partial(index.encode, grow=False)
            encoded[name].append(timed(tokenise, queries)[1])
            (_, ids), elapsed = timed(index.search, queries)
            took[name].append(elapsed)
            refused[name] += int((ids >= 0).sum())
    return {
        f"{script}: {name}": {
            "candidates_per_second": BATCH / float(np.median(took[name])),
            "texts_tokenised_per_second": BATCH / float(np.median(encoded[name])),
            "build_seconds": builds[name],
            "refused": refused[name] / batches / BATCH,
            "batches": batches,
        }
        for name in indexes
    }


def profile(pool: int) -> dict[str, Any]:
    """What a search reads, on average over some queries: the steps of `segment._search` in NumPy.

    Of one segment, with the threshold alone: matches found on the way make the search read less.
    """
    from ray_si.dedup import RougeIndex

    index = RougeIndex(threshold=THRESHOLD)
    index.add(batch_at(0, pool))
    (segment,) = index._finished()
    need, shortest = index.threshold.need, index.threshold.shortest
    queries = index.encode(batch_at(pool, PROFILED), grow=False)
    counts: Counter[str] = Counter()
    for start, end in itertools.pairwise(queries.offsets):
        m = end - start
        ranks = segment._ranks[[token for token in queries.tokens[start:end] if token >= 0]]
        row = np.sort(ranks[ranks >= 0])
        known = queries.tokens[start:end]
        known = np.unique(known[known >= 0])
        own = np.bitwise_or.reduce(bits_of(known[segment._ranks[known] >= 0]), initial=0)
        for k, rank in enumerate(row):
            part = slice(segment._starts[rank], segment._starts[rank + 1])
            n, place = segment._keys[part] >> 8, segment._keys[part] & 255
            required = need[m + n]
            fits = (n >= shortest[m]) & (required <= len(row) - k) & (place + required <= n)
            if (k > 0 and rank == row[k - 1]) or not fits.any():
                continue
            bits = segment._signatures[part]
            missing = np.bitwise_count(own & ~bits) <= len(row) - required
            extra = np.bitwise_count(bits & ~own) <= n - required
            counts["lists"] += 1
            counts["runs"] += len(np.unique(n[fits]))
            counts["entries_in_these_lists"] += len(n)
            counts["entries_read"] += int(fits.sum())
            counts["pass_first_signature_test"] += int((fits & missing).sum())
            counts["texts_compared"] += int((fits & missing & extra).sum())
    return {"pool": pool, **{name: count / PROFILED for name, count in counts.items()}}


def bits_of(tokens: np.ndarray) -> np.ndarray:
    """`rouge.token_bit` in NumPy."""
    return np.uint64(1) << (
        (tokens.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(58)
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS, action="append", help="repeatable")
    parser.add_argument("--large", action="store_true", help="search at 10,000,000 too")
    parser.add_argument("--pool", type=int, help="this size instead, everywhere")
    parser.add_argument("--seconds", type=float, default=20, help="of searching, per contender")
    parser.add_argument("--write", action="store_true", help="write benchmarks/gate.json")
    options = parser.parse_args()
    parts = options.only or PARTS
    pools = [options.pool] if options.pool else [*POOLS, *[LARGE_POOL] * options.large]

    report: dict[str, Any] = {
        "machine": machine(),
        "parameters": {
            "threshold": THRESHOLD,
            "batch": BATCH,
            "seconds_of_searching": options.seconds,
            "share_of_near_duplicates": corpus.NEAR_DUPLICATES,
        },
        "search": {},
    }
    file = Path(__file__).with_suffix(".json")
    if file.exists():
        earlier = json.loads(file.read_text(encoding="utf-8"))
        if options.write and earlier["machine"] == report["machine"]:
            report = earlier | {"parameters": earlier["parameters"] | report["parameters"]}

    def keep(*tables: Table) -> None:
        Console().print(*tables)
        if options.write:
            file.write_text(json.dumps(rounded(report), indent=1) + "\n", encoding="utf-8")

    for pool in pools if "search" in parts else ():
        report["search"][str(pool)] = search(pool, options.seconds)
        keep(table(f"search in {pool:,}", report["search"][str(pool)]))
    if "filter" in parts:
        report["filter"] = fresh(filtering, options.pool or FILTERED)
        keep(table("filter from an empty pool", {"exact": report["filter"]}))
    if "similar" in parts:
        report["similar"] = fresh(similar, options.pool or POOLS[0], options.seconds)
        keep(table("ten nearest and mean similarity", {"exact": report["similar"]}))
    if "tokenizers" in parts:
        pool = options.pool or POOLS[0]
        entries: dict[str, dict[str, Any]] = {}
        for script in SCRIPTS:
            entries |= fresh(tokenizing, pool, script, options.seconds)
        report["tokenizers"] = {"pool": pool, "entries": entries}
        keep(table(f"search in {pool:,} by tokenizer", entries))
    if "profile" in parts:
        report["profile"] = fresh(profile, options.pool or FILTERED)
        keep(table("what a search reads, a query", {"exact": report["profile"]}))
    if "sharded" in parts:
        if importlib.util.find_spec("ray_si.build.sharding") is None:
            console.log("sharded: skipped, there is no ray_si.build.sharding")
            return
        pool = options.pool or SHARDED_POOL
        report["sharded"] = {"pool": pool, "gates": sharded(pool)}
        keep(table(f"filter {BATCH:,} against {pool:,}", report["sharded"]["gates"]))


if __name__ == "__main__":
    main()
