"""What a dataset repository gets of a run or of an export, read with its digests checked."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ray_si.errors import ConfigError, RunError, StorageError
from ray_si.export.shard_files import KINDS
from ray_si.records import StepListener
from ray_si.run.run import Run
from ray_si.storage.base import Objects
from ray_si.storage.objects import open_objects
from ray_si.storage.tables import ShardInfo, read_named

CARD = "README.md"
"""Name of a dataset card, on disk and in a repository."""

_DOCUMENTS = (CARD, "report.html")
_OF_RUNS = re.compile(r"data/train-\d{5,}-of-\d{5,}\.(parquet|jsonl)")
_OF_EXPORTS = r"{name}(-train|-validation)?(-\d{{5,}}-of-\d{{5,}})?\.({kinds})"
_MANIFEST = re.compile(r"_([A-Za-z0-9][\w.-]*)\.manifest")
_GROUP = 64 << 20
"""Bytes of files that are in memory together; a larger file is there by itself."""


@dataclass(frozen=True)
class DatasetFiles:
    """Files for a dataset repository, the card and other documents first.

    ``card`` stands in for the README.md among ``files``. ``shards`` is what names of shards look
    like, those of an earlier version too.
    """

    objects: Objects
    location: str
    manifest: str
    files: tuple[ShardInfo, ...]
    shards: re.Pattern[str]
    card: bytes | None = None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(info.size for info in self.files)

    def read(self, info: ShardInfo) -> bytes:
        """One of the files, whole; RunError where it is not what the manifest says."""
        if info.key == CARD and self.card is not None:
            return self.card
        return read_named(self.objects, self.location, info, self.manifest)

    def check(self, listen: StepListener = lambda *step: None) -> None:
        """Read everything once; RunError where something is missing or damaged."""
        for done, info in enumerate(self.files, 1):
            self.read(info)
            listen("checking", done, len(self.files))

    def groups(self) -> Iterator[list[ShardInfo]]:
        """The files in order, as many at a time as may be in memory together."""
        group: list[ShardInfo] = []
        for info in self.files:
            if group and sum(i.size for i in group) + info.size > _GROUP:
                yield group
                group = []
            group.append(info)
        if group:
            yield group


def dataset_files(location: str, card: str | None = None) -> DatasetFiles:
    """The files of the finished run or the export at ``location``, a folder or S3.

    Of a run: README.md, report.html and its shards, those in Parquet where there are both kinds.
    Of an export: its files, which have no card. ``card`` is a local file to take for README.md.

    Raises RunError where there is neither, the run is unfinished, or there are no rows; ConfigError
    where the card cannot be read.
    """
    objects = open_objects(location)
    objects.check(write=False)
    text = None if card is None else _read_card(card)
    names = manifests(objects)
    if names and next(objects.list("run.json"), None) != "run.json":
        manifest, shards, files = _of_export(objects, location, names)
    else:
        manifest, shards, files = _of_run(location)
    if text is not None:
        info = ShardInfo(CARD, 0, len(text), hashlib.sha256(text).hexdigest())
        files = [info, *(file for file in files if file.key != CARD)]
    return DatasetFiles(objects, location, manifest, tuple(files), shards, text)


def manifests(objects: Objects) -> list[str]:
    """The names of the exports that are finished there."""
    return [match[1] for key in objects.list("_") if (match := _MANIFEST.fullmatch(key))]


def listed(objects: Objects, location: str, name: str) -> list[ShardInfo]:
    """The files of a finished export, as its manifest has them; RunError where it is damaged."""
    key = f"_{name}.manifest"
    try:
        entries = json.loads(objects.get(key))["files"]
        return [ShardInfo(**{n: e[n] for n in ("key", "rows", "size", "sha256")}) for e in entries]
    except StorageError:
        raise  # a store that refuses has damaged nothing
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{location}/{key} is damaged: {error!r}") from error


_Found = tuple[str, re.Pattern[str], list[ShardInfo]]
"""Name of a manifest, what names of shards look like, and the files."""


def _of_run(location: str) -> _Found:
    run = Run.open(location)
    stats = run.stats()
    if stats is None:
        raise RunError(f"{location} is not finished: run `ray-si build` on it again first")
    shards = [ShardInfo(**entry) for entry in stats["shards"]]
    if not shards:
        raise RunError(f"{location} has no rows to push")
    documents = [ShardInfo(**entry) for entry in stats.get("documents", [])]
    parquet = [info for info in shards if info.key.endswith(".parquet")]
    chosen = [info for info in documents if info.key in _DOCUMENTS]
    return "stats.json", _OF_RUNS, [*chosen, *(parquet or shards)]


def _of_export(objects: Objects, location: str, names: list[str]) -> _Found:
    if len(names) > 1:
        raise RunError(
            f"{location} holds several exports ({', '.join(names)}); "
            "export the one to push into a folder of its own"
        )
    files = listed(objects, location, names[0])
    if not files:
        raise RunError(f"{location} has no rows to push")
    kinds = "|".join(map(re.escape, KINDS))
    shards = re.compile(_OF_EXPORTS.format(name=re.escape(names[0]), kinds=kinds))
    return f"_{names[0]}.manifest", shards, files


def _read_card(path: str) -> bytes:
    try:
        data = Path(os.path.expanduser(path)).read_bytes()
        data.decode()
    except OSError as error:
        raise ConfigError(f"the card {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the card {path} is not UTF-8 text") from error
    return data
