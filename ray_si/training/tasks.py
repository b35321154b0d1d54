"""Evaluation tasks: Super-NaturalInstructions files, JSONL in the seed schema, held-out seeds."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_si.errors import TaskError
from ray_si.records import Instance, SeedTask
from ray_si.storage.corpus import holds_rows

BUNDLED = "bundled"
"""Stands for the held-out part of the seed tasks that ship with ray_si, see `split_seeds`."""


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Example:
    """One thing to answer: an instance of a task, with every output that counts as right.

    ``prompt`` is asked as it is, where a benchmark words it; ``category`` may be "". ``checked`` is
    what a benchmark's own checks take, where answers have no references.
    """

    id: str
    task: str
    instruction: str
    instance: Instance
    references: tuple[str, ...]
    prompt: str | None = None
    category: str = ""
    checked: Mapping[str, Any] | None = None


def natural_task(path: Path) -> tuple[dict[str, Any], list[Example]]:
    """A Super-NaturalInstructions file and its examples. Raises TaskError as `load_examples`."""
    task = _json(_read(path), str(path))
    return task, _natural(task, path)


def examples_of(seeds: Iterable[SeedTask], limit: int) -> list[Example]:
    """The first ``limit`` instances of each seed task."""
    return [
        Example(f"{seed.id}#{i}", seed.id, seed.instruction, instance, (instance.output,))
        for seed in seeds
        for i, instance in enumerate(seed.instances[:limit])
    ]


def load_examples(paths: Sequence[str], limit: int) -> list[Example]:
    """Examples of task files, at most ``limit`` of each task, in the order of the files.

    A path is a Super-NaturalInstructions task (``.json``), a folder of those, or JSONL in the seed
    schema, of which only id, instruction and instances are needed. Raises TaskError with file and
    line for anything malformed or of another schema, and for a task that appears twice.
    """
    examples: list[Example] = []
    sources: dict[str, str] = {}
    for path in _files(paths):
        for task, parsed in _tasks(path):
            if task in sources:
                raise TaskError(f"{path}: task {task!r} was in {sources[task]} already")
            sources[task] = str(path)
            examples += parsed[:limit]
    return examples


def digest(examples: Sequence[Example]) -> str:
    """SHA-256, hex, of everything that answers and scores depend on."""
    rows: list[list[Any]] = [
        [e.id, e.task, e.instruction, e.instance.input, list(e.references)]
        + ([] if e.prompt is None else [e.prompt])
        + ([] if e.checked is None else [e.checked])
        for e in examples
    ]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _files(paths: Sequence[str]) -> Iterator[Path]:
    for name in paths:
        path = Path(os.path.expanduser(name))
        if path.is_dir():
            task_files = sorted(
                file
                for file in path.iterdir()
                if file.suffix.lower() == ".json" and holds_rows(file.name)
            )
            if not task_files:
                raise TaskError(f"the folder {name} holds no task file (*.json)")
            for file in task_files:
                if file.stat().st_size:
                    yield file
                else:
                    logger.warning("%s is empty", file)
        else:
            yield path


def _tasks(path: Path) -> Iterator[tuple[str, list[Example]]]:
    """Each task of a file with its examples."""
    if path.suffix.lower() == ".json":
        yield path.stem, _natural(_json(_read(path), str(path)), path)
        return
    has_tasks = False
    for row, where in json_lines(path):
        has_tasks = True
        yield _seed(row, where)
    if not has_tasks:
        raise TaskError(f"{path} holds no task")


def json_lines(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Each object of a JSONL file, and where it stands; TaskError for what is none."""
    for number, line in enumerate(_read(path).split("\n"), 1):
        if line.strip():
            where = f"{path}, line {number}"
            yield _json(line, where), where


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise TaskError(f"there are no tasks at {path}") from error
    except OSError as error:
        raise TaskError(f"cannot read the tasks {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TaskError(f"{path} is not UTF-8 text: {error}") from error


def _json(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise TaskError(f"{where}: a text has half a surrogate pair (a \\ud800 alone)") from error
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{where}: not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise TaskError(f"{where}: not a JSON object")
    return value


def _natural(row: dict[str, Any], path: Path) -> list[Example]:
    """The examples of a Super-NaturalInstructions task."""
    if "Definition" not in row or "Instances" not in row:
        raise TaskError(
            f"{path} is no Super-NaturalInstructions task: it has no Definition or no Instances; "
            "tasks in the seed schema go in a .jsonl file, one a line"
        )
    definition = row["Definition"]
    parts = definition if isinstance(definition, list) else [definition]
    if not parts or not all(isinstance(part, str) and part.strip() for part in parts):
        raise TaskError(f"{path}: Definition must be a text or a list of texts")

    def example(index: int, instance: dict[str, Any], where: str) -> Example:
        outputs = instance.get("output")
        outputs = [outputs] if isinstance(outputs, str) else outputs
        if not isinstance(outputs, list) or not outputs or not all(map(_is_text, outputs)):
            raise TaskError(f"{where}: output must be a text or a list of texts")
        id_ = str(instance.get("id", f"{path.stem}#{index}"))
        given = _text(instance, "input", where)
        instance_ = Instance(given, outputs[0])
        return Example(id_, path.stem, " ".join(parts), instance_, tuple(outputs))

    return _instances(row["Instances"], f"{path}, Instances", example)


def _seed(row: dict[str, Any], where: str) -> tuple[str, list[Example]]:
    """The id and the examples of a task in the seed schema."""
    if "instruction" not in row or "instances" not in row:
        hint = " (a Super-NaturalInstructions task goes in a file of its own, .json)"
        raise TaskError(
            f"{where}: not a task in the seed schema: it has no instruction or no instances"
            + (hint if "Definition" in row else "")
        )
    task, instruction = _text(row, "id", where), _text(row, "instruction", where)
    if not instruction.strip():
        raise TaskError(f"{where}: field 'instruction' is empty")

    def example(index: int, instance: dict[str, Any], inner: str) -> Example:
        parsed = Instance(_text(instance, "input", inner), _text(instance, "output", inner))
        return Example(f"{task}#{index}", task, instruction, parsed, (parsed.output,))

    return task, _instances(row["instances"], f"{where}, instances", example)


def _instances(
    values: Any, where: str, parse: Callable[[int, dict[str, Any], str], Example]
) -> list[Example]:
    if not isinstance(values, list) or not values:
        raise TaskError(f"{where}: must be a list with something in it")
    for i, value in enumerate(values):
        if not isinstance(value, dict):
            raise TaskError(f"{where}[{i}]: not a JSON object")
    return [parse(i, value, f"{where}[{i}]") for i, value in enumerate(values)]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _text(row: dict[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise TaskError(f"{where}: field {name!r} must be a text")
    return value
