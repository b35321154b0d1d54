"""Whole builds and `ray-si dedup` with models, embedder and gate on one GPU.

    python benchmarks/on_gpu.py --write                     all parts; writes on_gpu.json
    python benchmarks/on_gpu.py --only dedup --texts 20000

Every part runs in a process with a Ray of its own. Results are written after each part; those of
parts not run are kept.

- build: the quick start with more to write, its models and the cosine gate sharing the card.
  Seconds of each phase, what `ray-si status` says bounds it, and whether `ray-si verify` finds
  every decision right, which compares again on the processor.
- dedup: ``--texts`` made-up instructions (corpus.py) through `ray-si dedup`, embedded on the card,
  with the cosine gate on the card and on the processor. Both have to keep the same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import corpus

ROOT = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).with_suffix(".json")
PARTS = ("build", "dedup")
BUILD = (
    "target_instructions=1000",
    "generator.gpus=0.5",
    "generator.max_batch=256",
    "generator.batch_tokens=100000",
    "embedder.gpus=0.2",
    "dedup.gpus=0.2",
    "bootstrap.prompts_per_opening=40",
    "bootstrap.prompts_per_round=512",
    "bootstrap.block_size=128",
    "output.keep.rows=400",
    "output.keep.per_opening=30",
)
"""Overrides of the quick start's configuration."""


def ray_si(*words: str) -> tuple[float, str]:
    """Seconds that a command takes, and what it prints; CalledProcessError where it fails."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "ray_si", *words], check=True, stdout=subprocess.PIPE, text=True
    )
    return time.perf_counter() - began, done.stdout


def build(folder: Path) -> dict[str, Any]:
    """One build, checked."""
    run, options = str(folder / "run"), [word for value in BUILD for word in ("--set", value)]
    seconds, _ = ray_si("build", str(ROOT / "configs" / "quickstart.yaml"), "--out", run, *options)
    _, status = ray_si("status", run, "--json")
    _, verified = ray_si("verify", run)
    return {
        "seconds": round(seconds, 1),
        "status": json.loads(status),
        "verified": verified.splitlines(),
        "stats": json.loads((folder / "run" / "stats.json").read_text()),
    }


def dedup(folder: Path, texts: int) -> dict[str, Any]:
    """Both ways, and whether they keep the same."""
    source = folder / "texts.jsonl"
    with source.open("w") as file:
        for text in corpus.texts(texts):
            file.write(json.dumps({"instruction": text}) + "\n")
    found: dict[str, Any] = {"texts": texts}
    kept = {}
    for name, gate in (("gpu", ["--gate-gpus", "0.3"]), ("processor", [])):
        out = folder / f"{name}.jsonl"
        seconds, printed = ray_si(
            *("dedup", str(source), "--to", str(out), "--embedders", "2"),
            *("--embedder-gpus", "0.3", *gate),
        )
        kept[name] = out.read_bytes()
        found[name] = {
            "seconds": round(seconds, 1),
            "kept": kept[name].count(b"\n"),
            "printed": printed.splitlines(),
        }
    found["same_bytes"] = kept["gpu"] == kept["processor"]
    return found


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS, action="append", help="repeat for more")
    parser.add_argument("--texts", type=int, default=200_000, help="of dedup")
    parser.add_argument("--write", action="store_true", help=f"update benchmarks/{RESULT.name}")
    options = parser.parse_args()
    import torch

    report: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    report["machine"] = {
        "card": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    for part in options.only or PARTS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            report[part] = build(folder) if part == "build" else dedup(folder, options.texts)
        print(json.dumps({part: report[part]}, indent=1), flush=True)
        if options.write:
            RESULT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
