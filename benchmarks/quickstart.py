"""How long the quick start takes in a fresh clone, and what it prints and writes.

    python benchmarks/quickstart.py                  clone this checkout, run `make demo`, print
    python benchmarks/quickstart.py --write          also write benchmarks/quickstart.json, and a
                                                     picture: docs/images/quickstart.svg
    python benchmarks/quickstart.py --clone DIR --log FILE
                                                     of a clone where it was run already, as
                                                     `time make demo > FILE 2>&1` in bash

The README shows lines and rows of the result. Have nothing else running on the machine.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

RESULT = Path(__file__).with_suffix(".json")
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "quickstart.svg"
RUN = "runs/quickstart"
SHOWN = ("instruction", "input", "output", "round", "demonstrations", "model", "request_seed")


def demo(clone: Path, log: Path) -> float:
    """Clone this checkout there and run `make demo`; seconds, its output in ``log``."""
    subprocess.run(["git", "clone", "--quiet", Path(__file__).parents[1], clone], check=True)
    began = time.perf_counter()
    with log.open("w", encoding="utf-8") as output:
        subprocess.run(["make", "demo"], cwd=clone, stdout=output, stderr=output, check=True)
    return time.perf_counter() - began


def timed(log: Path) -> float:
    """Seconds by the ``real`` line that bash's `time` left at the log's end."""
    minutes, seconds = re.findall(r"^real\s+(\d+)m([\d.]+)s$", log.read_text("utf-8"), re.M)[-1]
    return 60 * int(minutes) + float(seconds)


def summary(log: Path) -> list[str]:
    """What the build prints at its end, as it stands on the terminal."""
    lines = log.read_text("utf-8").splitlines()
    ends = [i for i, line in enumerate(lines) if line.startswith("rejected:")]
    return lines[lines.index("Summary") : ends[-1] + 1]


def build_seconds(printed: list[str]) -> dict[str, float]:
    """The build's own phases, from the summary's table."""
    cells = [line.strip("│").split("│")[-1].strip() for line in printed]
    first = next(i for i, line in enumerate(printed) if line.startswith("│ seconds"))
    last = next(i for i, line in enumerate(printed) if i > first and line.startswith("└"))
    return {
        name: float(value)
        for name, value in re.findall(r"(\w+) ([\d.]+)", " ".join(cells[first:last]))
    }


def measured(clone: Path, log: Path, seconds: float) -> dict[str, Any]:
    """The committed result."""
    stats = json.loads((clone / RUN / "stats.json").read_text("utf-8"))
    shard = next((clone / RUN / "data").glob("*.jsonl"))
    rows = [json.loads(line) for line in shard.read_text("utf-8").splitlines()]
    printed = summary(log)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=clone, capture_output=True, text=True
    )
    return {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "commit": commit.stdout.strip(),
        "seconds": round(seconds, 1),
        "build_seconds": build_seconds(printed),
        **{key: stats[key] for key in ("candidates", "accepted", "rejected", "rows")},
        "instances_rejected": stats["instances_rejected"],
        "left_out": stats["left_out"],
        "printed": printed,
        "training_rows": [{key: row[key] for key in SHOWN} for row in rows],
    }


def picture(printed: list[str]) -> str:
    """The terminal after the build, its sample rows left out, as an SVG that loads no font."""
    console = Console(record=True, width=82, file=io.StringIO())
    rows, end = printed.index("Sample rows"), printed.index(next(filter(_is_path, printed)))
    for line in ["$ make demo", "...", *printed[:rows], *printed[end:]]:
        console.print(Text(line))
    svg = console.export_svg(title="make demo", unique_id="quickstart")
    return re.sub(r"@font-face {.*?}\n", "", svg, flags=re.S)


def _is_path(line: str) -> bool:
    return line.startswith("training shards:")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clone", type=Path, help="where it was run already")
    parser.add_argument("--log", type=Path, help="what it printed there, with its time")
    parser.add_argument("--write", action="store_true", help=f"write benchmarks/{RESULT.name}")
    options = parser.parse_args()
    if options.clone:
        report = measured(options.clone, options.log, timed(options.log))
    else:
        with tempfile.TemporaryDirectory() as folder:
            clone, log = Path(folder) / "clone", Path(folder) / "log"
            report = measured(clone, log, demo(clone, log))
    text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    print(text)
    if options.write:
        RESULT.write_text(text, encoding="utf-8")
        PICTURE.write_text(picture(report["printed"]), encoding="utf-8")


if __name__ == "__main__":
    main()
