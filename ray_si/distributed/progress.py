"""What builds and deduplications report while they run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Phase = Literal["start", "bootstrap", "instances", "export", "done"]


@dataclass(frozen=True)
class Progress:
    """A moment of a build.

    ``done`` of ``total`` are accepted instructions (bootstrap) or instructions with their instances
    written (instances). Tokens count this process's work only, not what a resume found on disk.
    """

    phase: Phase
    done: int = 0
    total: int = 0
    candidates: int = 0
    tokens: int = 0
    instances: int = 0
    note: str = ""


@dataclass(frozen=True)
class DedupProgress:
    """A moment of `ray_si.distributed.dedup_files.dedup_files`.

    ``done`` of ``total`` measure what is read of the inputs: bytes as stored (JSONL) or rows
    (Parquet).
    """

    rows: int = 0
    accepted: int = 0
    rejected: int = 0
    done: int = 0
    total: int = 0
    note: str = ""


class Reporter:
    """Keeps the current `Progress` and hands each change on; safe to use from several threads."""

    def __init__(self, listen: Callable[[Progress], None]) -> None:
        self._listen = listen
        self._lock = threading.Lock()
        self._tokens = 0
        self._last = Progress("start")

    def report(self, progress: Progress) -> None:
        """Take a new state; its tokens are filled in here."""
        with self._lock:
            self._last = Progress(**(vars(progress) | {"tokens": self._tokens}))
            self._listen(self._last)

    def add_tokens(self, tokens: int) -> None:
        """Count completion tokens."""
        with self._lock:
            self._tokens += tokens
            self._last = Progress(**(vars(self._last) | {"tokens": self._tokens, "note": ""}))
            self._listen(self._last)
