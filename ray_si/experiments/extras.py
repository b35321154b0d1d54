"""Whether the packages of an optional part are here."""

from __future__ import annotations

from importlib.util import find_spec

from ray_si.errors import EngineError


def need(*packages: str, install: str = "'ray_si[train]'") -> None:
    """Raise EngineError where one of these packages is missing, with what to ``install``."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise EngineError(f"this needs {', '.join(missing)}: pip install {install}")
