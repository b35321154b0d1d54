"""How fast a finished run is exported, by kind of files, and what encoding rows costs.

    python benchmarks/export.py [--write] [--gigabytes 1]

A run with made-up rows of some 400 bytes is written without Ray, then exported on the cores this
process may use, to the disk that holds temporary files. Rates are in MB (10^6 bytes) of JSON lines
a second, whatever the kind; the best of three, since other work on the machine only ever slows one
down. ``load_average_before`` says how much of that there was, and ``processor_seconds`` what an
export costs in spite of it. ``encoding`` is one core on rows as `ray_si.export.training_lines`
encodes them, by encoder and by how many rows are encoded at once: where they do not fit into the
processor's cache it takes twice as long.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import corpus
import pyarrow as pa

from ray_si.export.rows import export_data
from ray_si.export.training_files import Options, write_training_files
from ray_si.export.training_lines import encoder
from ray_si.run.instance_parts import BlockRecord, InstanceParts
from ray_si.run.layout import block_key
from ray_si.run.run import Run
from ray_si.run.schemas import ACCEPTED, INSTANCE_BLOCK, REJECTED
from ray_si.run.seeds import load_seeds
from ray_si.self_instruct.formats import layout
from ray_si.storage.tables import write_table

REPEATS = 3
ROWS_PER_SHARD = 50_000
BLOCK = 10_000

CASES: dict[str, dict[str, Any]] = {
    "jsonl": {},
    "jsonl, shards of 100 MB": {"bytes_per_shard": 100_000_000},
    "jsonl, shuffled and split": {"shuffle": True, "validation": 0.02},
    "jsonl.zst": {"kind": "jsonl.zst"},
    "jsonl.gz": {"kind": "jsonl.gz"},
    "parquet": {"kind": "parquet", "bytes_per_shard": 256_000_000},
}


def write_run(location: str, rows: int) -> Run:
    """A finished run with that many rows, one for each instruction."""
    header = {"config": {"target_instructions": rows}, "identity": {}}
    run = Run.prepare(location, header, "benchmark")
    rng = random.Random(0)
    words = " ".join(corpus.texts(2000)).split()
    with run.held():
        run.create(load_seeds("bundled")[0])
        parts = InstanceParts(run, BLOCK)
        for number, start in enumerate(range(0, rows, BLOCK)):
            count = min(BLOCK, rows - start)
            ids = [f"r{number:05d}-{i:05d}-00" for i in range(count)]
            texts = [_text(words, rng, 14) for _ in ids]
            accepted = [
                {"id": id_, "instruction": text, "round": number, "model": "made up"}
                for id_, text in zip(ids, texts, strict=True)
            ]
            blocks = [
                {
                    "block": number,
                    "id": id_,
                    "instruction": text,
                    "seed": 0,
                    "is_classification": False,
                    "text": "",
                    "finish_reason": "stop",
                    "completion_tokens": 0,
                    "instances": [
                        {"input": _text(words, rng, 12), "output": _text(words, rng, 48)}
                    ],
                    "rejected": [],
                }
                for id_, text in zip(ids, texts, strict=True)
            ]
            manifest = {
                "round": number,
                "accepted": count,
                "candidates": count,
                "requests": 1,
                "completion_tokens": 0,
                "rejected": {},
            }
            none = pa.Table.from_pylist([], REJECTED)
            run.commit_round(number, [], pa.Table.from_pylist(accepted, ACCEPTED), none, manifest)
            table = pa.Table.from_pylist(blocks, INSTANCE_BLOCK)
            info = write_table(run.objects, block_key("instances", number), table)
            parts.add(BlockRecord.of(table, info))
        parts.commit(rows, {})
        export_data(run, "parquet", ROWS_PER_SHARD)
    return run


def _text(words: list[str], rng: random.Random, length: int) -> str:
    start = rng.randrange(len(words) - length)
    return " ".join(words[start : start + length]) + ('.\n"So."' if rng.random() < 0.2 else ".")


def exports(run: Run, folder: str) -> dict[str, Any]:
    """MB of JSON lines a second, and seconds, of each case."""
    size = None
    found: dict[str, Any] = {}
    for name, options in CASES.items():
        seconds, processor = [], []
        for _ in range(REPEATS):
            with tempfile.TemporaryDirectory(dir=folder) as to:
                began, used = time.perf_counter(), time.process_time()
                done = write_training_files(
                    run, to, layout("messages"), Options("messages", **options), {}
                )
                seconds.append(time.perf_counter() - began)
                processor.append(time.process_time() - used)
                if size is None:
                    size = (Path(to) / done.keys[0]).stat().st_size
        assert size is not None
        best = min(seconds)
        found[name] = {
            "seconds": round(best, 2),
            "processor_seconds": round(min(processor), 2),
            "mb_per_s": round(size / best / 1e6),
        }
    return {"json_bytes": size, "by_case": found}


def encoding(run: Run) -> dict[str, Any]:
    """MB of JSON lines a second of processor time, by encoder and rows at once."""
    key = run.stats()["shards"][0]["key"]  # type: ignore[index]
    rows = layout("messages")
    table = run.read(key, list(rows.columns))
    found: dict[str, Any] = {}
    encoders = {"orjson": encoder(["instruction"]), "json": encoder(["mean_rouge"])}
    for name, encode in encoders.items():
        found[name] = {}
        for size in (500, 5_000, 50_000):
            rates = []
            for _ in range(REPEATS):
                began, written = time.process_time(), 0
                for chunk in table.to_batches(max_chunksize=size):
                    values = {column: chunk.column(column).to_pylist() for column in rows.columns}
                    numbers = [0] * chunk.num_rows
                    lines = [encode(row) for row in rows.rows(values, numbers)]
                    written += sum(map(len, lines))
                rates.append(written / (time.process_time() - began) / 1e6)
            found[name][f"{size} rows at once"] = round(max(rates))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=1, help="of JSON lines")
    parser.add_argument("--write", action="store_true", help="write benchmarks/export.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = write_run(f"{folder}/run", int(options.gigabytes * 1e9 / 530))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        report = {
            "machine": {
                "cores": len(os.sched_getaffinity(0)),
                "python": platform.python_version(),
                "pyarrow": pa.__version__,
            },
            "load_average_before": round(os.getloadavg()[0], 1),
            "rows": run.stats()["rows"],  # type: ignore[index]
            "encoding_mb_per_s_of_one_core": encoding(run),
            "export": exports(run, folder),
        }
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        report["peak_mib"] = {"writing the run": before >> 10, "all": peak >> 10}
    text = json.dumps(report, indent=1) + "\n"
    print(text)
    if options.write:
        Path(__file__).with_suffix(".json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
