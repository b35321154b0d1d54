"""The exact cosine gate beside FAISS and semhash, in one run.

    python benchmarks/cosine_peers.py                        at 131,072 vectors
    python benchmarks/cosine_peers.py --pool 20000 --seconds 2        a look
    python benchmarks/cosine_peers.py --only semhash --write          the exact index and semhash
    python benchmarks/cosine_peers.py --only flat --pool 10000000 --write
    python benchmarks/cosine_peers.py --write         also write cosine_peers.json, a kind at a time

Vectors, queries and the indexes of FAISS are those of cosine.py, with which an HNSW graph is built
here at this size too. Decisions of flat and panorama have to be the exact ones. Beyond 1,000,000
vectors, flat has a part of them at a time, and its times are added: all would take more memory than
there is.

semhash is `SemHash.deduplicate` against a fitted index, with its own choice of that (usearch, an
HNSW graph) and its scoring of what that finds. Its default embedder comes from the hub, so it gets
our vectors: an encoder that looks them up, and the texts are their numbers. It comes with
`pip install -e ".[bench]"`.

Recall is the share of the queries above the threshold, 0.9, that are found so. Compare by the
processor's time where other work shares the machine, with ``OMP_NUM_THREADS=1``.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import cosine
import embeddings
import numpy as np
from measuring import fresh, peak_mib, rounded, table, timed
from rich.console import Console

POOL = 131_072
MOST_AT_ONCE = 1_000_000
KINDS = ("flat", "panorama", "ivf", "hnsw", "semhash")
RESULT = Path(__file__).with_suffix(".json")


class Stored:
    """An encoder whose texts are the numbers of rows of ``vectors``."""

    def __init__(self) -> None:
        self.vectors = np.zeros((0, embeddings.DIMENSION), np.float32)

    def encode(self, inputs: Any, **_: Any) -> np.ndarray:
        return self.vectors[[int(text.rpartition(" ")[2]) for text in inputs]]


def semhash(pool: int, seconds: float) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """The numbers of `SemHash`, and cosines and ids of what it refuses, 0 and -1 of the rest."""
    from semhash import SemHash

    stored = Stored()
    vectors = np.concatenate(list(cosine.pool_of(pool)))
    names = [f"text {i}" for i in range(pool)]
    index, build = timed(SemHash.from_embeddings, vectors, names, stored)

    def search(queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        stored.vectors = queries
        found = index.deduplicate([f"query {i}" for i in range(len(queries))], cosine.THRESHOLD)
        cosines, ids = np.zeros(len(queries)), np.full(len(queries), -1)
        for refused in found.filtered:
            row = int(refused.record.rpartition(" ")[2])
            cosines[row] = refused.score
            ids[row] = int(refused.duplicate_of.rpartition(" ")[2])
        return cosines, ids

    numbers, answers = cosine.measured(search, cosine.queries_of(pool), seconds)
    cosines, ids = (np.concatenate(part) for part in zip(*answers, strict=True))
    return numbers | {"build_seconds": build, "peak_rss_mib": peak_mib()}, cosines, ids


def flat_in_parts(pool: int, seconds: float) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """The numbers of FAISS Flat over a part of the vectors at a time, and cosines and ids."""
    import faiss

    queries = cosine.queries_of(pool)[: cosine.BATCH]
    cosines, ids = np.full(len(queries), -1.0), np.full(len(queries), -1)
    clock = cpu = 0.0
    index, held = faiss.IndexFlatIP(embeddings.DIMENSION), 0

    def search() -> None:
        nonlocal clock, cpu, cosines, ids
        search = lambda asked: index.search(asked, 1)  # noqa: E731
        numbers, [(found, places)] = cosine.measured(search, queries, seconds)
        clock += len(queries) / numbers["queries_per_second"]
        cpu += len(queries) / numbers["queries_per_cpu_second"]
        ids = np.where(found[:, 0] > cosines, places[:, 0] + held - index.ntotal, ids)
        cosines = np.maximum(cosines, found[:, 0])
        index.reset()

    for rows in cosine.pool_of(pool):
        index.add(rows)
        held += len(rows)
        if index.ntotal >= MOST_AT_ONCE:
            search()
    if index.ntotal:
        search()
    numbers = {
        "queries_per_second": len(queries) / clock,
        "queries_per_cpu_second": len(queries) / cpu,
        "queries": len(queries),
        "peak_rss_mib": peak_mib(),
    }
    return numbers, cosines, ids


def compared(kind: str, pool: int, seconds: float, ours: Any) -> dict[str, Any]:
    """The numbers of one kind, beside what the exact index answered to the same queries."""
    numbers, cosines, ids = ours
    if kind == "semhash":
        theirs, others, _ = fresh(semhash, pool, seconds)
    elif kind == "flat" and pool > MOST_AT_ONCE:
        theirs, others, _ = fresh(flat_in_parts, pool, seconds)
    else:
        theirs, others, _ = fresh(cosine.by_faiss, kind, pool, seconds)
    n = min(len(others), len(ids))
    if kind in ("flat", "panorama"):
        cosine.check_equal(cosines[:n], ids[:n], others[:n])
    else:
        theirs["recall"] = float((others[:n][ids[:n] >= 0] > cosine.THRESHOLD).mean())
    rate = "queries_per_cpu_second"
    return theirs | {"exact_is_times_faster_by_cpu": numbers[rate] / theirs[rate]}


def main() -> None:
    import faiss

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=KINDS, action="append", help="repeatable")
    parser.add_argument("--pool", type=int, default=POOL)
    parser.add_argument("--seconds", type=float, default=20, help="of searching, per contender")
    parser.add_argument("--write", action="store_true", help=f"write benchmarks/{RESULT.name}")
    options = parser.parse_args()
    kinds = options.only or KINDS
    if not hasattr(faiss, "IndexFlatIPPanorama"):
        kinds = [kind for kind in kinds if kind != "panorama"]

    about = cosine.machine()
    about |= {name: importlib.metadata.version(name) for name in ("semhash", "usearch")}
    report: dict[str, Any] = {"machine": about, "threshold": cosine.THRESHOLD, "pools": {}}
    if RESULT.exists() and options.write:
        earlier = json.loads(RESULT.read_text(encoding="utf-8"))
        report = earlier if earlier["machine"] == about else report
    entries = report["pools"].setdefault(str(options.pool), {})

    def keep(name: str, numbers: dict[str, Any]) -> None:
        entries[name] = numbers
        if options.write:
            RESULT.write_text(json.dumps(rounded(report), indent=1) + "\n", encoding="utf-8")

    ours = fresh(cosine.exact, options.pool, options.seconds)
    keep("exact", ours[0])
    for kind in kinds:
        keep(kind, compared(kind, options.pool, options.seconds, ours))
    Console().print(table(f"search in {options.pool:,}", entries))


if __name__ == "__main__":
    main()
