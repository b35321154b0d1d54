"""What this process knows of the replicas that it asks: how many there are, and what waits on them.

A module of its own: Serve hands routers to their processes by value, and with them a copy of every
object that they name; but a module by its name.
"""

from __future__ import annotations

import time

_FRESH_S = 1.0
"""For so long a replica's word on its load counts, from when it may say more; then it is asked."""

RUNNING: dict[str, int] = {}
"""Replicas that calls from this process can reach, by application, as Serve last told it."""


class Loads:
    """Requests on each replica, running and waiting, as far as this process knows.

    Replicas say how many they have with every message; what is sent to them is added until they say
    more. Calls would say little: one holds 32 requests, or the last of them.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, int]] = {}  # until when it counts, requests

    def told(self, replica: str, requests: int, next_s: float = 0.0) -> None:
        """A replica has said what it has, and may say nothing for so many seconds."""
        self._known[replica] = time.monotonic() + next_s + _FRESH_S, requests

    def sent(self, replica: str, requests: int) -> None:
        """So many more are on their way to it."""
        if replica in self._known:
            until, before = self._known[replica]
            self._known[replica] = until, before + requests

    def fresh(self, replica: str) -> int | None:
        """What it has by now; None where it has said nothing for too long."""
        until, requests = self._known.get(replica, (0.0, 0))
        if time.monotonic() > until:
            self._known.pop(replica, None)
            return None
        return requests


LOADS = Loads()
"""Of the replicas of every application that this process asks: ids are unique."""
