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
- rapidfuzz: `process.cdist` over all pairs with `LCSseq.similarity`, all cores. Token ids are code
  points of a string, the form it takes without copying, and only the call is timed, neither the
  tokenising nor the search for the best; `Indel.normalized_similarity` (the same F) with a cutoff
  is no faster. Its decisions and scores, and the score of the pair that the index named, have to
  equal the exact index's; otherwise the run fails.
- original: as the Self-Instruct code does it, a process pool for each candidate which scores all
  pairs with `rouge_score`. Measured at 52,000 at most, scaled in proportion beyond.
- minhash: `datasketch` MinHashLSH, 128 permutations over the set of words, with the usual threshold
  0.7 and with 0.54, the Jaccard similarity at which two texts of one length and with the same words
  in common have F = 0.7. A candidate is refused if the index returns anything. Recall and precision
  are against the exact decisions. One thread; up to 1,000,000, where it takes gigabytes.

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
import contextlib
import functools
import importlib.metadata
import importlib.util
import itertools
import json
import multiprocessing
import os
import platform
import re
import resource
import time
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

THRESHOLD = 0.7
POOLS, LARGE_POOL = (52_000, 1_000_000), 10_000_000
FILTERED = SHARDED_POOL = 1_000_000
BATCH = 10_000
MAX_BATCHES = 20
PAIRS_AT_ONCE = 1 << 28
"""Bytes of the matrix that one call of rapidfuzz fills."""
ORIGINAL_POOL, ORIGINAL_CANDIDATES = 52_000, 3
MINHASH_POOL, MINHASH_PERMUTATIONS, MINHASH_THRESHOLDS = 1_000_000, 128, (0.7, 0.54)
SHARDS, SHARDED_BATCHES = (1, 2), 3
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
PACKAGES = ("numpy", "numba", "rapidfuzz", "rouge-score", "datasketch", "ray")

console = Console(stderr=True)


def fresh(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result, from a process of its own that has the corpus's tables loaded."""
    console.log(function.__name__, *arguments[:2])
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=batch_at, initargs=(0, 1)) as executor:
        return executor.submit(function, *arguments).result()


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    began = time.perf_counter()
    return function(*arguments), time.perf_counter() - began


def batch_at(start: int, n: int = BATCH) -> list[str]:
    return list(corpus.texts(n, start=start))


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


def peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


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
    grown, own = resident() - before, index.nbytes
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


def minhash(pool: int, threshold: float, queries: int) -> tuple[dict[str, Any], np.ndarray]:
    """MinHash-LSH; also whether it finds anything for each of the queries."""
    from datasketch import MinHash, MinHashLSH
    from rouge_score.tokenize import tokenize

    def sketches(texts: list[str]) -> list[Any]:
        words = ([word.encode() for word in set(tokenize(text, None))] for text in texts)
        return MinHash.bulk(words, num_perm=MINHASH_PERMUTATIONS)

    lsh = MinHashLSH(threshold=threshold, num_perm=MINHASH_PERMUTATIONS)
    before, build = resident(), 0.0

    def insert(start: int, texts: list[str]) -> None:
        for id_, sketch in enumerate(sketches(texts), start):
            lsh.insert(id_, sketch, check_duplication=False)

    for start in range(0, pool, BATCH):
        build += timed(insert, start, batch_at(start, min(BATCH, pool - start)))[1]
    grown = resident() - before
    found, seconds = timed(
        lambda texts: np.array([bool(lsh.query(sketch)) for sketch in sketches(texts)]),
        batch_at(pool, queries),
    )
    numbers = {
        "candidates_per_second": queries / seconds,
        "queries": queries,
        "build_seconds": build,
        "resident_bytes_per_instruction": grown / pool,
        "peak_rss_mib": peak_mib(),
        "bands": lsh.b,
        "rows": lsh.r,
    }
    return numbers, found


def check_equal(ours: np.ndarray, others: np.ndarray, who: str) -> None:
    """Raise unless decisions are identical and scores equal to 1e-12."""
    wrong = np.flatnonzero(((ours > 0) != (others > 0)) | (np.abs(ours - others) > 1e-12))
    if len(wrong):
        k = wrong[0]
        raise RuntimeError(
            f"{len(wrong)} of {len(ours)} scores differ from {who}; query {k}: {ours[k]!r} by the "
            f"index, {others[k]!r} by {who}"
        )


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
    for threshold in MINHASH_THRESHOLDS if pool <= MINHASH_POOL else ():
        numbers, found = fresh(minhash, pool, threshold, min(BATCH, len(scores)))
        refused = scores[: len(found)] > 0
        numbers["recall"] = (found & refused).sum() / refused.sum()
        numbers["precision"] = (found & refused).sum() / found.sum()
        entries[f"minhash {threshold}"] = numbers
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
    (segment,) = index._segments
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


def split_in_this_process(shards: int) -> Any:
    """The sharded gate without actors: its shards are objects here, a thread each.

    What it takes beyond the single gate is the price of splitting the pool, since every shard has
    to look at every candidate; what actors take beyond it is the price of Ray.
    """
    import ray

    from ray_si.build.gate import Shard, ShardedDeduplicator, ShardedPool

    threads = ThreadPoolExecutor(shards)

    class Pool(ShardedPool):
        def _start(self, number: int, count: int) -> Any:
            return Shard(number, count, count, self._options)

        def _ask(self, method: str, *arguments: Any) -> list[Any]:
            values = [ray.get(a) if isinstance(a, ray.ObjectRef) else a for a in arguments]
            return list(threads.map(lambda shard: getattr(shard, method)(*values), self._shards))

        def close(self) -> None:
            threads.shutdown()

    from ray_si.build import gate

    gate.ShardedPool = Pool
    return ShardedDeduplicator(shards=shards, rouge=THRESHOLD, cosine=None)


def batches(pool: int, shards: int, actors: bool = True) -> tuple[dict[str, Any], list[list[int]]]:
    """Batches against a pool, by the single gate (``shards`` 0) or the sharded one.

    The first batch warms up and is not counted. Also returns what was accepted of each.
    """
    from ray_si.dedup import Deduplicator

    if shards:
        import ray

        from ray_si.build.gate import ShardedDeduplicator

        ray.init(
            num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False, logging_level=40
        )
        opened = (
            ShardedDeduplicator(shards=shards, rouge=THRESHOLD, cosine=None)
            if actors
            else split_in_this_process(shards)
        )
    else:
        opened = contextlib.nullcontext(Deduplicator(rouge=THRESHOLD, cosine=None))
    with opened as gate:
        build = 0.0
        for start in range(0, pool, BATCH):
            build += timed(gate.add, batch_at(start, min(BATCH, pool - start)))[1]
        took, accepted = [], []
        for k in range(SHARDED_BATCHES + 1):
            result, elapsed = timed(gate.filter, batch_at(pool + k * BATCH))
            took.append(elapsed)
            accepted.append(list(result.accepted))
    batch = float(np.median(took[1:]))
    numbers = {
        "batch_seconds": batch,
        "microseconds_per_candidate": batch / BATCH * 1e6,
        "build_seconds": build,
        "first_batch_seconds": took[0],
    }
    return numbers, accepted


def sharded(pool: int) -> dict[str, Any]:
    """The single gate and the sharded ones."""
    single, accepted = fresh(batches, pool, 0)
    entries = {"single": single}
    split = {1: single}
    for shards in SHARDS:
        for actors in (False, True) if shards > 1 else (True,):
            numbers, sharded_accepted = fresh(batches, pool, shards, actors)
            if sharded_accepted != accepted:
                raise RuntimeError(f"{shards} shards decide otherwise than the single gate")
            numbers["overhead"] = numbers["batch_seconds"] / single["batch_seconds"] - 1
            if actors:
                base = split[shards]["batch_seconds"]
                numbers["overhead_beyond_the_split"] = numbers["batch_seconds"] / base - 1
                entries[f"{shards} shards"] = numbers
            else:
                split[shards] = entries[f"{shards} parts, no actors"] = numbers
    return entries


def machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.*)", cpuinfo.read_text() if cpuinfo.exists() else "")
    return {
        "processor": named.group(1) if named else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in PACKAGES},
    }


def rounded(value: Any) -> Any:
    """The same report with floats to four significant digits."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def table(title: str, columns: dict[str, dict[str, Any]]) -> Table:
    """A column for each contender, a row for every number that any of them has."""
    made = Table(title=title)
    made.add_column(no_wrap=True)
    for name in columns:
        made.add_column(name, justify="right")
    for key in dict.fromkeys(key for numbers in columns.values() for key in numbers):
        cells = (numbers.get(key, "") for numbers in columns.values())
        made.add_row(key.replace("_", " "), *(_cell(value) for value in cells))
    return made


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_cell, value))
    if isinstance(value, bool | str):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


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
        if importlib.util.find_spec("ray_si.build.gate") is None:
            console.log("sharded: skipped, there is no ray_si.build.gate")
            return
        pool = options.pool or SHARDED_POOL
        report["sharded"] = {"pool": pool, "gates": sharded(pool)}
        keep(table(f"filter {BATCH:,} against {pool:,}", report["sharded"]["gates"]))


if __name__ == "__main__":
    main()
