"""Work in threads that nobody has to wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

T = TypeVar("T")

_running: set[Future[Any]] = set()


def in_thread(function: Callable[..., T], *arguments: Any) -> Future[T]:
    """Run in a thread that does not keep the process alive, as it would once Ray is lost to it."""
    future: Future[T] = Future()
    _running.add(future)
    future.add_done_callback(_running.discard)

    def run() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:  # noqa: BLE001 - handed on to whoever asks for the result
            future.set_exception(error)

    threading.Thread(target=run, name=function.__name__, daemon=True).start()
    return future


def wait_for_all(timeout_s: float) -> None:
    """Until everything that was begun `in_thread` has ended, at most so long."""
    wait(_running.copy(), timeout_s)
