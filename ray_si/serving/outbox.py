"""What a replica owes one client: the answers to all of its calls, in few messages.

A message costs both processes the same for one answer as for many, and a client has many calls on
a replica at a time, each with an answer now and then. So an answer waits a little for others, and
all that are there by then travel together, in the oldest call that is open.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

_MOST = 64
"""Answers in a message at the most, so that it stays small."""

T = TypeVar("T")


class Call(Generic[T]):
    """A client's call, with so many requests: `messages` are those that it carries."""

    def __init__(self, outbox: Outbox[T], requests: int) -> None:
        self._outbox = outbox
        self._queue: asyncio.Queue[list[T] | BaseException | None] = asyncio.Queue()
        self.unanswered = self.unsent = requests

    def add(self, answer: T) -> None:
        """One of its requests is answered."""
        self._outbox.add(self, answer)

    def fail(self, error: BaseException) -> None:
        """This ends the call, and is raised where it is read."""
        self.put(error)
        self._outbox.close(self)

    def put(self, message: list[T] | BaseException | None) -> None:
        """Some answers, or how it ends: with an error, or with all of its answers sent."""
        self._queue.put_nowait(message)

    async def messages(self) -> AsyncIterator[list[T]]:
        """Answers, which may be another call's, until its own are sent, here or in another call.

        Raises what it failed with.
        """
        while (message := await self._queue.get()) is not None:
            if isinstance(message, BaseException):
                raise message
            yield message


class Outbox(Generic[T]):
    """Answers to one client; ``gather_s()`` is how many seconds the first of them waits for more.

    For one event loop.
    """

    def __init__(self, gather_s: Callable[[], float]) -> None:
        self._gather_s = gather_s
        self._calls: dict[Call[T], None] = {}  # the oldest first
        self._ready: list[tuple[Call[T], T]] = []
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no call is open."""
        return not self._calls

    def open(self, requests: int) -> Call[T]:
        """A call that is to be answered, and closed in the end."""
        call = Call(self, requests)
        self._calls[call] = None
        return call

    def close(self, call: Call[T]) -> None:
        """Nothing more travels in the call."""
        self._calls.pop(call, None)
        self._send_in_time()

    def add(self, call: Call[T], answer: T) -> None:
        """To be sent soon; at once where no request of the client is left to wait for."""
        self._ready.append((call, answer))
        call.unanswered -= 1
        self._send_in_time()

    def _send_in_time(self) -> None:
        if len(self._ready) >= _MOST or not any(call.unanswered for call in self._calls):
            self._send()
        elif self._ready and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._gather_s(), self._send)

    def _send(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        ready, self._ready = self._ready, []
        carrier = next(iter(self._calls), None)
        if carrier is None or not ready:
            return  # nobody reads them
        carrier.put([answer for _, answer in ready])
        for call, _ in ready:
            call.unsent -= 1
            if not call.unsent:
                call.put(None)
                self._calls.pop(call, None)
