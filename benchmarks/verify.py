"""How long `verify` takes of runs of several sizes.

    python benchmarks/verify.py [--write] [--rows 10000 100000 1000000]

Runs are written without Ray, by the functions that a build calls: completions with eight made-up
instructions each, parsed, filtered and gated by ROUGE-L at the defaults; an instance for each
instruction; shards, card and report. They lie in a folder. ``seconds`` are of `verify`, which finds
nothing wrong; ``rows`` are training rows, and the largest process held ``peak_mib``.
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
from itertools import islice
from pathlib import Path
from typing import Any

import corpus
import pyarrow as pa

from ray_si.config.file import parse_config
from ray_si.dedup import Deduplicator
from ray_si.engines.base import Completion
from ray_si.export.rows import export_data
from ray_si.pipeline.decisions import completion_row, decide_round, texts_of
from ray_si.pipeline.gate import gate_options
from ray_si.pipeline.instance_rows import instance_row
from ray_si.pipeline.instances import AcceptedInstruction, Classified
from ray_si.pipeline.prompting import Prompting
from ray_si.run.checkpoint import CommittedRounds
from ray_si.run.ids import instance_seed
from ray_si.run.instance_parts import BlockRecord, InstanceParts
from ray_si.run.layout import block_key, round_folder
from ray_si.run.run import Run
from ray_si.run.schemas import INSTANCE_BLOCK, RAW_BLOCK
from ray_si.run.seeds import load_seeds
from ray_si.storage.tables import write_table

EACH = 8
"""Instructions of a completion."""


def write_run(folder: str, target: int) -> int:
    """A finished run of so many instructions; its training rows."""
    config = parse_config(
        {
            "target_instructions": target,
            "generator": {"engine": "replay", "model": None},
            "classification": {"method": "prompt"},
            "dedup": {"cosine": None},
        }
    )
    seeds, digest = load_seeds("bundled")
    header = {"config": config.model_dump(mode="json"), "identity": config.identity()}
    run = Run.prepare(folder, header | {"seeds_sha256": digest}, config.fingerprint(digest))
    texts = corpus.texts(100 * target)
    gate = Deduplicator(**gate_options(config.dedup))
    gate.add([seed.instruction for seed in seeds])
    prompting = Prompting(config, seeds)
    with run.held():
        run.create(seeds)
        rounds = CommittedRounds(run)
        while rounds.accepted < target:
            number = len(rounds.manifests)
            asked = [
                {name: value for name, value in row.items() if name not in ("prompt", "stop")}
                for row in prompting.rows(number)
            ]
            rows: list[Any] = [
                row | completion_row(_completion(list(islice(texts, EACH)))) for row in asked
            ]
            room = target - rounds.accepted
            decided = decide_round(
                config, number, rows, room, lambda usable: gate.filter(texts_of(usable))
            )
            size = config.bootstrap.block_size
            infos = []
            for start in range(0, len(rows), size):
                key = block_key(round_folder(number), start // size)
                table = pa.Table.from_pylist(rows[start : start + size], RAW_BLOCK)
                infos.append(write_table(run.objects, key, table))
            accepted, rejected, manifest, _ = decided
            manifest["pool"] = len(seeds) + rounds.accepted + accepted.num_rows
            stored = run.commit_round(number, infos, accepted, rejected, manifest)
            prompting.extend(accepted)
            rounds.append(stored, accepted)
        _write_instances(run, config, rounds)
        stats = export_data(run, config.output.format, config.output.rows_per_shard)
    return stats["rows"]


def _completion(texts: list[str]) -> Completion:
    body = "\n".join(f"{9 + i}. {text}" for i, text in enumerate(texts))
    return Completion(body.partition(" ")[2], "stop", prompt_tokens=600, completion_tokens=200)


def _write_instances(run: Run, config: Any, rounds: CommittedRounds) -> None:
    size = config.instances.block_size
    parts = InstanceParts(run, size)
    for block, start in enumerate(range(0, rounds.accepted, size)):
        pool = rounds.rows(start, min(start + size, rounds.accepted)).to_pylist()
        rows = [
            instance_row(
                config,
                AcceptedInstruction.of(row),
                block,
                instance_seed(config.seed, start + k),
                Classified(row["classification_prompt"]),
                Completion(f" Output: The answer to {row['id']}.", "stop"),
                None,
            )
            for k, row in enumerate(pool)
        ]
        table = pa.Table.from_pylist(rows, INSTANCE_BLOCK)
        info = write_table(run.objects, block_key("instances", block), table)
        parts.add(BlockRecord.of(table, info))
    parts.commit(rounds.accepted, {"rounds": len(rounds.manifests)})


def verify(folder: str) -> None:
    """Print seconds and memory of one verification; in a process of its own."""
    from ray_si.audit.verify import verify as verify_run

    began = time.perf_counter()
    checks = verify_run(folder, processes=os.cpu_count() or 1)
    seconds = time.perf_counter() - began
    assert all(check.ok for check in checks), [check.as_dict() for check in checks if not check.ok]
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(json.dumps({"seconds": round(seconds, 2), "peak_mib": max(own, workers) >> 10}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--verify", metavar="RUN", help="measure one run that is there")
    parser.add_argument("--write", action="store_true", help="write benchmarks/verify.json")
    options = parser.parse_args()
    if options.verify:
        verify(options.verify)
        return
    sizes = []
    for target in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            rows = write_run(f"{folder}/run", target)
            command = [sys.executable, __file__, "--verify", f"{folder}/run"]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        each = json.loads(done.stdout)
        per_row = round(1e6 * each["seconds"] / rows, 1)
        sizes.append({"instructions": target, "rows": rows, **each, "microseconds_a_row": per_row})
        print(sizes[-1], file=sys.stderr, flush=True)
    machine = {"cores": os.cpu_count(), "python": platform.python_version()}
    text = json.dumps({"machine": machine, "sizes": sizes}, indent=1) + "\n"
    print(text)
    if options.write:
        Path(__file__).with_suffix(".json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
