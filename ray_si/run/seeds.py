"""Seed tasks: JSONL in the paper's schema, checked line by line."""

from __future__ import annotations

import hashlib
import json
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa

from ray_si.errors import SeedError
from ray_si.records import Instance, SeedTask

BUNDLED = "bundled"
"""Stands for the seed tasks that ship with ray_si."""


def seeds_of(table: pa.Table) -> list[SeedTask]:
    """The seed tasks of a table of `SEEDS`."""
    return [
        SeedTask(**row | {"instances": tuple(Instance(**item) for item in row["instances"])})
        for row in table.to_pylist()
    ]


def load_seeds(path: str) -> tuple[list[SeedTask], str]:
    """Read seed tasks ("bundled" or a path); also the SHA-256, hex, of the bytes.

    Raises SeedError with line number and field for anything malformed, duplicate ids included.
    """
    source = "the bundled seeds" if path == BUNDLED else path
    try:
        if path == BUNDLED:
            data = files("ray_si").joinpath("data", "seed_tasks.jsonl").read_bytes()
        else:
            data = Path(os.path.expanduser(path)).read_bytes()
    except FileNotFoundError as error:
        raise SeedError(f"there are no seed tasks at {path}") from error
    except OSError as error:
        raise SeedError(f"cannot read the seed tasks {path}: {error.strerror}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SeedError(f"{source} is not UTF-8 text: {error}") from error
    tasks: list[SeedTask] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{source}, line {number}"
        task = _parse(line, where)
        if task.id in lines:
            raise SeedError(f"{where}: id {task.id!r} was used on line {lines[task.id]} already")
        lines[task.id] = number
        tasks.append(task)
    if not tasks:
        raise SeedError(f"{source} holds no seed task")
    return tasks, hashlib.sha256(data).hexdigest()


def _parse(line: str, where: str) -> SeedTask:
    try:
        row = json.loads(line)
        json.dumps(row, ensure_ascii=False).encode()  # "\\ud800" is JSON, but no text
    except (ValueError, RecursionError) as error:
        raise SeedError(f"{where}: not valid JSON ({error})") from error
    if not isinstance(row, dict):
        raise SeedError(f"{where}: not a JSON object")
    instances = _field(row, "instances", list, where)
    if not instances:
        raise SeedError(f"{where}: field 'instances' is empty")
    parsed = []
    for i, instance in enumerate(instances):
        inner = f"{where}, instances[{i}]"
        if not isinstance(instance, dict):
            raise SeedError(f"{inner}: not a JSON object")
        parsed.append(
            Instance(_field(instance, "input", str, inner), _field(instance, "output", str, inner))
        )
        if not parsed[-1].output.strip():
            raise SeedError(f"{inner}: field 'output' is empty")
    instruction = " ".join(_field(row, "instruction", str, where).split())
    if not instruction:
        raise SeedError(f"{where}: field 'instruction' is empty")
    return SeedTask(
        id=_field(row, "id", str, where),
        name=_field(row, "name", str, where),
        instruction=instruction,
        instances=tuple(parsed),
        is_classification=_field(row, "is_classification", bool, where),
    )


def _field(row: dict[str, Any], name: str, kind: type, where: str) -> Any:
    if name not in row:
        raise SeedError(f"{where}: field {name!r} is missing")
    if not isinstance(row[name], kind):
        raise SeedError(f"{where}: field {name!r} must be of type {_JSON_NAMES[kind]}")
    return row[name]


_JSON_NAMES = {str: "string", bool: "boolean", list: "array"}
