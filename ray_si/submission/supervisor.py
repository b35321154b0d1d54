"""A process that begins a build again when something kills it: for the entry point of a job.

It outlives whoever submitted the job, so a driver that is killed needs no terminal to go on.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

_ASKED = signal.SIGTERM, signal.SIGINT
"""Signals by which somebody asks for an end; what dies of any other was killed, or crashed."""

USED_UP = 1
"""Exit status once a command has been killed more often than it may."""


def supervise(command: Sequence[str], retries: int, notify: Callable[[str], None]) -> int:
    """Run a command until it ends by itself; its exit status.

    One that a signal ends, the out-of-memory killer's say, is begun again up to ``retries`` times,
    which is told to ``notify``; after that the status is `USED_UP`. Not once this process has been
    asked to end: whoever asks (Ray that stops a job, a terminal) asks every process of it, so
    nothing is handed on here.
    """
    with _noting_requests() as requests:
        for left in range(retries, -1, -1):
            status = subprocess.Popen(command).wait()
            if status >= 0:
                return status
            if requests or -status in _ASKED:
                return 128 - status
            killed = f"the driver was killed by {signal.Signals(-status).name}"
            if left:
                notify(f"{killed}; beginning it again, {left} tries left")
    notify(f"{killed}, and its tries are used up; the same command goes on from what is stored")
    return USED_UP


@contextmanager
def _noting_requests() -> Iterator[list[int]]:
    """Signals that ask for an end are kept in a list, and do nothing else."""
    noted: list[int] = []
    previous = {
        each: signal.signal(each, lambda number, _: noted.append(number)) for each in _ASKED
    }
    try:
        yield noted
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
