"""Noticing that an engine with work does none of it."""

from __future__ import annotations

import time

from ray_si.errors import EngineError


class StallWatch:
    """Looks at an engine now and then; not thread-safe.

    A ``mark`` is anything that changes with every step the engine takes.
    """

    def __init__(self, stall_s: float | None) -> None:
        self._stall_s = stall_s
        self._mark: object = None
        self._since = time.monotonic()

    def look(self, mark: object, *, is_busy: bool) -> None:
        """Raise EngineError where a busy engine shows the same mark for longer than it may."""
        now = time.monotonic()
        if not is_busy or mark != self._mark:
            self._mark, self._since = mark, now
        elif self._stall_s is not None and now - self._since > self._stall_s:
            raise EngineError(
                f"the engine has work and took no step for {now - self._since:.0f} s "
                "(generator.stall_s)"
            )
