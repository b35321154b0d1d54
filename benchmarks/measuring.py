"""What the benchmarks of the gates share: fresh processes, clocks, memory, tables."""

from __future__ import annotations

import importlib.metadata
import multiprocessing
import os
import platform
import re
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import corpus
import psutil
from rich.console import Console
from rich.table import Table

BATCH = 10_000
PACKAGES = ("numpy", "numba", "rapidfuzz", "rouge-score", "ray")

console = Console(stderr=True)


def fresh(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result, from a process of its own that has the corpus's tables loaded."""
    console.log(function.__name__, *arguments[:2])
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=batch_at, initargs=(0, 1)) as executor:
        return executor.submit(function, *arguments).result()


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    began = time.perf_counter()
    return function(*arguments), time.perf_counter() - began


def batch_at(start: int, n: int = BATCH) -> list[str]:
    return list(corpus.texts(n, start=start))


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


def peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.*)", cpuinfo.read_text() if cpuinfo.exists() else "")
    return {
        "processor": named.group(1) if named else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in PACKAGES},
    }


def rounded(value: Any) -> Any:
    """The same report with floats to four significant digits."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def table(title: str, columns: dict[str, dict[str, Any]]) -> Table:
    """A column for each contender, a row for every number that any of them has."""
    made = Table(title=title)
    made.add_column(no_wrap=True)
    for name in columns:
        made.add_column(name, justify="right")
    for key in dict.fromkeys(key for numbers in columns.values() for key in numbers):
        cells = (numbers.get(key, "") for numbers in columns.values())
        made.add_row(key.replace("_", " "), *(_cell(value) for value in cells))
    return made


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_cell, value))
    if isinstance(value, bool | str):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
