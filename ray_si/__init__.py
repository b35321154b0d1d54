"""ray_si: instruction-tuning datasets the Self-Instruct way, on a Ray cluster.

Importing it imports neither ray nor torch; the public names below are loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ray_si._version import __version__

if TYPE_CHECKING:
    from ray_si.build.builder import BuildResult, build as build_dataset, check
    from ray_si.config import RunConfig
    from ray_si.config.file import load_config
    from ray_si.corpora.dedup import DedupReport, dedup_files
    from ray_si.dedup import Deduplicator
    from ray_si.errors import RaySIError, UserError
    from ray_si.run.run import Run


_HOMES = {
    "BuildResult": "ray_si.build.builder:BuildResult",
    "DedupReport": "ray_si.corpora.dedup:DedupReport",
    "Deduplicator": "ray_si.dedup:Deduplicator",
    "RaySIError": "ray_si.errors:RaySIError",
    "Run": "ray_si.run.run:Run",
    "RunConfig": "ray_si.config:RunConfig",
    "UserError": "ray_si.errors:UserError",
    "build_dataset": "ray_si.build.builder:build",
    "check": "ray_si.build.builder:check",
    "dedup_files": "ray_si.corpora.dedup:dedup_files",
    "load_config": "ray_si.config.file:load_config",
}
"""Public name -> module:attribute. None is a room's name: importing the room would replace it."""

__all__ = [
    "BuildResult",
    "DedupReport",
    "Deduplicator",
    "RaySIError",
    "Run",
    "RunConfig",
    "UserError",
    "__version__",
    "build_dataset",
    "check",
    "dedup_files",
    "load_config",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
