"""The package's modules, parsed once, as they are collected.

Later, threads of other tests may parse at the same time, which Python before 3.12 can't do: its
count of how deep it is would be that of another thread (python/cpython#106905).
"""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "ray_si"

TREES = {
    path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))
}
