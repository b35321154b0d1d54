"""What this machine, a cluster, a bucket and an endpoint can do for a build."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from urllib.parse import urlsplit

from packaging.requirements import Requirement

from ray_si._version import __version__
from ray_si.engines import bundled
from ray_si.engines.memory import cuda_cards
from ray_si.errors import EngineError, RaySIError, one_line
from ray_si.storage.lease import check_exclusive
from ray_si.storage.objects import open_objects

_FOR_DEVELOPERS = {"test", "bench", "cluster", "docs", "dev"}
"""Extras that a user has no use for."""

_ENDPOINT_S = 20.0
"""Seconds that an endpoint may take to list its models."""


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what is there, and whether that will do.

    ``is_fine`` is None for what is only told.
    """

    subject: str
    text: str
    is_fine: bool | None = None


def machine() -> Iterator[Finding]:
    """This machine: versions, cores, memory, disk, GPUs, extras, the bundled models."""
    ray, torch = map(importlib.metadata.version, ("ray", "torch"))
    yield Finding(
        "versions",
        f"ray_si {__version__}, Python {platform.python_version()}, Ray {ray}, torch {torch}",
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    disk = shutil.disk_usage(".").free
    yield Finding("machine", f"{cores} cores, {_memory()}, {_gib(disk)} free on this disk")
    yield _gpus()
    yield from _extras()
    yield _models()


def cluster(address: str | None) -> Finding:
    """The nodes of a Ray cluster: ``address``, or $RAY_ADDRESS, or none."""
    from ray_si.serving.connect import connect, node_resources

    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        return Finding("cluster", "none named: builds start Ray here (--address, RAY_ADDRESS)")
    try:
        with connect(address):
            nodes = node_resources()
    except RaySIError as error:
        return Finding("cluster", str(error), False)
    total: Counter[str] = Counter()
    for node in nodes:
        total.update({name: value for name, value in node.items() if name in ("CPU", "GPU")})
    kinds = sorted({name.partition(":")[2] for node in nodes for name in node if "type:" in name})
    return Finding(
        "cluster",
        f"{len(nodes)} nodes with {total['CPU']:g} CPU and {total['GPU']:g} GPU"
        + (f" ({', '.join(kinds)})" if kinds else ""),
        True,
    )


def store(location: str) -> Finding:
    """Whether a run could be kept at a folder or ``s3://bucket/prefix``; leaves nothing there."""
    try:
        objects = open_objects(location)
        objects.check(write=True)
        check_exclusive(objects, location)
    except RaySIError as error:
        return Finding("storage", one_line(error), False)
    return Finding("storage", f"{location} can be written, and obeys conditional writes", True)


def endpoint(url: str, key_env: str | None) -> Finding:
    """Whether an OpenAI-compatible server answers, and what it offers.

    ``key_env`` names the environment variable with its key.
    """
    if find_spec("openai") is None:
        return Finding("endpoint", "needs the openai extra: pip install 'ray_si[openai]'", False)
    from openai import APIConnectionError, OpenAI, OpenAIError

    key = os.environ.get(key_env, "") if key_env else "none"
    if not key:
        return Finding("endpoint", f"the environment variable {key_env} holds no key", False)
    if not _is_url(url):
        return Finding("endpoint", f"{url} is no URL; write http://host:8000/v1", False)
    try:
        client = OpenAI(api_key=key, base_url=url, timeout=_ENDPOINT_S, max_retries=0)
        models = sorted(model.id for model in client.models.list())
    except APIConnectionError as error:  # which says no more than that
        return Finding("endpoint", f"{url}: {one_line(error.__cause__ or error)}", False)
    except (OpenAIError, ValueError) as error:
        return Finding("endpoint", f"{url}: {one_line(error)}", False)
    except (TypeError, AttributeError):  # the client read a page, or other JSON, as a list
        return Finding(
            "endpoint",
            f"{url}: what answers is no OpenAI-compatible server; most end in /v1",
            False,
        )
    shown = ", ".join(models[:5]) + (f" and {len(models) - 5} more" if len(models) > 5 else "")
    return Finding("endpoint", f"{url} answers; models: {shown or 'none'}", True)


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # its port is no number
        return False


def _gpus() -> Finding:
    cuda, cards = cuda_cards()
    if not cards:
        why = "none seen" if cuda else "none that this torch can use: it is built for processors"
        return Finding("GPUs", why)
    names = Counter(f"{name} {_gib(size)}" for name, size in cards)
    listed = ", ".join(f"{count} x {name}" for name, count in names.items())
    return Finding("GPUs", f"{listed}; CUDA {cuda}", True)


def _extras() -> Iterator[Finding]:
    try:
        metadata = importlib.metadata.metadata("ray_si")
    except importlib.metadata.PackageNotFoundError:
        yield Finding("extras", "cannot be told: ray_si runs from its folder, it is not installed")
        return
    requirements = [Requirement(text) for text in importlib.metadata.requires("ray_si") or ()]
    there: list[str] = []
    absent: list[str] = []
    for extra in metadata.get_all("Provides-Extra") or ():
        if extra in _FOR_DEVELOPERS:
            continue
        missing = [
            requirement
            for requirement in requirements
            if requirement.marker and requirement.marker.evaluate({"extra": extra})
            if not _is_installed(requirement)
        ]
        (absent if missing else there).append(extra)
    yield Finding("extras", ", ".join(there) or "none")
    if absent:
        yield Finding("", f"not here: {', '.join(absent)} (pip install 'ray_si[{absent[0]}]')")


def _is_installed(requirement: Requirement) -> bool:
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(version, prereleases=True)


def _models() -> Finding:
    try:
        for name in bundled.MODELS:
            bundled.locate(name)
    except EngineError as error:
        return Finding("quick start", one_line(error))
    return Finding("quick start", f"its models are here: {', '.join(bundled.MODELS)}")


def _memory() -> str:
    """Memory as Linux tells it; on other systems nothing is said of what is free."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            kib = dict(re.findall(r"(\w+):\s+(\d+)", file.read()))
    except OSError:
        return f"{_gib(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'))} of memory"
    total, free = (int(kib[name]) * 1024 for name in ("MemTotal", "MemAvailable"))
    return f"{_gib(total)} of memory ({_gib(free)} free)"


def _gib(size: float) -> str:
    return f"{size / 2**30:.0f} GiB"
