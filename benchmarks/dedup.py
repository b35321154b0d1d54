"""How long `ray-si dedup` takes of a file of a million lines, the command's start included.

    python benchmarks/dedup.py [--write] [--lines 1000000]

Made-up instructions (corpus.py) in one JSONL file, without the cosine gate: in one process, and
over Ray with two shards of the gate, where starting Ray, tasks that read and batches that travel
come on top. Both have to write the same bytes. ``processor_seconds`` are of the command's process.
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
from pathlib import Path
from typing import Any

import corpus

RESULT = Path(__file__).with_suffix(".json")
WAYS = {"one process": [], "over Ray, 2 shards": ["--shards", "2"]}


def measure(source: Path, options: list[str]) -> tuple[dict[str, Any], bytes]:
    """Seconds of the command, and what it wrote."""
    out = source.with_name("kept.jsonl")
    command = [sys.executable, "-m", "ray_si", "dedup", str(source), "--to", str(out)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run(
        [*command, "--cosine", "off", "--overwrite", *options], check=True, capture_output=True
    )
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    rejected = out.with_name("kept.rejected.jsonl")
    written = out.read_bytes() + rejected.read_bytes()
    kept = out.read_bytes().count(b"\n")
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = {"seconds": round(seconds, 2), "processor_seconds": round(processor, 2), "kept": kept}
    return found, written


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--write", action="store_true", help=f"write benchmarks/{RESULT.name}")
    options = parser.parse_args()
    report: dict[str, Any] = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "lines": options.lines,
        "ways": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in.jsonl"
        with source.open("w", encoding="utf-8") as stream:
            for text in corpus.texts(options.lines):
                stream.write(json.dumps({"instruction": text}) + "\n")
        report["megabytes"] = round(source.stat().st_size / 1e6, 1)
        outputs = []
        for name, more in WAYS.items():
            report["ways"][name], written = measure(source, more)
            outputs.append(written)
            print(name, report["ways"][name], flush=True)
    assert outputs[0] == outputs[1], "the ways differ"
    if options.write:
        RESULT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
