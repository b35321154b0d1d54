"""The ROUGE-L gate of this checkout beside that of an earlier commit, in one run.

    python benchmarks/gate_history.py 36f934d              a table
    python benchmarks/gate_history.py 36f934d --write      also write gate_history.json

Machines differ and are shared, so a speed of today says nothing of one measured before. Both codes
take turns, each time in a fresh process, on the same texts of corpus.py: `RougeIndex.search` of new
texts against a pool, and `Deduplicator.filter` of texts from an empty pool on. What they find has
to be equal. Ratios are of medians, above 1 where this checkout is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measuring import machine

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).with_suffix(".json")
POOL, QUERIES, FILTERED, BATCH = 52_000, 200_000, 100_000, 10_000

TURN = """
import hashlib, json, sys, time
sys.path.append(sys.argv[1])
import corpus
from ray_si.dedup import Deduplicator, RougeIndex
pool, queries, filtered, batch = map(int, sys.argv[2:])
texts = list(corpus.texts(pool + queries))
index = RougeIndex(0.7, "reference")
index.add(texts[:1000])
index.search(texts[1000:1100])  # compiled, or read from where that is kept
index = RougeIndex(0.7, "reference")
index.add(texts[:pool])
found = hashlib.sha256()
began = time.perf_counter()
for start in range(pool, pool + queries, batch):
    for part in index.search(texts[start : start + batch]):
        found.update(part.tobytes())
search = time.perf_counter() - began
gate = Deduplicator(rouge=0.7, cosine=None, tokenizer="reference")
began = time.perf_counter()
for start in range(0, filtered, batch):
    result = gate.filter(texts[start : start + batch])
    found.update(json.dumps(list(map(int, result.accepted))).encode())
took = time.perf_counter() - began
rates = {"search": queries / search, "filter": filtered / took}
print(json.dumps(rates | {"found": found.hexdigest()}))
"""


def turn(checkout: Path) -> dict[str, Any]:
    """Candidates a second by part, and a digest of all that was found."""
    sizes = map(str, (POOL, QUERIES, FILTERED, BATCH))
    done = subprocess.run(
        [sys.executable, "-c", TURN, str(Path(__file__).parent), *sizes],
        env=os.environ | {"PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("commit", help="the earlier one")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", folder, options.commit], check=True)
        try:
            turns = [(turn(Path(folder)), turn(ROOT)) for _ in range(options.turns)]
        finally:
            subprocess.run([*git, "remove", "--force", folder], check=True)
    if len({result["found"] for pair in turns for result in pair}) > 1:
        raise SystemExit("the two do not find the same")
    result: dict[str, Any] = {
        "before": options.commit,
        "machine": machine(),
        "pool": POOL,
        "turns": options.turns,
    }
    for part in ("search", "filter"):
        before, now = ([pair[i][part] for pair in turns] for i in (0, 1))
        ratios = [b[part] / a[part] for a, b in turns]
        result[part] = {
            "before": round(statistics.median(before)),
            "now": round(statistics.median(now)),
            "ratio": round(statistics.median(ratios), 3),
            "ratios": [round(ratio, 3) for ratio in ratios],
        }
        print(f"{part}: {result[part]}")
    if options.write:
        RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
