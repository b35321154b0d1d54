"""Many objects read at once: a store answers the second while the first is on its way."""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

READERS = 16
"""Threads that read at a time: a store that answers in 25 ms is asked 640 times a second."""

_EXIT_S = 5.0
"""Most seconds for reads that are under way when the process ends."""

_is_ending = threading.Event()

K = TypeVar("K")
V = TypeVar("V")

_readers: weakref.WeakKeyDictionary[threading.Thread, SimpleQueue[Any]] = (
    weakref.WeakKeyDictionary()
)


def read_ahead(read: Callable[[K], V], items: Iterable[K], readers: int = READERS) -> Iterator[V]:
    """What ``read`` makes of each item, in the order of the items, read ahead by threads.

    At most twice as many as there are ``readers`` are ahead of the one that is taken, so memory
    holds no more. An error of ``read`` is raised where its item's turn comes. The threads end with
    the iteration, and keep neither it nor the process waiting for a store that hangs.
    """
    waiting: SimpleQueue[tuple[K, Future[V]] | None] = SimpleQueue()
    pending: deque[Future[V]] = deque()
    upcoming = iter(items)
    threads = 0
    try:
        while True:
            for item in upcoming:
                pending.append(Future())
                waiting.put((item, pending[-1]))
                if threads < readers:
                    threads += 1
                    thread = threading.Thread(target=_work, args=(read, waiting), daemon=True)
                    _readers[thread] = waiting
                    thread.start()
                if len(pending) >= 2 * readers:
                    break
            if not pending:
                return
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
        for _ in range(threads):
            waiting.put(None)


def _work(read: Callable[[K], V], waiting: SimpleQueue[tuple[K, Future[V]] | None]) -> None:
    while (asked := waiting.get()) is not None and not _is_ending.is_set():
        item, future = asked
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(read(item))
        except BaseException as error:  # noqa: BLE001 - raised where its turn comes
            future.set_exception(error)
        del asked, item, future  # what was read is with who takes it, and not here as well


@atexit.register
def _end_readers() -> None:
    """End the threads before the interpreter does: one that is inside Arrow then aborts it."""
    _is_ending.set()
    end = time.monotonic() + _EXIT_S
    for waiting in list(_readers.values()):
        waiting.put(None)
    for thread in list(_readers):
        thread.join(max(0.0, end - time.monotonic()))
