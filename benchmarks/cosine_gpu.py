"""The exact cosine search on a GPU, beside the card's own rate of matrix products.

    python benchmarks/cosine_gpu.py --write        1,000,000 and 10,000,000; writes cosine_gpu.json
    python benchmarks/cosine_gpu.py --device cpu --pool 20000 --queries 512      a look

Needs torch and NumPy alone. Vectors come from embeddings.py, 384 numbers each; the threshold is
0.9. Rates are the best of three, in queries a second; copies that a search needs are in them:

- exact: `DeviceRows.search`, which is what `CosineIndex(device="cuda")` searches with, for queries
  that are on the card already, in one call, and from NumPy in calls of several sizes.
- product: nothing but the matrix products of the same shapes and type (half precision), each
  written to memory. ``share_of_product`` is exact divided by it.
- bound: these products and the largest of each group of rows, the first step of the search.
- flat: the nearest of all, by products in single precision. Near the threshold it may decide
  otherwise.

``tiles`` searches with other numbers of products in memory at a time. Cosines and ids of a sample
have to equal those of an oracle that sums in double precision in NumPy, as have ``fuzz``'s
decisions on adversarial vectors; otherwise the run fails.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import adversarial
import embeddings
import numpy as np
import torch

HERE = Path(__file__).parent
THRESHOLD = 0.9
POOLS = (1_000_000, 10_000_000)
QUERIES = 65_536
BATCHES = (480, 4096, 16_384)
SAMPLE = 256
"""Queries that are held against the oracle."""
FLAT_QUERIES = 4096
DECISIONS = 32_000
TILES = (1 << 23, 1 << 24, 1 << 25, 1 << 26, 1 << 27)


def load() -> Any:
    """The module, without the packages that it is in: they import numba and faiss."""
    path = HERE.parent / "ray_si" / "dedup" / "cosine" / "device.py"
    spec = importlib.util.spec_from_file_location("device", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


device = load()


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def fastest(function: Callable[[], Any], repeat: int = 3) -> float:
    """Seconds of the fastest call, after one that isn't counted."""
    function()
    took = []
    for _ in range(repeat):
        synchronize()
        began = time.perf_counter()
        function()
        synchronize()
        took.append(time.perf_counter() - began)
    return min(took)


def blocks_of(pool: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """First id, vectors of the pool and queries, a block of embeddings.py after the other."""
    count = -(-pool // embeddings.POOL)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        for start in range(0, count, 64):  # so that not all of them wait in memory
            numbers = range(start, min(start + 64, count))
            for number, vectors in zip(
                numbers, threads.map(embeddings.block, numbers), strict=True
            ):
                first = number * embeddings.POOL
                size = min(embeddings.POOL, pool - first)
                yield first, vectors[:size], vectors[embeddings.POOL :]


class Oracle:
    """The best match above the threshold of some queries, in double precision, in NumPy."""

    def __init__(self, queries: np.ndarray) -> None:
        self._queries = queries.astype(np.float64)
        self.cosines = np.full(len(queries), THRESHOLD)
        self.ids = np.full(len(queries), -1)

    def look(self, rows: np.ndarray, first_id: int) -> None:
        """Compare with rows that follow those before."""
        rows = rows.astype(np.float64)
        # in no order, and so to 1e-9; what is near is summed in order
        near = self._queries @ rows.T > self.cosines[:, None] - 1e-9
        for query, row in np.argwhere(near):
            cosine = min(1.0, np.cumsum(self._queries[query] * rows[row])[-1])
            if cosine > self.cosines[query]:
                self.cosines[query], self.ids[query] = cosine, first_id + row


def products(index: Any, queries: torch.Tensor, use: Callable[[Any, torch.Tensor], Any]) -> None:
    """Give all blocks and so many queries at a time, in half precision, to a function."""
    halves = queries.half()
    for start in range(0, len(queries), device.QUERIES):
        for block in index._blocks:
            use(block, halves[start : start + device.QUERIES])


def multiply(block: Any, queries: torch.Tensor) -> None:
    """The matrix products of `device._largest_products` alone."""
    rows = max(1, device.PRODUCTS // len(queries) // device.GROUP) * device.GROUP
    size = -(-block.size // device.GROUP) * device.GROUP
    for first in range(0, size, rows):
        block.halves[first : min(first + rows, size)] @ queries.T


def flat(index: Any, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The highest cosine of each query and its id, in single precision."""
    best = torch.full((len(queries),), -2.0, device=queries.device)
    ids = torch.full((len(queries),), -1, device=queries.device)
    for block in index._blocks:
        for start in range(0, block.size, 16_384):
            rows = block.rows[start : min(start + 16_384, block.size)]
            cosines, found = (queries @ rows.T).max(dim=1)
            ids = torch.where(cosines > best, found + (block.first_id + start), ids)
            best = torch.maximum(best, cosines)
    return best, ids


def measure(pool: int, name: str, count: int) -> dict[str, Any]:
    """All numbers at one size of the pool."""
    index = device.DeviceRows(embeddings.DIMENSION, name)
    last = (pool - 1) // embeddings.POOL
    sampled = np.unique(np.linspace(0, last, 8).astype(int))
    tails = np.concatenate([embeddings.block(int(i))[embeddings.POOL :] for i in sampled])
    sample = tails[np.random.default_rng(0).permutation(len(tails))[:SAMPLE]]
    every = max(1, last * embeddings.QUERIES // count)  # blocks of which one is asked for queries
    oracle, asked, build = Oracle(sample), [], 0.0
    for first, rows, queries in blocks_of(pool):
        synchronize()
        began = time.perf_counter()
        index.add(rows)
        synchronize()
        build += time.perf_counter() - began
        oracle.look(rows, first)
        if first // embeddings.POOL % every == 0:
            asked.append(queries)
    held = torch.cuda.memory_allocated() if name != "cpu" else 0

    cosines, ids = index.search(sample, THRESHOLD)
    different = int(((ids != oracle.ids) | (cosines != oracle.cosines)).sum())
    if different:
        raise RuntimeError(f"{different} of {len(sample)} queries are decided otherwise in NumPy")

    queries = np.resize(np.concatenate(asked), (count, embeddings.DIMENSION))
    ready = torch.from_numpy(queries).to(name)
    rate = count / fastest(lambda: index.search(ready, THRESHOLD))
    peak = torch.cuda.max_memory_allocated() if name != "cpu" else 0
    calls = {}
    for size in (size for size in BATCHES if size <= count):
        some = queries[:size]
        calls[str(size)] = size / fastest(lambda some=some: index.search(some, THRESHOLD))
    product = count / fastest(lambda: products(index, ready, multiply))
    bound = count / fastest(lambda: products(index, ready, device._largest_products))
    few = ready[:FLAT_QUERIES]
    flat_rate = len(few) / fastest(lambda: flat(index, few), repeat=1)
    nearest, _ = flat(index, few)
    ours, found = index.search(few, THRESHOLD)
    off = np.abs(ours - nearest.cpu().numpy())[found >= 0]
    return {
        "exact_queries_per_second": rate,
        "exact_from_numpy_queries_per_second_by_size_of_the_call": calls,
        "product_queries_per_second": product,
        "product_teraflops": product * 2 * pool * embeddings.DIMENSION / 1e12,
        "share_of_product": rate / product,
        "bound_queries_per_second": bound,
        "flat_queries_per_second": flat_rate,
        "times_faster_than_flat": rate / flat_rate,
        "largest_difference_from_flat": float(off.max(initial=0)),
        "refused": float((found >= 0).mean()),
        "queries": count,
        "equal_to_double_precision": len(sample),
        "build_seconds": build,
        "bytes_per_vector": index.nbytes / pool,
        "device_memory_of_the_index_mib": held // 2**20,
        "device_memory_at_most_mib": peak // 2**20,
    }


def tiles(pool: int, name: str, count: int) -> dict[str, Any]:
    """The search's rate, and that of the products alone, by how many there are at a time."""
    index = device.DeviceRows(embeddings.DIMENSION, name)
    asked = []
    for _, rows, queries in blocks_of(pool):
        index.add(rows)
        asked.append(queries)
    queries = np.resize(np.concatenate(asked), (count, embeddings.DIMENSION))
    ready = torch.from_numpy(queries).to(name)
    usual, rates = device.PRODUCTS, {}
    for device.PRODUCTS in TILES:
        rates[str(device.PRODUCTS)] = {
            "exact": count / fastest(lambda: index.search(ready, THRESHOLD)),
            "product": count / fastest(lambda: products(index, ready, multiply)),
        }
    device.PRODUCTS = usual
    return rates


def rounded(value: Any) -> Any:
    """Numbers with four digits that say something."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--pool", type=int, action="append", help="repeatable")
    parser.add_argument("--queries", type=int, default=QUERIES)
    parser.add_argument("--decisions", type=int, default=DECISIONS, help="of fuzz")
    parser.add_argument("--out", type=Path, help="write the result there")
    parser.add_argument("--write", action="store_true", help="write benchmarks/cosine_gpu.json")
    options = parser.parse_args()
    files = [options.out] if options.out else []
    if options.write:
        files.append(Path(__file__).with_suffix(".json"))

    on_card = options.device != "cpu"
    report: dict[str, Any] = {
        "machine": {
            "card": torch.cuda.get_device_name(options.device) if on_card else None,
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
        },
        "threshold": THRESHOLD,
        "queries_at_a_time": device.QUERIES,
        "products_at_a_time": device.PRODUCTS,
        "pools": {},
    }

    def keep() -> None:
        text = json.dumps(rounded(report), indent=1) + "\n"
        for file in files:
            file.write_text(text, encoding="utf-8")

    began = time.perf_counter()

    def show(part: str, found: dict[str, Any]) -> None:
        took = time.perf_counter() - began
        print(f"{part}, after {took:.0f} s:", json.dumps(rounded(found), indent=1), flush=True)
        keep()

    make = lambda dimension: device.DeviceRows(dimension, options.device)  # noqa: E731
    report["fuzz"] = adversarial.fuzz(options.decisions, make, (1, 16, 64, 130, 384))
    show("fuzz", report["fuzz"])
    if report["fuzz"]["different"]:
        raise RuntimeError("decisions differ from the oracle's")
    pools = options.pool or POOLS
    for pool in pools:
        report["pools"][str(pool)] = measure(pool, options.device, options.queries)
        show(f"{pool:,}", report["pools"][str(pool)])
        if on_card:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    report["tiles"] = tiles(pools[0], options.device, options.queries)
    show("tiles", report["tiles"])


if __name__ == "__main__":
    main()
