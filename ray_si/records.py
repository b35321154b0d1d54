"""What moves between the rooms: plain frozen records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Message = dict[str, str]
"""A chat turn: {"role": "system" | "user" | "assistant", "content": ...}."""

Prompt = str | list[Message]
"""Plain text for base models, chat turns for instruct models."""


StepListener = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much."""


@dataclass(frozen=True)
class Instance:
    """One worked example of an instruction; ``input`` is empty where the task needs none."""

    input: str
    output: str


@dataclass(frozen=True)
class SeedTask:
    """A human-written task in the paper's schema."""

    id: str
    name: str
    instruction: str
    instances: tuple[Instance, ...]
    is_classification: bool
