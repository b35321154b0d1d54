"""Small configurations that run on the session's Ray."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from ray_si.config_file import parse_config
from ray_si.distributed.builder import build

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


@pytest.fixture
def replay_config():
    return replay_values()


@pytest.fixture(scope="session")
def finished(ray_session, tmp_path_factory):
    """A finished run of `replay_values`, to be left as it is, and the result of its build."""
    location = tmp_path_factory.mktemp("build") / "run"
    return location, build(parse_config(replay_values()), str(location))


@pytest.fixture(scope="session")
def finished_with_cosine(ray_session, tmp_path_factory):
    """A finished run with both gates, tight enough to refuse some candidates by each."""
    location = tmp_path_factory.mktemp("cosine") / "run"
    values = replay_values()
    values["dedup"] = {"cosine": 0.6, "most_similar": 3}
    return location, build(parse_config(values), str(location))
