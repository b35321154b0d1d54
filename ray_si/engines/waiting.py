"""A request that waits for an engine's thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from ray_si.engines.base import Completion, Request


class Waiting:
    """A request, tokens of its prompt and its labels, and the ``answer`` that its caller awaits.

    Made in the caller's event loop; answered from any thread. A caller that has gone, or whose loop
    is closed, is no error.
    """

    def __init__(
        self, request: Request, prompt: list[int], labels: Sequence[list[int]] = ()
    ) -> None:
        self.request, self.prompt, self.labels = request, prompt, labels
        self._loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[Completion] = self._loop.create_future()

    @property
    def tokens(self) -> int:
        """Of the prompt and the longest completion or label."""
        return len(self.prompt) + (self.longest_label or self.request.sampling.max_tokens)

    @property
    def longest_label(self) -> int:
        """Tokens of the longest label; 0 where there is none."""
        return max(map(len, self.labels), default=0)

    def resolve(self, completion: Completion) -> None:
        """Answer it."""
        self._in_loop(lambda: self.answer.set_result(completion))

    def fail(self, error: BaseException) -> None:
        """Raise ``error`` where it is awaited."""
        self._in_loop(lambda: self.answer.set_exception(error))

    def _in_loop(self, answer: Callable[[], None]) -> None:
        def unless_done() -> None:
            if not self.answer.done():
                answer()

        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(unless_done)
