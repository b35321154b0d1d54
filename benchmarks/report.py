"""What a report costs on a large run: time, peak memory, size of the page.

    python benchmarks/report.py [--write] [--rows 1000000] [--run FOLDER]

Writes a finished run of made-up texts through the project's own storage (rounds of a thousand
accepted instructions with embeddings, a rejection of each kind, instance blocks of the default 16,
training shards; 16 instructions give 25 rows, as the paper's 52 thousand gave 82) and runs
`ray-si report` on it, a process of its own. With --run the run is kept there, and used again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import pyarrow as pa

from ray_si.config import RunConfig
from ray_si.config.file import parse_config
from ray_si.export.rows import export_data
from ray_si.run.instance_parts import BlockRecord, InstanceParts
from ray_si.run.layout import block_key, round_folder
from ray_si.run.run import Run
from ray_si.run.schemas import ACCEPTED, INSTANCE_BLOCK, RAW_BLOCK, REJECTED
from ray_si.run.seeds import load_seeds
from ray_si.storage.tables import write_table

ROUND, REFUSED, REQUESTS = 1000, 1500, 320
"""Accepted and rejected candidates of a round, and its requests."""
DIMENSION = 384
REASONS = ("rouge", "rouge", "rouge", "cosine", "too_short", "keyword", "unfinished")


def config(instructions: int) -> RunConfig:
    """As `ray-si build` has it by default, but for the target and the engine."""
    return parse_config(
        {
            "target_instructions": instructions,
            "generator": {"engine": "replay", "model": None},
            "bootstrap": {"prompts_per_round": REQUESTS},
        }
    )


def write_run(folder: str, rows: int) -> None:
    """A finished run with that many training rows."""
    os.fsync = lambda descriptor: None  # type: ignore[assignment]  # it need not outlast a power cut
    instructions = rows * 16 // 25
    settings = config(instructions)
    seeds, digest = load_seeds("bundled")
    header = {"config": settings.model_dump(mode="json"), "identity": settings.identity()}
    run = Run.prepare(folder, header, settings.fingerprint(digest))
    rounds = -(-instructions // ROUND)
    texts = corpus.texts(instructions + rounds * REFUSED)
    words = list(corpus.texts(5000, seed=1))
    random = np.random.default_rng(0)
    with run.held():
        run.create(seeds)
        parts = InstanceParts(run, 16)
        pool: list[tuple[str, str]] = []
        for round_ in range(rounds):
            count = min(ROUND, instructions - round_ * ROUND)
            write_round(run, round_, list(islice(texts, count + REFUSED)), random, len(seeds))
            accepted = run.read(
                f"{round_folder(round_)}/accepted-00001.parquet", ["id", "instruction"]
            )
            pool += zip(
                *(accepted[name].to_pylist() for name in accepted.column_names), strict=True
            )
        for number, start in enumerate(range(0, len(pool), 16)):
            table = written(number, pool[start : start + 16], words)
            info = write_table(run.objects, block_key("instances", number), table)
            parts.add(BlockRecord.of(table, info))
        parts.commit(len(pool), {})
        export_data(run, "parquet", 10_000)


def write_round(
    run: Run, round_: int, texts: list[str], random: np.random.Generator, seeds: int
) -> None:
    """One round: its raw blocks, decisions and manifest."""
    count = len(texts) - REFUSED
    requests = [f"r{round_:05d}-{k:05d}" for k in range(REQUESTS)]
    demonstrations = [
        [f"seed_{k:03d}" for k in random.integers(1, seeds, 8 if round_ < 2 else 6)]
        + [f"r{round_ - 2:05d}-{k:05d}-00" for k in random.integers(0, REQUESTS, 2) if round_ > 1]
        for _ in requests
    ]
    spoken = [" ".join(texts[k::REQUESTS]) for k in range(REQUESTS)]
    raw = [
        {
            "block": k // 32, "request_id": id_, "seed": 2**62 + k, "classification_prompt": False,
            "demonstrations": demonstrations[k], "text": spoken[k], "finish_reason": "stop",
            "prompt_tokens": 200, "completion_tokens": 150,
        }
        for k, id_ in enumerate(requests)
    ]  # fmt: skip
    infos = []
    for block, start in enumerate(range(0, REQUESTS, 32)):
        table = pa.Table.from_pylist(raw[start : start + 32], RAW_BLOCK)
        infos.append(write_table(run.objects, block_key(round_folder(round_), block), table))
    vectors = random.standard_normal((count, DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    accepted = [
        {
            "id": f"{requests[k % REQUESTS]}-{k // REQUESTS:02d}", "instruction": texts[k],
            "round": round_, "request_id": requests[k % REQUESTS], "position": k // REQUESTS,
            "request_seed": 2**62 + k % REQUESTS, "classification_prompt": False,
            "demonstrations": demonstrations[k % REQUESTS], "model": "replay", "cosine": 0.5,
        }
        for k in range(count)
    ]  # fmt: skip
    table = pa.Table.from_pylist(accepted, ACCEPTED)
    place = ACCEPTED.get_field_index("embedding")
    lists = pa.ListArray.from_arrays(np.arange(count + 1) * DIMENSION, vectors.ravel())
    table = table.set_column(place, "embedding", lists)
    rejected = []
    for k, text in enumerate(texts[count:]):
        reason = REASONS[k % len(REASONS)]
        close = reason in ("rouge", "cosine")
        rejected.append(
            {
                "request_id": requests[k % REQUESTS], "position": 50 + k // REQUESTS, "text": text,
                "reason": reason, "match": texts[k % count] if close else None,
                "score": 0.8 if close else None,
            }
        )  # fmt: skip
    reasons = [row["reason"] for row in rejected]
    manifest = {
        "round": round_, "requests": REQUESTS, "prompt_tokens": 200 * REQUESTS,
        "completion_tokens": 150 * REQUESTS, "candidates": len(texts), "accepted": count,
        "rejected": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
    }  # fmt: skip
    run.commit_round(round_, infos, table, pa.Table.from_pylist(rejected, REJECTED), manifest)


def written(number: int, pool: list[tuple[str, str]], words: list[str]) -> pa.Table:
    """An instance block: 25 instances for 16 instructions, one rejected."""
    rows = []
    for k, (id_, text) in enumerate(pool):
        found = [
            {"input": words[(7 * number + 3 * k + i) % 5000] if i else "",
             "output": " ".join(words[(11 * number + k + i + j) % 5000] for j in range(3))}
            for i in range(2 if k < 9 else 1)
        ]  # fmt: skip
        rows.append(
            {
                "block": number, "id": id_, "instruction": text, "seed": k,
                "is_classification": k % 8 == 0, "text": "Example 1\n" + found[0]["output"],
                "finish_reason": "stop", "prompt_tokens": 300, "completion_tokens": 80,
                "instances": found,
                "rejected": [found[0] | {"reason": "duplicate"}] if k == 0 else [],
            }
        )  # fmt: skip
    return pa.Table.from_pylist(rows, INSTANCE_BLOCK)


def measure(run: str, folder: str) -> dict[str, Any]:
    """`ray-si report` once."""
    page, numbers = f"{folder}/report.html", f"{folder}/report.json"
    command = [sys.executable, "-m", "ray_si", "report", run, "--to", page, "--json", numbers]
    began = time.perf_counter()
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    statistics = json.loads(Path(numbers).read_text())
    return {
        "seconds": round(seconds, 1),
        "peak_mib": round(peak / 1024),
        "page_bytes": Path(page).stat().st_size,
        "rows": statistics["funnel"]["rows"],
        "instructions": statistics["funnel"]["accepted"],
        "rejected_candidates": sum(statistics["rejected"]["instructions"].values()),
        "rounds": statistics["funnel"]["rounds"],
        "instance_blocks": sum(1 for _ in files(f"{run}/instances")) - 1,
        "run_bytes": sum(path.stat().st_size for path in files(run)),
        "parser": statistics["verbs"]["parser"],
        "parsed": statistics["verbs"].get("parsed"),
    }


def files(folder: str) -> Iterator[Path]:
    """Every file below a folder."""
    return (path for path in Path(folder).rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="training rows of the run")
    parser.add_argument("--run", help="keep the run here, or use the one that is there")
    parser.add_argument("--write", action="store_true", help="write benchmarks/report.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = options.run or f"{folder}/run"
        if not Path(run).exists():
            began = time.perf_counter()
            write_run(run, options.rows)
            print(f"run written in {time.perf_counter() - began:.0f} s", file=sys.stderr)
        report = {
            "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
            "report": measure(run, folder),
        }
    text = json.dumps(report, indent=1) + "\n"
    print(text)
    if options.write:
        Path(__file__).with_suffix(".json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
