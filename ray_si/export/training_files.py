"""A finished run's rows as files for training: laid out, shuffled, split, and sharded anew."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ray_si.errors import ConfigError, StorageError, StorageLostError
from ray_si.export.dataset_files import listed, manifests
from ray_si.export.shard_files import KINDS, ShardFiles, Written
from ray_si.export.shuffle import Shuffle
from ray_si.export.training_lines import Layout, Source, encoded_rows, schema_of
from ray_si.run.folder import check_beside
from ray_si.run.run import Run
from ray_si.storage.base import Objects
from ray_si.storage.objects import open_objects

_BUCKET = 16 << 20
"""Bytes of lines in a bucket of the shuffle, about."""
_MOST_BUCKETS = 512
_NUMBER = r"-\d{5,}-of-\d{5,}"


@dataclass(frozen=True)
class Options:
    """How the files are written.

    ``name`` begins their names; ``kind`` is one of `KINDS`. A shard ends at ``rows_per_shard`` or
    ``bytes_per_shard`` (of JSON lines, before compression and whatever the kind); without either
    there is one. ``shuffle`` puts the rows in an order that ``seed`` gives. ``validation`` sets
    instructions with all their rows aside: a share below 1, or a number of instructions.
    ``seed_tasks`` adds the run's, after its own rows.
    """

    name: str
    kind: str = "jsonl"
    rows_per_shard: int | None = None
    bytes_per_shard: int | None = None
    shuffle: bool = False
    seed: int = 0
    validation: float | int | None = None
    seed_tasks: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError for impossible values."""
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", self.name):
            raise ConfigError(f"{self.name!r} cannot begin the name of a file")
        if self.kind not in KINDS:
            raise ConfigError(f"{self.kind!r} is no kind of file; there are: {', '.join(KINDS)}")
        for name in ("rows_per_shard", "bytes_per_shard"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
        share = self.validation
        if share is not None and not (share > 0 and (isinstance(share, int) or share < 1)):
            raise ConfigError(
                f"validation is a share between 0 and 1 or a number of instructions, not {share}"
            )

    @property
    def is_sharded(self) -> bool:
        """Whether files are numbered."""
        return self.rows_per_shard is not None or self.bytes_per_shard is not None

    @property
    def names(self) -> re.Pattern[str]:
        """What its files may be called."""
        split = "-(train|validation)" if self.is_sharded or self.validation is not None else ""
        number = _NUMBER if self.is_sharded else ""
        return re.compile(rf"{re.escape(self.name)}{split}{number}\.{re.escape(self.kind)}")

    @property
    def manifest(self) -> str:
        """Its name: what reads a folder of data passes over a file that is called so."""
        return f"_{self.name}.manifest"


@dataclass(frozen=True)
class Exported:
    """What an export came to: rows by split, and the objects written, manifest last.

    ``equal_rows`` were left out, each for one that is there.
    """

    rows: dict[str, int]
    keys: list[str]
    equal_rows: int = 0


def write_training_files(
    run: Run,
    to: str,
    layout: Layout,
    options: Options,
    description: Mapping[str, Any],
    listen: Callable[[int, int], None] = lambda done, total: None,
    source: Source | None = None,
) -> Exported:
    """Write a finished run's rows, laid out, to the folder or ``s3://bucket/prefix`` ``to``.

    The same run, layout and options give the same bytes. All is written aside first, in ``to`` or,
    for S3, in the folder for temporary files, and then put in place, the manifest last: rows, size
    and SHA-256 of every file, the options, and ``description``. What it replaces stays as it is
    until all of the new is there, under names of its own. After an error nothing of it is left; a
    folder without its manifest is not finished. ``listen`` hears of rows done and in all; to
    shuffle each is done twice. ``source`` stands in for the run's shards, where rows are to have
    more, or to be others.

    Raises RunError where the run isn't finished or is damaged, or ``to`` lies inside it;
    StorageError where ``to`` cannot be written, holds such files already and ``overwrite`` isn't
    set, or files of another export have such names; ConfigError where there are too few
    instructions to set aside; StorageLostError where there is no room.
    """
    source = source or Source(run, seed_tasks=options.seed_tasks)
    check_beside(to, run.location)
    target = open_objects(to)
    target.check(write=True)
    others = _of_others(target, to, options.name)
    present = [key for key in _present(target, options.name) if key not in others]
    for key in filter(options.names.fullmatch, others):
        raise StorageError(
            f"{to}/{key} is of another export, {others[key]}; choose another --to or --name"
        )
    if present and not options.overwrite:
        state = "already" if options.manifest in present else "of an export that was not finished"
        raise StorageError(
            f"{to} holds {present[0]} {state}; choose another --to or --name, or add --overwrite"
        )
    held_out: set[str] = set()
    if options.validation is not None:
        held_out = source.hold_out(options.seed, options.validation)
    with _room_for(to), target.scratch() as scratch:
        splits = _write(source, scratch, layout, options, held_out, listen)
        rows = {split: sum(shard.rows for shard in shards) for split, shards in splits.items()}
        equal_rows = source.rows - sum(rows.values())
        manifest = _manifest(run, options, description) | {"equal_rows": equal_rows}
        keys = _publish(target, present, splits, options, manifest)
        return Exported(rows, keys, equal_rows)


# Writing ---------------------------------------------------------------------------------------


def _write(
    source: Source,
    scratch: Path,
    layout: Layout,
    options: Options,
    held_out: set[str],
    listen: Callable[[int, int], None],
) -> dict[str, list[Written]]:
    """The shards of each split, in the scratch folder."""
    names = ["train", "validation"] if held_out else ["train"]
    schema = schema_of(layout, source.schema)
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(
                ShardFiles(
                    scratch / name,
                    options.kind,
                    schema,
                    rows=options.rows_per_shard,
                    bytes_=options.bytes_per_shard,
                )
            )
            for name in names
        }
        shuffles: dict[str, Shuffle] = {}
        done, total = 0, source.rows * (2 if options.shuffle else 1)
        for lines, numbers, aside in encoded_rows(source, layout, options.seed, held_out):
            if options.shuffle and not shuffles:
                expected = source.rows * sum(map(len, lines)) / max(len(lines), 1)
                buckets = min(_MOST_BUCKETS, 1 + int(expected / _BUCKET))
                shuffles = {n: Shuffle(scratch / f"{n}-shuffle", buckets) for n in names}
            for name, mask in (("train", ~aside), ("validation", aside)):
                if not mask.any():
                    continue
                every = mask.all()
                part = lines if every else [lines[i] for i in np.flatnonzero(mask).tolist()]
                if shuffles:
                    shuffles[name].add(part, numbers if every else numbers[mask])
                else:
                    files[name].add(part)
            done += len(lines)
            listen(done, total)
        for name, shuffle in shuffles.items():
            for part in shuffle.sorted():
                files[name].add(part)
                done += len(part)
                listen(done, total)
        return {name: files[name].finish() for name in names}


# Putting in place ------------------------------------------------------------------------------


def _present(target: Objects, name: str) -> list[str]:
    """What may be of an export of this name, its manifest among it, if there is any."""
    suffixes = "|".join(map(re.escape, KINDS))
    shard = re.compile(rf"{re.escape(name)}(-train|-validation)?({_NUMBER})?\.({suffixes})")
    manifest = [key for key in target.list(f"_{name}.manifest") if key == f"_{name}.manifest"]
    return [*(key for key in target.list(name) if shard.fullmatch(key)), *manifest]


def _of_others(target: Objects, to: str, name: str) -> dict[str, str]:
    """The files of finished exports of other names, as far as they may be alike -> the name."""
    found: dict[str, str] = {}
    for other in manifests(target):
        if other != name and (other.startswith(name) or name.startswith(other)):
            found |= {info.key: other for info in listed(target, to, other)}
    return found


def _publish(
    target: Objects,
    present: list[str],
    splits: dict[str, list[Written]],
    options: Options,
    manifest: dict[str, Any],
) -> list[str]:
    """Give the files their names, the manifest last; after an error none of them is there.

    Returns the names.

    Where an export of this name is ``present`` it is replaced once every file is there under
    another name, so that nothing is left to do but to rename.
    """
    files = _named(splits, options)
    aside = f"_{options.name}.next/"
    for key in list(target.list(aside)):  # of one that was killed
        target.delete(key)
    first = aside if present else ""
    done: list[str] = []
    try:
        for key, _, shard in files:
            done.append(first + key)
            target.adopt(first + key, str(shard.path))
        if not present:
            _put_manifest(target, files, options, manifest)
    except BaseException:
        for key in done:
            target.delete(key)
        raise
    if present:
        target.delete(options.manifest)
        for key, _, _ in files:
            target.move(aside + key, key)
        for key in set(present) - {key for key, _, _ in files} - {options.manifest}:
            target.delete(key)
        _put_manifest(target, files, options, manifest)
    return [*(key for key, _, _ in files), options.manifest]


def _put_manifest(
    target: Objects,
    files: list[tuple[str, str, Written]],
    options: Options,
    manifest: dict[str, Any],
) -> None:
    manifest["files"] = [
        {"key": key, "split": split, "rows": s.rows, "size": s.size, "sha256": s.sha256}
        for key, split, s in files
    ]
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    target.put(options.manifest, text.encode())


def _named(splits: dict[str, list[Written]], options: Options) -> list[tuple[str, str, Written]]:
    named = []
    for split, shards in splits.items():
        for index, shard in enumerate(shards):
            parts = [options.name]
            if len(splits) > 1 or options.is_sharded:
                parts.append(split)
            if options.is_sharded:
                parts.append(f"{index:05d}-of-{len(shards):05d}")
            named.append((f"{'-'.join(parts)}.{options.kind}", split, shard))
    return named


def _manifest(run: Run, options: Options, description: Mapping[str, Any]) -> dict[str, Any]:
    values = asdict(options)
    del values["overwrite"]
    return {"run": run.header["fingerprint"], **description, **values}


@contextmanager
def _room_for(to: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"the files for {to} cannot be written ({error.strerror})"
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            what += "; free some space, or for S3 set TMPDIR to a larger disk"
        raise StorageLostError(what) from error
