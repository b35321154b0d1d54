"""What stands between the resumption of a large run on S3 and its next request, and `status`.

    python benchmarks/resume.py [--write] [--pool 1000000]

The run has that many accepted instructions, in rounds of about the size that the defaults give, and
all its instance blocks but one, at the default size; its driver was killed. It lies on a loopback
S3 that adds 25 ms to each call (`slow_s3`). ``resume`` is a process that reads what is committed,
finds the block that lacks, and is about to ask for it; Ray's and the models' start come on top.
``status`` is the command, its start included; once with the ``live.json`` that the killed driver
left, once without. Calls are those that the store was asked.

Blocks that lie in written parts of the manifest are not read by either, so here they are empty.
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
import threading
import time
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any, cast

import corpus
import pyarrow as pa
from slow_s3 import BUCKET, slow_s3

from ray_si.config import RunConfig
from ray_si.config.file import parse_config
from ray_si.run.checkpoint import CommittedRounds
from ray_si.run.instance_parts import PART_BLOCKS, BlockRecord, InstanceParts
from ray_si.run.layout import block_key
from ray_si.run.run import Run
from ray_si.run.schemas import ACCEPTED, INSTANCE_BLOCK, REJECTED
from ray_si.run.seeds import load_seeds
from ray_si.run.tokens import Tokens
from ray_si.storage.tables import ShardInfo, write_table

ROUND = 200
"""Accepted instructions of a round: the default's 64 prompts, at three each and a bit."""

DELAY_S = 0.025
LACKING = 0.6
"""Where the missing block stands, as a share of all."""


def config(pool: int) -> RunConfig:
    """The defaults on the scripted replay, whose target is what is accepted."""
    generator = {"engine": "replay", "model": None}
    return parse_config(
        {"target_instructions": pool, "generator": generator, "dedup": {"cosine": None}}
    )


def write_run(folder: Path, pool: int) -> None:
    """The run as its driver left it."""
    settings = config(pool)
    seeds, digest = load_seeds("bundled")
    header = {"config": settings.model_dump(mode="json"), "identity": settings.identity()}
    run = Run.prepare(str(folder), header | {"seeds_sha256": digest}, settings.fingerprint(digest))
    texts = corpus.texts(pool)
    with run.held():
        run.create(seeds)
        rounds = CommittedRounds(run)
        for number in range(-(-pool // ROUND)):
            rows = [
                {
                    "id": f"r{number:05d}-{k:05d}-00", "instruction": text, "round": number,
                    "classification_prompt": False, "request_id": f"r{number:05d}-{k:05d}",
                    "position": 0, "request_seed": k, "model": "replay",
                    "demonstrations": [f"seed_{i}" for i in range(8)],
                }
                for k, text in enumerate(islice(texts, ROUND))
            ]  # fmt: skip
            accepted = pa.Table.from_pylist(rows, ACCEPTED)
            manifest: Any = {
                "round": number, "requests": 64, "prompt_tokens": 40_000, "completion_tokens": 900,
                "candidates": 2 * len(rows), "accepted": len(rows), "contaminated": {},
                "rejected": {"rouge": len(rows)},
            }  # fmt: skip
            none = pa.Table.from_pylist([], REJECTED)
            rounds.append(run.commit_round(number, [], accepted, none, manifest), accepted)
            rounds.write()
        _write_instances(run, rounds, settings.instances.block_size)


def _write_instances(run: Run, rounds: CommittedRounds, size: int) -> None:
    parts = InstanceParts(run, size)
    blocks = -(-rounds.accepted // size)
    lacking = int(LACKING * blocks)
    folder = Path(run.location)
    for number in range(blocks):
        if number == lacking:
            continue
        part = number // PART_BLOCKS
        key = block_key("instances", number)
        if part == lacking // PART_BLOCKS or (part + 1) * PART_BLOCKS > blocks:
            start = number * size
            table = _block(number, rounds.rows(start, min(start + size, rounds.accepted)))
            parts.add(BlockRecord.of(table, write_table(run.objects, key, table)))
        else:
            (folder / key).parent.mkdir(exist_ok=True)
            (folder / key).touch()
            info = ShardInfo(key, size, 0, "0" * 64)
            parts.add(BlockRecord(number, info, size, Tokens(size * 400, size * 120)))
    counts = parts.counts
    live = {
        "at": "", "ended": False, "phase": "instances", "done": counts.instructions, "written": {
            "instructions": counts.instructions, "instances": counts.instances,
            "prompt_tokens": counts.tokens.prompt, "completion_tokens": counts.tokens.completion,
            "contaminated": {},
        },
    }  # fmt: skip
    run.objects.put("live.json", json.dumps(live).encode())


def _block(number: int, accepted: pa.Table) -> pa.Table:
    rows = [
        {
            "block": number, "id": row["id"], "instruction": row["instruction"], "seed": 1,
            "is_classification": False, "classification_prompt_tokens": 300,
            "classification_completion_tokens": 1, "text": row["instruction"] * 4,
            "finish_reason": "stop", "prompt_tokens": 100, "completion_tokens": 119, "rejected": [],
            "instances": [{"input": "", "output": row["instruction"] * 4}],
        }
        for row in accepted.to_pylist()
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, INSTANCE_BLOCK)


class Counted:
    """A store that counts its calls."""

    def __init__(self, objects: Any, calls: Counter[str]) -> None:
        self._objects, self._calls = objects, calls

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._objects, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            self._calls[name] += 1
            return method(*arguments, **options)

        return counted if callable(method) else method


def resume(location: str) -> None:
    """Print what a driver needs until it asks for the missing block; in a process of its own."""
    from ray_si.build import instances
    from ray_si.pipeline.progress import Reporter
    from ray_si.pipeline.token_budget import TokenBudget
    from ray_si.serving.applications import Generators
    from ray_si.serving.background import Alarm

    asked: list[tuple[float, list[int]]] = []
    first = threading.Event()

    def write_blocks(blocks: dict[int, pa.Table], *_: Any, **__: Any) -> Any:
        asked.append((time.perf_counter(), list(blocks)))
        first.set()
        return iter(())

    cast(Any, instances).write_blocks = write_blocks
    calls: Counter[str] = Counter()
    run = Run.open(location)
    settings = parse_config(run.header["config"])
    with run.held():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        run.objects = cast(Any, Counted(run.objects, calls))
        rounds = CommittedRounds.read(run)
        read = time.perf_counter()
        phase = instances.InstancePhase(
            settings,
            run,
            rounds,
            Generators({}, {"app": 64}),
            Reporter(lambda progress: None),
            TokenBudget.of(settings, run, load_seeds("bundled")[0]),
            Alarm(),
        )
        phase.begin()
        first.wait()
        until_asked = dict(calls)
        phase.abandon()
        phase.wait()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps(
            {
                "rounds_seconds": round(read - began, 2),
                "first_request_seconds": round(asked[0][0] - began, 2),
                "blocks_asked": asked[0][1],
                "calls": until_asked,
                "all_blocks_known_seconds": round(time.perf_counter() - began, 2),
                "driver_mib": {"before": before >> 10, "peak": peak >> 10},
            }
        )
    )


def measure(pool: int, repeats: int) -> dict[str, Any]:
    """Seconds of a resume and of `status`."""
    with tempfile.TemporaryDirectory() as folder:
        write_run(Path(folder) / "run", pool)
        objects = sum(1 for path in Path(folder).rglob("*") if path.is_file())
        found: dict[str, Any] = {"accepted": pool, "objects": objects, "delay_s": DELAY_S}
        with slow_s3(Path(folder), DELAY_S) as environment:
            environment = os.environ | environment
            location = f"s3://{BUCKET}/run"

            def timed(*command: str) -> tuple[str, float]:
                began = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, *command],
                    env=environment, check=True, capture_output=True, text=True,
                )  # fmt: skip
                return done.stdout, round(time.perf_counter() - began, 2)

            status = ["-m", "ray_si", "status", location, "--json"]
            found["status"] = [timed(*status)[1] for _ in range(repeats)]
            found["resume"] = [
                json.loads(timed(__file__, "--resume", location)[0]) for _ in range(repeats)
            ]
            import boto3

            os.environ |= environment
            store = boto3.client("s3")
            store.delete_object(Bucket=BUCKET, Key="run/live.json")
            said, seconds = timed(*status)
            found["status_without_live_json"] = seconds
            found["status_says"] = {
                name: json.loads(said)[name] for name in ("accepted", "instructions_done", "phase")
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pool", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--resume", metavar="RUN", help="measure one resume of a run")
    parser.add_argument("--write", action="store_true", help="write benchmarks/resume.json")
    options = parser.parse_args()
    if options.resume:
        resume(options.resume)
        return
    report = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        **measure(options.pool, options.repeats),
    }
    text = json.dumps(report, indent=1) + "\n"
    print(text)
    if options.write:
        Path(__file__).with_suffix(".json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
