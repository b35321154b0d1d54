"""Answers that are a pure function of the request: scripted or recorded. No model, no torch.

For trying configurations, measuring the pipeline itself, and re-running with kept answers.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
import time
from pathlib import Path
from typing import Any

from ray_si.engines.base import Completion, Request
from ray_si.engines.openai.message import EndedInError, finish_of
from ray_si.engines.replay.script import write_answer
from ray_si.errors import EngineError
from ray_si.records import Prompt

Recording = dict[str, dict[str, Any]]


class ReplayEngine:
    """Replays answers after a log-normal latency.

    Without ``recording`` the answers are scripted: plausible numbered tasks, labels and instances,
    drawn from the request's seed and prompt. With it they come from a JSONL file of objects
    ``{"prompt": text or chat turns, "seed": int (optional), "completion": text or null,
    "finish_reason": "stop" or what else endpoints say (optional)}``; a line with the request's seed
    wins over one without, and a request that isn't there comes back with finish_reason "error".

    The latency of a request, in seconds, has median ``latency_s`` and log-standard-deviation
    ``latency_sigma``, drawn from the request too; at most ``slots`` requests are answered at a
    time, as on a GPU. Starting takes ``start_s`` seconds on average, exponentially distributed, and
    fails, with EngineError, in the share ``failing_starts``: for measuring what comes of that, so
    these two are drawn anew in each process.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        recording: str | None = None,
        latency_s: float = 0.0,
        latency_sigma: float = 0.0,
        start_s: float = 0.0,
        failing_starts: float = 0.0,
        slots: int = 256,
    ) -> None:
        if start_s:
            time.sleep(random.expovariate(1 / start_s))
        if random.random() < failing_starts:
            raise EngineError("this start was to fail (replay.failing_starts)")
        self._recording = load_recording(recording) if recording else None
        self._latency_s, self._latency_sigma = latency_s, latency_sigma
        self.slots = self.capacity = slots
        self._free = asyncio.Semaphore(slots)

    async def generate(self, request: Request) -> Completion:
        """Answer one request; see `Engine`."""
        if self._latency_s:
            median, sigma = self._latency_s, self._latency_sigma
            async with self._free:
                await asyncio.sleep(latency(request.prompt, request.seed, median, sigma))
        if self._recording is not None:
            return self._recorded(request)
        return write_answer(request, random.Random(request_key(request.prompt, request.seed)))

    def check_health(self) -> None:
        """Nothing here can break."""

    def mark(self) -> None:
        """None: its steps are not seen."""

    def close(self) -> None:
        """Nothing to end."""

    def _recorded(self, request: Request) -> Completion:
        assert self._recording is not None
        keys = (request_key(request.prompt, request.seed), request_key(request.prompt, None))
        found = next((self._recording[key] for key in keys if key in self._recording), None)
        if found is None:
            return Completion("", "error", error="the recording has no answer to this request")
        text = found["completion"] or ""
        try:
            finish_reason, declined = finish_of(found.get("finish_reason"))
        except EndedInError as error:
            return Completion("", "error", error=str(error))
        if declined:
            return Completion("", "refused", error=declined)
        labels: tuple[float, ...] | None = None
        if request.labels:
            answer = text.rpartition("</think>")[2].strip()
            labels = tuple(
                0.0 if answer.startswith(label.strip()) else -10.0 for label in request.labels
            )
        return Completion(
            text,
            finish_reason,
            prompt_tokens=_count(request.prompt),
            completion_tokens=len(text.split()),
            label_logprobs=labels,
        )


def latency(prompt: Prompt, seed: int, median_s: float, sigma: float) -> float:
    """Seconds that a request takes: log-normal, a function of the request."""
    draw = random.Random(f"{request_key(prompt, seed)}/latency")
    return median_s * math.exp(sigma * draw.gauss(0, 1))


def request_key(prompt: Prompt, seed: int | None) -> str:
    """Identifies a prompt, with or without a request's seed, in a recording."""
    return hashlib.sha256(json.dumps([prompt, seed]).encode()).hexdigest()


def load_recording(path: str) -> Recording:
    """Read a recording; EngineError with the line number where it is malformed."""
    recording: Recording = {}
    try:
        # by line feeds alone: JSON lets U+2028 and the like stand in a string
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise EngineError(f"the recording {path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            key = request_key(row["prompt"], row.get("seed"))
            if not isinstance(row["completion"], str | None):
                raise TypeError("'completion' is neither text nor null")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise EngineError(
                f"{path}, line {number}: a recorded answer needs 'prompt' and 'completion' "
                f"({type(error).__name__}: {error})"
            ) from error
        recording[key] = row
    if not recording:
        raise EngineError(f"the recording {path} is empty")
    return recording


def _count(prompt: Prompt) -> int:
    texts = [prompt] if isinstance(prompt, str) else [turn["content"] for turn in prompt]
    return sum(len(text.split()) for text in texts)
