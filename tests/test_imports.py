"""Imports run one way, and importing ray_si is cheap.

Names that only type checkers import, under ``if TYPE_CHECKING``, count for directions and not for
cycles.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.syntax import PACKAGE, TREES

ROOT = Path(__file__).parents[1]
BASE = {"records", "errors", "_version"}
BYTES = {"storage", "run", "export"}
RUN = BASE | BYTES | {"config", "self_instruct", "dedup", "engines"}
BUILD = RUN | {"report", "serving", "pipeline", "scores", "build"}
ROOMS = {
    "_version": set(),
    "errors": set(),
    "records": set(),
    "dedup": set(),
    "self_instruct": {"records"},
    "engines": BASE,
    "storage": BASE,
    "config": BASE | {"engines", "self_instruct"},
    "run": BASE | {"storage"},
    "export": BASE | {"storage", "run", "self_instruct"},
    "scores": BASE | BYTES | {"config", "engines", "self_instruct", "dedup"},
    "report": BASE | BYTES | {"dedup", "scores"},
    "serving": BASE | {"config", "engines", "storage"},
    "pipeline": RUN | {"serving"},
    "build": RUN | {"report", "serving", "pipeline", "scores"},
    "audit": BASE | BYTES | {"config", "self_instruct", "dedup", "report", "pipeline", "scores"},
    "planning": BUILD,
    "corpora": BUILD,
    "training": BASE | {"config", "dedup", "engines", "storage", "run"},
    "experiments": BUILD | {"training"},
    "submission": BASE | {"config", "engines", "run", "serving", "storage"},
    "provision": BASE | {"config", "serving"},
    "cli": BUILD
    | {"audit", "planning", "corpora", "training", "experiments", "provision", "submission"},
    "__main__": {"cli"},
}
"""Room -> what it may import besides itself. The package's __init__ imports lazily."""

WITH_RAY = {"serving", "build", "corpora", "experiments", "submission"}
WITH_TORCH = {"dedup", "engines", "training"}
MOST_FILES = 15
"""Modules in a folder, its __init__ included, beyond which nobody finds anything in it."""


def _modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _nodes(tree: ast.AST, *, typing: bool) -> Iterator[ast.AST]:
    """Every node, those that only type checkers reach included with ``typing``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            children: list[ast.AST] = [*node.orelse, *(node.body if typing else [])]
        else:
            children = [node]
        for child in children:
            yield child
            yield from _nodes(child, typing=typing)


def _imports(path: Path, *, typing: bool = True) -> set[str]:
    """What a module imports, wherever in it; a module of ours by its own name."""
    found = set()
    for node in _nodes(TREES[path], typing=typing):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                found.add(below if _is_module(below) else node.module)
    return found


def _is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return name.startswith("ray_si.") and (path.is_dir() or path.with_suffix(".py").is_file())


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_import_only_what_lies_below_them(path):
    room = _room(path)
    for name in _imports(path):
        if name.startswith("ray_si."):
            assert name.split(".")[1] in ROOMS[room] | {room}, f"{room} must not import {name}"


def test_no_two_rooms_need_each_other():
    list(TopologicalSorter(ROOMS).static_order())


def test_no_two_files_need_each_other():
    graph = {
        _name(path): {
            name
            for name in _imports(path, typing=False)
            if name.startswith("ray_si.") and name != _name(path)
        }
        for path in _modules()
    }
    list(TopologicalSorter(graph).static_order())


def test_every_room_is_known_and_small_enough_to_find_things_in():
    assert {_room(path) for path in _modules()} == ROOMS.keys()
    folders = {path.parent for path in _modules()}
    crowded = {f.name: n for f in folders if (n := len(list(f.glob("*.py")))) > MOST_FILES}
    assert not crowded


def test_ray_and_torch_are_imported_in_few_rooms():
    found: dict[str, set[str]] = {"ray": set(), "torch": set()}
    for path in _modules():
        top = {name.split(".")[0] for name in _imports(path)}
        if "ray" in top:
            found["ray"].add(_room(path))
        if top & {"torch", "transformers", "sentence_transformers"}:
            found["torch"].add(_room(path))
    assert found == {"ray": WITH_RAY, "torch": WITH_TORCH}


def test_settings_of_ray_are_made_before_a_room_imports_it():
    for room in WITH_RAY - {"serving"}:
        assert "ray_si.serving" in _imports(PACKAGE / room / "__init__.py")
    code = (
        "import ray_si.build; from ray.serve._private import constants; import os; "
        "print(os.environ['RAY_ENABLE_AUTO_CONNECT'], "
        "constants.RAY_SERVE_METRICS_EXPORT_INTERVAL_MS)"
    )
    unset = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=unset, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["0", "5000"]


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
    assert not set(ray_si.__all__) & (ROOMS.keys() - {"_version"}), "a room would replace it"
    with pytest.raises(AttributeError, match="nonsense"):
        _ = ray_si.nonsense
