"""A driver that kills or stops itself: `ray-si build` with a signal at its n-th write to the store.

    python -m tests.faults.driver '{"write": 5, "when": "during"}' build CONFIG --out RUN ...

``when`` is "before" the write, "during" it (the data is there, under a temporary name), or "after".
``{"blocks": 3}`` signals when that many blocks, which Ray workers write, have come new to the run.
The signal is SIGKILL, or that of ``"signal"``: "SIGSTOP", after which it goes on when it is told.
"""

from __future__ import annotations

import fnmatch
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ray_si.cli import app
from ray_si.storage import local
from ray_si.storage.local import LocalObjects


def signal_at_write(number: int, when: str, act: Callable[[], None]) -> None:
    """Count this process's writes and deletions; ``act`` at the one of that number."""
    lock, writes, written = threading.Lock(), [0], local._written
    fatal = threading.local()

    @contextmanager
    def with_data(*arguments):
        with written(*arguments) as name:
            if getattr(fatal, "during", False):
                act()
            yield name

    def counted(name):
        original = getattr(LocalObjects, name)

        def method(self, *arguments):
            with lock:
                writes[0] += 1
                is_it = writes[0] == number
            if is_it and when == "before":
                act()
            fatal.during = is_it and when == "during"
            try:
                result = original(self, *arguments)
            finally:
                fatal.during = False
            if is_it and (when == "after" or name == "delete"):
                act()
            return result

        setattr(LocalObjects, name, method)

    local._written = with_data
    for name in ("put", "put_if_absent", "delete"):
        counted(name)


def signal_at_blocks(run: Path, number: int, act: Callable[[], None]) -> None:
    """``act`` once ``number`` blocks more than now stand in the run."""

    def count() -> int:
        names = itertools.chain.from_iterable(names for *_, names in os.walk(run))
        return len(fnmatch.filter(names, "block-*.parquet"))  # a glob ends where a folder just went

    before = count()

    def watch() -> None:
        while count() < before + number:
            time.sleep(0.005)
        act()

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    fault, *arguments = sys.argv[1:]
    plan = json.loads(fault)
    act = partial(os.kill, os.getpid(), signal.Signals[plan.get("signal", "SIGKILL")])
    if "write" in plan:
        signal_at_write(plan["write"], plan["when"], act)
    if "blocks" in plan:
        signal_at_blocks(Path(arguments[arguments.index("--out") + 1]), plan["blocks"], act)
    app(arguments)
