"""Imports run one way, and importing ray_si is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ray_si"
BASE = {"records", "errors", "__init__"}
ROOMS = {
    "records": set(),
    "errors": set(),
    "self_instruct": BASE,
    "dedup": set(),
    "engines": BASE,
    "storage": BASE,
    "section": set(),
    "engine_options": {"section"},
    "config": BASE | {"engines", "section", "engine_options", "self_instruct"},
    "config_file": BASE | {"config"},
    "report": BASE | {"dedup", "storage"},
    "training": BASE | {"storage"},
    "distributed": BASE
    | {"config", "config_file", "self_instruct", "dedup", "engines", "storage"}
    | {"report", "training"},
    "cli": BASE
    | {"config", "config_file", "distributed", "self_instruct", "storage"}
    | {"report", "training"},
    "__main__": {"cli"},
}
"""Room -> what it may import besides itself. The package's __init__ imports lazily."""


def _modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            if node.module == "ray_si":
                found |= {f"ray_si.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_import_only_what_lies_below_them(path):
    room = _room(path)
    allowed = ROOMS[room] | {room, "__version__"}
    for name in _imports(path):
        if name.startswith("ray_si."):
            assert name.split(".")[1] in allowed, f"{room} must not import {name}"


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_ray_is_imported_in_distributed_only_and_torch_where_models_are_only(path):
    top = {name.split(".")[0] for name in _imports(path)}
    if _room(path) != "distributed":
        assert "ray" not in top
    if _room(path) not in {"engines", "training"}:
        assert not top & {"torch", "transformers", "sentence_transformers"}


def test_importing_the_package_and_its_command_line_loads_neither_ray_nor_torch():
    code = (
        "import sys, ray_si, ray_si.cli, ray_si.self_instruct.filters; "
        "print(sorted({'ray', 'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_can_be_loaded():
    import ray_si

    assert all(getattr(ray_si, name) is not None for name in ray_si.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = ray_si.nonsense
