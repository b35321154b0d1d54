"""The command line as tests run it: a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ENVIRONMENT = os.environ | {
    "RAY_USAGE_STATS_ENABLED": "0",
    "COLUMNS": "200",
    "PYTHONPATH": str(Path(__file__).parents[1]),
}


def ray_si(*arguments, **kwargs):
    """Run ``ray-si`` to its end; ``kwargs`` go to `subprocess.run`."""
    return subprocess.run(
        [sys.executable, "-m", "ray_si", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        **{"env": ENVIRONMENT, "timeout": 180} | kwargs,
    )


def assert_one_line_error(done, message):
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr
