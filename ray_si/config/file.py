"""Configurations from YAML and the command line, with errors that name the key."""

from __future__ import annotations

import copy
import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from ray_si.config import RunConfig
from ray_si.errors import ConfigError, one_line

SectionT = TypeVar("SectionT", bound=BaseModel)

_LISTS = ("openings", "topics", "rewrites")
"""Keys of ``bootstrap`` that may name a text file."""


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> RunConfig:
    """Read a YAML configuration and apply dotted overrides such as ``generator.replicas=2``.

    Values of overrides are YAML. Relative paths of ``seeds``, ``decontaminate`` and ``prompts`` are
    taken from the working directory or, if there is nothing, from the configuration's folder.
    Raises ConfigError naming the key.
    """
    return find_inputs(parse_config(read_values(path, overrides), str(path)), path)


def find_inputs(config: RunConfig, path: str | Path) -> RunConfig:
    """The configuration with what it reads taken from beside ``path`` where it is only there."""
    folder = Path(path).parent
    sets = tuple(_found(name, folder) for name in config.decontaminate)
    seeds = config.seeds if config.seeds == "bundled" else _found(config.seeds, folder)
    return config.model_copy(update={"seeds": seeds, "decontaminate": sets})


def _found(name: str, folder: Path) -> str:
    beside = folder / name
    return str(beside) if not Path(name).exists() and beside.exists() else name


def read_values(
    path: str | Path | None,
    overrides: list[str] | tuple[str, ...],
    otherwise: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Nested values of a YAML file with overrides applied; see `load_config`.

    Without a file they are applied to a copy of ``otherwise``, or to no values.
    """
    values = copy.deepcopy(dict(otherwise or {})) if path is None else _read(Path(path))
    for override in overrides:
        _apply(values, override)
    if path is not None:
        folder = Path(path).parent
        found = {name: _found(file, folder) for name, file in _lists(values).items()}
        values = _with_lists(values, found)
        if isinstance(prompts := values.get("prompts"), str):
            values["prompts"] = _found(prompts, folder)
    return values


class _Loader(yaml.SafeLoader):
    """Refuses a key that a mapping has twice, of which the last would win."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """As YAML has it; ComposerError naming the lines of a key that comes again."""
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in lines:
                raise yaml.composer.ComposerError(
                    problem=f"line {line}: {key.value} was given on line {lines[key.value]} "
                    "already; write it once"
                )
            lines[key.value] = line
        return node


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or a date like 2024-13-45
        raise ConfigError(f"{path} is not valid YAML: {one_line(error)}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is empty or not a mapping of keys to values")
    return values


def parse_config(values: dict[str, Any], source: str = "configuration") -> RunConfig:
    """Check a run's nested values; ConfigError lists every wrong key in one line.

    ``prompts`` may name a folder of templates, each of `_LISTS` a file.
    """
    if isinstance(values.get("prompts"), str):
        values = values | {"prompts": read_prompts(values["prompts"])}
    read = {name: read_list(path, f"bootstrap.{name}") for name, path in _lists(values).items()}
    values = _with_lists(values, read)
    return parse_section(RunConfig, values, source)


def stored_config(values: dict[str, Any]) -> RunConfig:
    """The configuration in the header of a run, whatever the version that began it."""
    return parse_config({"decontaminate_ngram": None} | values)


def parse_section(section: type[SectionT], values: dict[str, Any], source: str) -> SectionT:
    """Check the nested values of any section; ConfigError lists every wrong key in one line."""
    try:
        return section.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_problem(dict(item), section) for item in error.errors())
        raise ConfigError(f"{source}: {problems}") from error


def read_prompts(folder: str) -> dict[str, str]:
    """The prompt templates NAME.txt in a folder, by name; ConfigError where they cannot be read.

    Hidden files and those that are no .txt (a README, say) are not looked at.
    """
    path = Path(os.path.expanduser(folder))
    if not path.is_dir():
        raise ConfigError(f"prompts: there is no folder {folder}")
    files = sorted(file for file in path.glob("*.txt") if not file.name.startswith("."))
    if not files:
        raise ConfigError(f"prompts: {folder} holds no .txt file")
    try:
        return {file.stem: file.read_text(encoding="utf-8-sig") for file in files}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"prompts: cannot read the templates in {folder}: {error}") from error


def read_list(path: str, key: str) -> list[str]:
    """The texts in a file, one a line; blank lines and those that begin with # are none.

    Raises ConfigError, naming the key, where it cannot be read or holds none.
    """
    try:
        lines = Path(os.path.expanduser(path)).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{key}: cannot read {path}: {error}") from error
    texts = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not texts:
        raise ConfigError(f"{key}: {path} holds no line")
    return texts


def _lists(values: dict[str, Any]) -> dict[str, str]:
    """Which of `_LISTS` name a file, and the file."""
    bootstrap = values.get("bootstrap")
    given = bootstrap if isinstance(bootstrap, dict) else {}
    return {name: given[name] for name in _LISTS if isinstance(given.get(name), str)}


def _with_lists(values: dict[str, Any], lists: dict[str, Any]) -> dict[str, Any]:
    return values | {"bootstrap": values["bootstrap"] | lists} if lists else values


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: write key=value, as in generator.replicas=2")
    try:
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"--set {override}: {one_line(error)}") from error
    *parents, last = key.split(".")
    for parent in parents:
        child = {} if values.get(parent) is None else values[parent]
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override}: {parent} is not a section")
        values[parent] = dict(child)  # a copy, since a YAML alias may stand for it elsewhere too
        values = values[parent]
    values[last] = value


def _problem(error: dict[str, Any], section: type[BaseModel]) -> str:
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] != "extra_forbidden":
        message = error["msg"].removeprefix("Value error, ")
        return f"{key}: {message}" if key else message
    known = _known_keys(section)
    siblings = [name for name in known if name.split(".")[:-1] == location[:-1]]
    same_name = [name for name in known if name.split(".")[-1] == location[-1]]
    longer = [name for name in siblings if location[-1] in name.split(".")[-1]]
    close = difflib.get_close_matches(key, siblings or known, n=1, cutoff=0.5)
    near = same_name or longer or close
    hint = f" (did you mean {near[0]}?)" if near else f" (known here: {', '.join(siblings)})"
    return f"there is no key {key}{hint}"


def _known_keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _known_keys(field.annotation, f"{prefix}{name}.")
    return keys
