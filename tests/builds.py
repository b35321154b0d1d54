"""Small builds that run on the session's Ray, and looking at what they leave."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

TARGET = 100
"""Accepted instructions of a test build: some rounds, so that machine-written examples appear."""


def replay_values() -> dict:
    """Values of a small run on the scripted replay, without embedder."""
    return {
        "target_instructions": TARGET,
        "generator": {"engine": "replay", "model": None, "cpus": 0.5},
        "bootstrap": {"prompts_per_round": 8, "block_size": 4, "classification_share": 0.25},
        "dedup": {"cosine": None, "most_similar": 3},
        "instances": {"block_size": 16},
        "output": {"format": "both", "rows_per_shard": 40},
    }


def rays_processes(title: str) -> Iterator[psutil.Process]:
    """Processes of the session's Ray whose title begins so."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if " ".join(process.cmdline()).startswith(title):
                yield process


def digests(location: Path, pattern: str = "data/*") -> dict[str, str]:
    """SHA-256 of a run's files by name."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(location.glob(pattern))
    }


PLANNED = {
    "target_instructions": 1000,
    "generator": {"engine": "replay", "model": None},
    "bootstrap": {"prompts_per_round": 32, "classification_share": 0.1},
    "dedup": {"cosine": None},
}
"""A build to look ahead at, on the scripted replay."""
