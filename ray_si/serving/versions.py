"""Versions of what writes the answers: told by each replica, and the same on all of them."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from ray_si._version import __version__

PACKAGES = ("ray", "torch", "transformers", "tokenizers", "vllm", "openai")
"""Those that are told where they are installed."""


def versions() -> dict[str, str]:
    """Package -> version in this process's environment, Python's too."""
    told = {"ray_si": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            told[package] = version(package)
        except PackageNotFoundError:
            continue
    return told


def mismatch(mine: Mapping[str, str], others: Mapping[str, str], whose: str) -> str | None:
    """In words, where versions differ from another process's; what only one has is no matter."""
    different = [
        f"{package} {mine[package]} ({whose} {others[package]})"
        for package in mine.keys() & others.keys()
        if mine[package] != others[package]
    ]
    if not different:
        return None
    return f"{', '.join(sorted(different))}: give all nodes the same image or packages"
