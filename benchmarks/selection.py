"""What it takes to score a million rows and to select from them: time, memory, rows a second.

    python benchmarks/selection.py [--write] [--rows 1000000] [--run FOLDER]

A finished run of made-up rows (see benchmarks/export.py) is scored by what costs nothing and by the
executable checks, and rows are selected from it with their control; each is a process of its own,
its start included. Seconds are of the wall and of the processor, since other work on the machine
only ever slows one down; ``load_average_before`` says how much of that there was. With --run the
run is kept there, and used again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import export
import pyarrow as pa

from ray_si.run.run import Run

CASES = {
    "score length": ["score", "{run}", "length"],
    "score checks": ["score", "{run}", "checks"],
    "select all above a threshold": ["select", "{run}", "--by", "length > 20", "--to", "{to}"],
    "select the top tenth of two scores": [
        "select", "{run}", "--by", "length > 20 and checks", "--top", "{tenth}", "--to", "{to}",
    ],
}  # fmt: skip


def measure(run: str, folder: str, rows: int) -> dict[str, Any]:
    """Each case, in order, once: what is stored is not computed again."""
    shutil.rmtree(f"{run}/scores", ignore_errors=True)
    found: dict[str, Any] = {}
    for number, (name, case) in enumerate(CASES.items()):
        values = {"run": run, "to": f"{folder}/{number}", "tenth": str(rows // 10)}
        arguments = [part.format(**values) for part in case]
        found[name] = _measured([sys.executable, "-m", "ray_si", *arguments])
        found[name]["rows_per_s"] = round(rows / found[name]["seconds"])
    return found


def _measured(command: list[str]) -> dict[str, Any]:
    """Seconds of a process, and the most memory that it held."""
    program = "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:]); " + (
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); "
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss, file=sys.stderr); "
        "sys.exit(done.returncode)"
    )
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program, *command], capture_output=True, text=True, check=True
    )
    seconds = time.perf_counter() - began
    processor, peak = done.stderr.splitlines()[-1].split()
    print(done.stdout, end="")
    return {
        "seconds": round(seconds, 1),
        "processor_seconds": round(float(processor), 1),
        "peak_mib": int(peak) >> 10,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--run", help="where the run is kept")
    parser.add_argument("--write", action="store_true", help="write benchmarks/selection.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = options.run or f"{folder}/run"
        if not Path(run, "stats.json").is_file():
            export.write_run(run, options.rows)
        stats = Run.open(run).stats()
        assert stats is not None
        report = {
            "machine": {
                "cores": len(os.sched_getaffinity(0)),
                "python": platform.python_version(),
                "pyarrow": pa.__version__,
            },
            "load_average_before": round(os.getloadavg()[0], 1),
            "rows": stats["rows"],
            "cases": measure(run, folder, stats["rows"]),
        }
    text = json.dumps(report, indent=1) + "\n"
    print(text)
    if options.write:
        Path(__file__).with_suffix(".json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
