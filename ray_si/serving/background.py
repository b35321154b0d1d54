"""Work in threads that nobody has to wait for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, InvalidStateError, wait
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

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


class Alarm:
    """What ends a build from aside: a lost lease, or a failure of work that nobody waits for yet.

    The first error counts.
    """

    def __init__(self) -> None:
        self._error: Future[NoReturn] = Future()

    def ring(self, error: BaseException | None) -> None:
        """Have everything that waits, or will, raise the error."""
        with suppress(InvalidStateError):
            self._error.set_exception(error)

    def check(self) -> None:
        """Raise the error, if there is one."""
        if self._error.done():
            self._error.result()

    def wait_for(self, *futures: Future[Any]) -> None:
        """Until all of them have ended, however they do; raises the error if it is there first."""
        for future in futures:
            wait([self._error, future], return_when=FIRST_COMPLETED)
            self.check()

    def result_of(self, future: Future[T]) -> T:
        """The future's result, or the error if that is there first."""
        self.wait_for(future)
        return future.result()


def wait_for_all(timeout_s: float) -> bool:
    """Until everything that was begun `in_thread` has ended, at most so long; whether it has.

    What one of them begins meanwhile is waited for, too.
    """
    end = time.monotonic() + timeout_s
    while left := _running.copy():
        if wait(left, max(0.0, end - time.monotonic())).not_done:
            return False
        _running.difference_update(left)  # as each does itself, perhaps in a moment
    return True
