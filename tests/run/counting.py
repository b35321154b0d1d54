"""A store that counts what it is asked."""

from __future__ import annotations

import threading
from collections import Counter

from ray_si.run.run import Run


class Counting:
    """Hands on to ``objects``; ``calls`` counts by method, ``keys`` are those that were read."""

    def __init__(self, objects) -> None:
        self._objects = objects
        self._lock = threading.Lock()
        self.calls: Counter[str] = Counter()
        self.keys: list[str] = []

    def __getattr__(self, name):
        method = getattr(self._objects, name)

        def counted(*arguments, **options):
            with self._lock:
                self.calls[name] += 1
                if name == "get":
                    self.keys.append(arguments[0])
            return method(*arguments, **options)

        return counted if callable(method) else method


def counted(location) -> Run:
    """The run there, on such a store."""
    run = Run.open(str(location))
    run.objects = Counting(run.objects)
    return run
