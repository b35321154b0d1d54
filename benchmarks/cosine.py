"""What the exact cosine gate costs, beside other ways to search embeddings.

    python benchmarks/cosine.py                       search at 1,000,000, online, fuzz
    python benchmarks/cosine.py --only search --pool 100000 --seconds 5        a look
    python benchmarks/cosine.py --only large           the exact index alone at 10,000,000
    python benchmarks/cosine.py --only vectors --texts FILE     are the vectors like real ones?
    python benchmarks/cosine.py --write               also write cosine.json; parts not run are kept

Vectors come from embeddings.py: 384 numbers, with the spectrum and the neighbours of instructions.
Every measurement runs alone in a fresh process; making vectors is never timed. The threshold: 0.9.

``search`` compares, for the same queries against the same pool, in batches of 480, by the clock and
by the processor's time, which is the one to compare where other work shares the machine (with
``OMP_NUM_THREADS=1``, as idle threads of FAISS spin):

- exact: `CosineIndex.search`. Memory is its own count of its codes and the growth of what the
  process holds apart from files (RssAnon), buffers included.
- flat: FAISS `IndexFlatIP.search` for the nearest one; panorama: FAISS `IndexFlatIPPanorama`, where
  the version has it. Decisions have to be the same, and scores to 1e-5; otherwise the run fails.
- hnsw, ivf: FAISS HNSW32 (at most 100,000: building it takes many minutes beyond) and
  IVF1024,Flat with 16 lists visited. Recall is the share of the queries above the threshold that
  they find so.

``large`` puts the rate of flat at 1,000,000, scaled in proportion, beside: its vectors would take
15 GB of memory.
``online`` searches batches of 8,192 and adds what was not refused until the pool is full.
``fuzz`` makes a million decisions with vectors of eight adversarial kinds, pools of many sizes in
batches and thresholds that are often a pair's own cosine, and compares ids and scores, to the last
bit, with an oracle that sums products in double precision in NumPy.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import adversarial
import embeddings
import numpy as np
from measuring import fresh, peak_mib, rounded, table, timed
from rich.console import Console

THRESHOLD = 0.9
POOL = 1_000_000
LARGE_POOL = 10_000_000
BATCH = 480
ONLINE = 8192
GRAPH_POOL = 100_000
DECISIONS = 1_000_000
PARTS = ("search", "online", "fuzz")


def machine() -> dict[str, Any]:
    import faiss
    import numba

    from ray_si.dedup.cosine.products import HAS_VNNI

    return {
        "processor": next(
            (
                line.split(":")[1].strip()
                for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")
            ),
            platform.processor(),
        ),
        "cores": len(os.sched_getaffinity(0)),
        "avx512_vnni": HAS_VNNI,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "faiss": faiss.__version__,
        "threads": threads(),
    }


def threads() -> int:
    """As OMP_NUM_THREADS has it, for all contenders, or the cores."""
    return int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0))))


def anonymous() -> int:
    """Bytes that this process holds apart from files, without what it could give back."""
    ctypes.CDLL(None).malloc_trim(0)
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


def pool_of(size: int) -> Iterator[np.ndarray]:
    for number in itertools.count():
        rows = embeddings.block(number)[: min(embeddings.POOL, size)]
        if not len(rows):
            return
        size -= len(rows)
        yield rows


def queries_of(pool: int) -> np.ndarray:
    """In random order; all have their families in the pool, as far as that goes."""
    blocks = max(1, pool // embeddings.POOL)
    chosen = np.unique(np.linspace(0, blocks - 1, 16).astype(int))
    rows = np.concatenate([embeddings.block(int(number))[embeddings.POOL :] for number in chosen])
    return rows[np.random.default_rng(0).permutation(len(rows))]


def measured(search: Any, queries: np.ndarray, seconds: float) -> tuple[dict[str, Any], list[Any]]:
    """Search batch after batch for so long, after one that isn't counted."""
    search(queries[:24])
    answers, took, began = [], 0.0, time.process_time()
    for start in range(0, len(queries), BATCH):
        answer, elapsed = timed(search, queries[start : start + BATCH])
        answers.append(answer)
        took += elapsed
        if took > seconds:
            break
    cpu = time.process_time() - began
    done = sum(len(answer[0]) for answer in answers)
    numbers = {
        "queries_per_second": done / took,
        "queries_per_cpu_second": done / cpu,
        "queries": done,
    }
    return numbers, answers


def exact(pool: int, seconds: float) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """The numbers of `CosineIndex`, and its cosines and ids."""
    from ray_si.dedup import CosineIndex

    def small() -> None:
        index = CosineIndex(embeddings.DIMENSION, THRESHOLD, threads=threads())
        index.add(embeddings.block(0)[:1000])
        index.search(embeddings.block(0)[1000:1100])

    first_use = timed(small)[1]
    index = CosineIndex(embeddings.DIMENSION, THRESHOLD, threads=threads())
    before, build = anonymous(), 0.0
    for rows in pool_of(pool):
        build += timed(index.add, rows)[1]
    del rows
    grown = anonymous() - before
    numbers, answers = measured(index.search, queries_of(pool), seconds)
    cosines, ids = (np.concatenate(part) for part in zip(*answers, strict=True))
    numbers |= {
        "refused": float((ids >= 0).mean()),
        "first_use_seconds": first_use,
        "build_seconds": build,
        "bytes_per_vector": index.nbytes / pool,
        "resident_bytes_per_vector": grown / pool,
        "peak_rss_mib": peak_mib(),
    }
    return numbers, cosines, ids


def by_faiss(kind: str, pool: int, seconds: float) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """The numbers of an index of FAISS, and the cosines and ids of the nearest."""
    import faiss

    dimension, build = embeddings.DIMENSION, 0.0
    index: Any
    if kind == "panorama":
        index = faiss.IndexFlatIPPanorama(dimension, 8)
    else:
        factory = {"flat": "Flat", "hnsw": "HNSW32", "ivf": "IVF1024,Flat"}[kind]
        index = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        build += timed(index.train, np.concatenate(list(pool_of(min(pool, 65_536)))))[1]
    for rows in pool_of(pool):
        build += timed(index.add, rows)[1]
    if kind == "ivf":
        index.nprobe = 16
    if kind == "hnsw":
        index.hnsw.efSearch = 64
    search = lambda queries: index.search(queries, 1)  # noqa: E731
    numbers, answers = measured(search, queries_of(pool), seconds)
    cosines, ids = (np.concatenate(part)[:, 0] for part in zip(*answers, strict=True))
    return numbers | {"build_seconds": build, "peak_rss_mib": peak_mib()}, cosines, ids


def check_equal(cosines: np.ndarray, ids: np.ndarray, others: np.ndarray) -> None:
    """Raise unless the exact index refuses what FAISS refuses, but within rounding of 0.9."""
    unclear = np.abs(others - THRESHOLD) < 1e-5
    wrong = ((ids >= 0) != (others > THRESHOLD)) & ~unclear
    wrong |= (ids >= 0) & (np.abs(cosines - others) > 1e-5)
    if wrong.any():
        raise RuntimeError(f"{wrong.sum()} of {len(wrong)} queries are decided otherwise by FAISS")


def search(pool: int, seconds: float) -> Iterator[dict[str, Any]]:
    """All contenders at one pool size, one more each time."""
    import faiss

    ours, cosines, ids = fresh(exact, pool, seconds)
    entries = {"exact": ours}
    yield entries
    kinds = ["flat", "panorama", "ivf", *(["hnsw"] if pool <= GRAPH_POOL else [])]
    if not hasattr(faiss, "IndexFlatIPPanorama"):
        kinds.remove("panorama")
    for kind in kinds:
        numbers, others, _ = fresh(by_faiss, kind, pool, seconds)
        n = min(len(others), len(ids))
        if kind in ("flat", "panorama"):
            check_equal(cosines[:n], ids[:n], others[:n])
        else:
            above = ids[:n] >= 0
            numbers["recall"] = float((others[:n][above] > THRESHOLD).mean())
        entries[kind] = numbers | {
            f"exact_is_times_faster_by_{clock}": ours[rate] / numbers[rate]
            for clock, rate in (("clock", "queries_per_second"), ("cpu", "queries_per_cpu_second"))
        }
        yield entries


def online(pool: int) -> dict[str, Any]:
    """From empty until the pool is full, each batch against all that was let in before it."""
    from ray_si.dedup import CosineIndex

    index = CosineIndex(embeddings.DIMENSION, THRESHOLD, threads=threads())
    took, cpu, offered, slowest = 0.0, 0.0, 0, 0.0
    for rows in pool_of(10 * pool):
        for start in range(0, len(rows), ONLINE):
            batch = rows[start : start + ONLINE]
            began, cpu_began = time.perf_counter(), time.process_time()
            new = batch[index.search(batch)[1] < 0]
            index.add(new[: pool - len(index)])
            elapsed = time.perf_counter() - began
            took, offered, slowest = took + elapsed, offered + len(batch), max(slowest, elapsed)
            cpu += time.process_time() - cpu_began
            if len(index) == pool:
                return {
                    "pool": pool,
                    "offered": offered,
                    "seconds": took,
                    "cpu_seconds": cpu,
                    "offered_per_second": offered / took,
                    "slowest_batch_seconds": slowest,
                    "peak_rss_mib": peak_mib(),
                }
    raise RuntimeError("the vectors ran out")


def fuzz(decisions: int) -> dict[str, Any]:
    from ray_si.dedup import CosineIndex

    return adversarial.fuzz(decisions, CosineIndex)


def traits(vectors: np.ndarray) -> dict[str, Any]:
    """What bounds live by: spectrum, pairs, nearest neighbours, pairs that coarse codes pass."""
    from ray_si.dedup.cosine import codes

    pool, queries = vectors[:15_000], vectors[15_000:20_000]
    energy = np.linalg.svd(pool, compute_uv=False) ** 2
    energy = np.cumsum(energy / energy.sum())
    cosines = queries @ pool.T
    rotation = codes.fit(pool)
    coarse, biases = codes.encode_rows(rotation, pool)
    asked = codes.encode_queries(rotation, queries)
    limits = codes.limits(asked, np.full(len(queries), THRESHOLD), rotation.step)
    sums = asked.codes.astype(np.float32) @ coarse.T.astype(np.float32) + biases
    return {
        "energy_in_the_first_16_32_64_128": [float(energy[k - 1]) for k in (16, 32, 64, 128)],
        "cosines_at_50_90_99_99.9_99.99": [
            float(q) for q in np.quantile(cosines.ravel()[::7], [0.5, 0.9, 0.99, 0.999, 0.9999])
        ],
        "nearest_at_10_25_50_75_90": [
            float(q) for q in np.quantile(cosines.max(axis=1), [0.1, 0.25, 0.5, 0.75, 0.9])
        ],
        "pairs_above_the_threshold": float((cosines > THRESHOLD).mean()),
        "pairs_that_coarse_codes_pass": float((sums > limits[:, None]).mean()),
    }


def vectors(path: Path) -> dict[str, Any]:
    """The generator's vectors beside those of texts, a JSON list of strings."""
    from ray_si.engines.registry import embedder

    texts = json.loads(path.read_text(encoding="utf-8"))[:20_000]
    real = embedder("all-minilm-l6-v2").encode(texts)
    made = np.concatenate([embeddings.block(0), embeddings.block(1)])
    return {"texts": len(texts), "real": traits(real), "generated": traits(made)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", choices=[*PARTS, "large", "vectors"], action="append", help="repeatable"
    )
    parser.add_argument("--pool", type=int, default=POOL)
    parser.add_argument("--seconds", type=float, default=20, help="of searching, per contender")
    parser.add_argument("--decisions", type=int, default=DECISIONS)
    parser.add_argument("--texts", type=Path, help="for vectors: a JSON list of texts")
    parser.add_argument("--write", action="store_true", help="write benchmarks/cosine.json")
    options = parser.parse_args()
    parts = options.only or PARTS

    file = Path(__file__).with_suffix(".json")
    report: dict[str, Any] = {"machine": machine(), "threshold": THRESHOLD, "search": {}}
    if file.exists() and options.write:
        earlier = json.loads(file.read_text(encoding="utf-8"))
        if earlier["machine"] == report["machine"]:
            report = earlier

    def keep(title: str, columns: dict[str, dict[str, Any]]) -> None:
        Console().print(table(title, columns))
        if options.write:
            file.write_text(json.dumps(rounded(report), indent=1) + "\n", encoding="utf-8")

    if "vectors" in parts:
        report["vectors"] = vectors(options.texts)
        keep("vectors", {name: report["vectors"][name] for name in ("real", "generated")})
    if "search" in parts:
        for entries in search(options.pool, options.seconds):
            report["search"][str(options.pool)] = entries
            keep(f"search in {options.pool:,}", entries)
    if "large" in parts:
        ours = fresh(exact, LARGE_POOL, options.seconds)[0]
        entries = {"exact": ours}
        if flat := report["search"].get(str(POOL), {}).get("flat"):
            rates = {
                rate: flat[rate] * POOL / LARGE_POOL
                for rate in ("queries_per_second", "queries_per_cpu_second")
            }
            entries["flat"] = rates | {"scaled": True}
        report["search"][str(LARGE_POOL)] = entries
        keep(f"search in {LARGE_POOL:,}", entries)
    if "online" in parts:
        report["online"] = fresh(online, options.pool)
        keep("from empty", {"exact": report["online"]})
    if "fuzz" in parts:
        report["fuzz"] = fresh(fuzz, options.decisions)
        keep("against the oracle", {"exact": report["fuzz"]})


if __name__ == "__main__":
    main()
