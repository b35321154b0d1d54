"""ray_si: instruction-tuning datasets the Self-Instruct way, on a Ray cluster.

Importing it imports neither ray nor torch; the public names below are loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray_si.config import RunConfig
    from ray_si.config_file import load_config
    from ray_si.dedup import Deduplicator
    from ray_si.distributed.builder import BuildResult, build, check
    from ray_si.distributed.dedup_files import DedupReport, dedup_files
    from ray_si.errors import RaySIError, UserError
    from ray_si.storage.run import Run

__version__ = "0.1.0"

_HOMES = {
    "BuildResult": "ray_si.distributed.builder",
    "DedupReport": "ray_si.distributed.dedup_files",
    "Deduplicator": "ray_si.dedup",
    "RaySIError": "ray_si.errors",
    "Run": "ray_si.storage.run",
    "RunConfig": "ray_si.config",
    "UserError": "ray_si.errors",
    "build": "ray_si.distributed.builder",
    "check": "ray_si.distributed.builder",
    "dedup_files": "ray_si.distributed.dedup_files",
    "load_config": "ray_si.config_file",
}

__all__ = [
    "BuildResult",
    "DedupReport",
    "Deduplicator",
    "RaySIError",
    "Run",
    "RunConfig",
    "UserError",
    "build",
    "check",
    "dedup_files",
    "load_config",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
