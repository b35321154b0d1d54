"""What builds and deduplications report while they run."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from ray_si.pipeline.stage_clock import StageClock
from ray_si.serving.usage import Usage

RECENT_S = 10.0
"""Seconds over which the current load is taken."""

Phase = Literal["start", "bootstrap", "instances", "export", "done"]


@dataclass(frozen=True)
class Progress:
    """A moment of a build.

    ``done`` of ``total`` are accepted instructions (bootstrap) or instructions with their instances
    written (instances). ``usage`` is what the replicas have done for this build, not what a resume
    found on disk; ``utilisation`` the share of their slots' time that was used in the last
    `RECENT_S` seconds, None while nothing is known. ``dollars`` is what the usage cost, None where
    no prices are configured.
    """

    phase: Phase
    done: int = 0
    total: int = 0
    candidates: int = 0
    instances: int = 0
    note: str = ""
    usage: Usage = field(default_factory=Usage)
    utilisation: float | None = None
    dollars: float | None = None

    @property
    def tokens(self) -> int:
        """Completion tokens of all purposes."""
        return self.usage.completion_tokens.total()


@dataclass(frozen=True)
class DedupProgress:
    """A moment of `ray_si.corpora.dedup.dedup_files`.

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
    """Keeps the current `Progress` and hands each change on; safe to use from several threads.

    ``accepted`` counts the instructions that this build accepted, without those it found;
    ``stages`` are timed by who works in them.
    """

    def __init__(self, listen: Callable[[Progress], None]) -> None:
        self._listen = listen
        self._lock = threading.Lock()
        self.began = time.monotonic()
        self.last = Progress("start")
        self.accepted = 0
        self.stages = StageClock()
        self._found: int | None = None  # accepted before this build
        self._recent = deque([(self.began, Usage())])

    def report(self, progress: Progress) -> None:
        """Take a new state; what the replicas do is filled in here."""
        with self._lock:
            last = self.last
            self.last = replace(
                progress, usage=last.usage, utilisation=last.utilisation, dollars=last.dollars
            )
            if progress.phase == "bootstrap":
                if self._found is None:
                    self._found = progress.done
                self.accepted = progress.done - self._found
            self._listen(self.last)

    def see(self, usage: Usage, dollars: float | None) -> None:
        """Take what the replicas have done by now, and what that cost."""
        with self._lock:
            now = time.monotonic()
            self._recent.append((now, usage))
            while len(self._recent) > 2 and self._recent[1][0] <= now - RECENT_S:
                self._recent.popleft()
            share = usage.utilisation_since(self._recent[0][1])
            news = usage.trouble if usage.trouble != self.last.usage.trouble else ""
            self.last = replace(
                self.last, usage=usage, utilisation=share, dollars=dollars, note=news
            )
            self._listen(self.last)

    def utilisation(self, section: str) -> float | None:
        """As `Progress.utilisation`, of the replicas of one of the configuration's sections."""
        return self._recent[-1][1].utilisation_since(self._recent[0][1], section)

    def tokens_per_second(self) -> float:
        """Completion tokens a second in the last `RECENT_S` seconds."""
        (since, before), (now, after) = self._recent[0], self._recent[-1]
        tokens = after.completion_tokens.total() - before.completion_tokens.total()
        return tokens / max(now - since, 1e-6)
