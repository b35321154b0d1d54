"""A driver that kills itself: `ray-si build`, with a SIGKILL at its n-th write to the store.

    python -m tests.faults.driver '{"write": 5, "when": "during"}' build CONFIG --out RUN ...

``when`` is "before" the write, "during" it (the data is there, under a temporary name), or "after".
``{"blocks": 3}`` kills when that many blocks, which Ray workers write, have come new to the run.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from ray_si.cli import app
from ray_si.storage.local import LocalObjects, _written


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at_write(number: int, when: str) -> None:
    """Count this process's writes and deletions; the one of that number is the last."""
    lock, writes = threading.Lock(), [0]

    def counted(name):
        original = getattr(LocalObjects, name)

        def method(self, *arguments):
            with lock:
                writes[0] += 1
                fatal = writes[0] == number
            if fatal and when == "before":
                die()
            if fatal and when == "during" and name != "delete":
                key, data = arguments
                _written((self.root / key).parent, data).__enter__()
                die()
            result = original(self, *arguments)
            if fatal:
                die()
            return result

        setattr(LocalObjects, name, method)

    for name in ("put", "put_if_absent", "delete"):
        counted(name)


def kill_at_blocks(run: Path, number: int) -> None:
    """Die once ``number`` blocks more than now stand in the run."""

    def count() -> int:
        return sum(1 for _ in run.glob("**/block-*.parquet"))

    before = count()

    def watch() -> None:
        while count() < before + number:
            time.sleep(0.005)
        die()

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    fault, *arguments = sys.argv[1:]
    plan = json.loads(fault)
    if "write" in plan:
        kill_at_write(plan["write"], plan["when"])
    if "blocks" in plan:
        kill_at_blocks(Path(arguments[arguments.index("--out") + 1]), plan["blocks"])
    app(arguments)
