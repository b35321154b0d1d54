"""What a job takes with it to the cluster: one small zip with ray_si, the run's files, no more."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import yaml

import ray_si
from ray_si.config import RunConfig
from ray_si.errors import ConfigError
from ray_si.run.evaluation import names_in
from ray_si.serving.placement import check_models

_OWN = "ray_si_job/"
"""Folder in the package of what the run itself reads, apart from what is included."""

CONFIG_NAME = f"{_OWN}run.yaml"
"""The configuration's name in the package, which is the job's working directory."""

LIMIT = 100 << 20
"""Bytes that a package may have: what Ray's job server takes."""

_PIECE = 1 << 20
"""Bytes of a file that are packed at once."""

_SEEDS = f"{_OWN}seeds.jsonl"
_PACKAGE = "ray_si/"

_CACHES = frozenset(
    ["__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", ".tox"]
)
_LEFT_OUT = _CACHES | {".git", ".venv", "venv", "node_modules", "data", "runs"}
"""Folders below an included one that stay at home, besides hidden ones."""

_DATE = 1980, 1, 1, 0, 0, 0
"""Of every file in a package, so that the same files make the same bytes."""


@dataclass(frozen=True)
class Package:
    """A zip on disk: its path, size in bytes and number of files.

    ``left_out`` is what of included folders stayed at home: folders of data, runs and environments
    and links to folders, which end in "/", then hidden files and links to what lies outside.
    """

    path: Path
    size: int
    files: int
    left_out: tuple[str, ...] = ()


def pack(config: RunConfig, path: Path, include: list[str], limit: int = LIMIT) -> Package:
    """Write the package of a run to ``path`` (.zip).

    It holds ray_si as it is installed here, so that the cluster runs what checked the
    configuration; the configuration, overrides applied; its seed tasks, evaluation sets and
    recordings; and the files and folders of ``include``, under their own names, without data, runs,
    environments and caches, what is hidden (.git, .env) and links that lead out of the folder. None
    of these takes the place of what the run itself reads.
    Raises ConfigError where something is missing, would be out of the cluster's sight, or
    the package is over ``limit`` bytes.
    """
    check_models(config)
    # what is left open stays so, since a run goes on with what was there for it as it began
    values: dict[str, Any] = config.model_dump(mode="json", exclude_unset=True)
    package = Path(ray_si.__file__).parent
    files = {_PACKAGE + name: file for name, file in _files(package, _CACHES)}
    if config.seeds != "bundled":
        files[_SEEDS], values["seeds"] = Path(os.path.expanduser(config.seeds)), _SEEDS
    values["decontaminate"] = []
    for number, source in enumerate(config.decontaminate):
        name = source
        if "://" not in source:  # under its own name, by which rejections are told
            place = Path(os.path.expanduser(source)).absolute()
            name = f"{_OWN}sets/{number}/{place.name}"
            if place.is_dir():
                files |= {f"{name}/{file}": place / file for file in names_in(place)}
            else:
                files[name] = place
        values["decontaminate"].append(name)
    for section, generator in config.generators.items():
        if generator.engine == "replay" and generator.replay.recording:
            name = f"{_OWN}{section}-recording.jsonl"
            files[name] = Path(generator.replay.recording)
            values[section]["replay"]["recording"] = name
    left_out: list[str] = []
    for item in include:
        for name, file in _included(Path(item), left_out).items():
            if name.startswith((_OWN, _PACKAGE)):  # the cluster runs what was checked here
                continue
            if name in files and not file.samefile(files[name]):
                raise ConfigError(
                    f"--include {item}: {files[name]} would be {name} in the package, too; "
                    "rename one of them"
                )
            files[name] = file
    text = yaml.safe_dump(values, sort_keys=False).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        _write(archive, CONFIG_NAME, io.BytesIO(text), limit)
        for name, file in sorted(files.items()):
            try:
                with file.open("rb") as stream:
                    has_room = _write(archive, name, stream, limit)
            except OSError as error:
                raise ConfigError(f"{file} cannot be packaged: {error.strerror}") from error
            if not has_room:
                raise ConfigError(_too_large(files, limit))
    return Package(path, path.stat().st_size, len(files) + 1, tuple(left_out))


def _included(item: Path, left_out: list[str]) -> dict[str, Path]:
    """The files of an item of ``include`` by name; what stays at home is added to ``left_out``."""
    if not item.is_dir():
        if not item.is_file():
            raise ConfigError(f"--include {item}: there is no such file or folder")
        return {item.name: item}
    folder = item.resolve()
    # a link's own name, by which the run imports what is in it
    prefix = "" if folder == Path.cwd() else f"{Path(os.path.abspath(item)).name}/"
    files = {}
    skipped: list[str] = []
    for name, file in _files(folder, _LEFT_OUT, skipped):
        if _is_hidden(name) or not file.resolve().is_relative_to(folder):
            left_out.append(prefix + name)
        else:
            files[prefix + name] = file
    left_out[:0] = [  # before hidden files, which nobody misses
        f"{prefix}{name}/"
        for name in skipped
        if not _is_hidden(name) and Path(name).name not in _CACHES
    ]
    return files


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in Path(name).parts)


def _files(
    folder: Path, left_out: frozenset[str], skipped: list[str] | None = None
) -> Iterator[tuple[str, Path]]:
    """Names below a folder, with "/", and the files there; links to folders are not followed.

    Folders that are left out, and links to any, are added to ``skipped``. Raises ConfigError for a
    folder that cannot be read, unless it is hidden.
    """

    def refuse(error: OSError) -> None:
        if not _is_hidden(Path(error.filename).relative_to(folder).as_posix()):
            raise ConfigError(f"{error.filename} cannot be packaged: {error.strerror}") from error

    for parent, folders, names in os.walk(folder, onerror=refuse):
        if skipped is not None:
            there = Path(parent).relative_to(folder)
            links = {name for name in folders if (Path(parent) / name).is_symlink()}
            skipped += [(there / name).as_posix() for name in folders if name in left_out | links]
        folders[:] = [name for name in folders if name not in left_out]
        for name in names:
            file = Path(parent) / name
            if file.is_file():  # no sockets, no dangling links
                yield file.relative_to(folder).as_posix(), file


def _write(archive: zipfile.ZipFile, name: str, stream: BinaryIO, limit: int) -> bool:
    """Add a file; False, with a part of it only, once the archive has more than ``limit`` bytes."""
    info = zipfile.ZipInfo(name, _DATE)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    assert archive.fp
    with archive.open(info, "w", force_zip64=True) as member:
        while piece := stream.read(_PIECE):
            member.write(piece)
            if archive.fp.tell() > limit:
                return False
    return archive.fp.tell() <= limit


def _too_large(files: dict[str, Path], limit: int) -> str:
    sizes = {name: file.stat().st_size for name, file in files.items()}
    largest = sorted(sizes, key=lambda name: -sizes[name])[:5]
    named = ", ".join(f"{name} ({sizes[name] / 2**20:.1f} MiB)" for name in largest)
    return (
        f"the job's package is over the {limit / 2**20:g} MiB that a cluster takes; "
        f"largest: {named}. Put large files where the cluster reads them itself "
        "(s3://, shared storage)"
    )
