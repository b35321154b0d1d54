"""A finished run's rows as files for training: laid out, shuffled, split, and sharded anew."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from ray_si.errors import ConfigError, RunError, StorageError, StorageLostError
from ray_si.storage.export import ROWS
from ray_si.storage.objects import Objects, open_objects
from ray_si.storage.run import Run
from ray_si.storage.shard_files import KINDS, ShardFiles, Written
from ray_si.storage.shards import ShardInfo, from_bytes
from ray_si.storage.shuffle import Shuffle, row_numbers

_CHUNK = 500
"""Rows that are encoded at once: few enough to stay in the processor's cache."""
_BUCKET = 64 << 20
"""Bytes of lines in a bucket of the shuffle, about."""
_MOST_BUCKETS = 256


class Layout(Protocol):
    """What a row looks like; see `ray_si.self_instruct.formats.Layout`."""

    @property
    def columns(self) -> tuple[str, ...]: ...

    @property
    def rows(
        self,
    ) -> Callable[[Mapping[str, Sequence[Any]], Sequence[int]], Iterator[dict[str, Any]]]: ...


@dataclass(frozen=True)
class Options:
    """How the files are written.

    ``name`` begins their names; ``kind`` is one of `KINDS`. A shard ends at ``rows_per_shard`` or
    ``bytes_per_shard`` (of JSON lines, before compression and whatever the kind); without either
    there is one. ``shuffle`` puts the rows in an order that ``seed`` gives. ``validation`` sets
    instructions with all their rows aside: a share below 1, or a number of instructions.
    """

    name: str
    kind: str = "jsonl"
    rows_per_shard: int | None = None
    bytes_per_shard: int | None = None
    shuffle: bool = False
    seed: int = 0
    validation: float | int | None = None
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
    def manifest(self) -> str:
        """Its name: what reads a folder of data passes over a file that is called so."""
        return f"_{self.name}.manifest"


@dataclass(frozen=True)
class Exported:
    """What an export came to: rows by split, and the objects written, manifest last."""

    rows: dict[str, int]
    keys: list[str]


def write_training_files(
    run: Run,
    to: str,
    layout: Layout,
    options: Options,
    description: Mapping[str, Any],
    listen: Callable[[int, int], None] = lambda done, total: None,
) -> Exported:
    """Write a finished run's rows, laid out, to the folder or ``s3://bucket/prefix`` ``to``.

    The same run, layout and options give the same bytes. All is written aside first, in ``to`` or,
    for S3, in the folder for temporary files, and then put in place, the manifest last: rows, size
    and SHA-256 of every file, the options, and ``description``. After an error nothing of it is
    left; a folder without its manifest is not finished. ``listen`` hears of rows done and in all.

    Raises RunError where the run isn't finished or is damaged; StorageError where ``to`` cannot be
    written or holds such files already and ``overwrite`` isn't set; ConfigError where there are too
    few instructions to set aside; StorageLostError where there is no room.
    """
    source = _Source(run)
    target = open_objects(to)
    target.check(write=True)
    present = _present(target, options.name)
    if present and not options.overwrite:
        raise StorageError(
            f"{to} holds {present[0]} already; choose another --to or --name, or add --overwrite"
        )
    limit = source.validation_limit(options)
    with target.scratch() as scratch, _room_in(scratch):
        splits = _write(source, scratch, layout, options, limit, listen)
        return _publish(target, present, splits, options, _manifest(run, options, description))


# Reading ---------------------------------------------------------------------------------------


class _Source:
    """A finished run's shards, each read whole and checked against its digest."""

    def __init__(self, run: Run) -> None:
        stats = run.stats()
        if stats is None:
            raise RunError(f"{run.location} is not finished: run `ray-si build` on it again first")
        infos = [ShardInfo(**entry) for entry in stats["shards"]]
        parquet = [info for info in infos if info.key.endswith(".parquet")]
        self._run, self._shards = run, parquet or infos
        self.rows = sum(info.rows for info in self._shards)

    def tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The shards in order; the next is read meanwhile."""
        with ThreadPoolExecutor(1) as reader:
            upcoming = [reader.submit(self._read, info, columns) for info in self._shards[:1]]
            for info in [*self._shards[1:], None]:
                if not upcoming:
                    return
                table = upcoming.pop().result()
                if info is not None:
                    upcoming.append(reader.submit(self._read, info, columns))
                yield table

    def _read(self, info: ShardInfo, columns: Sequence[str]) -> pa.Table:
        where = f"{self._run.location}/{info.key}"
        try:
            data = self._run.objects.get(info.key)
        except KeyError as error:
            raise RunError(f"{self._run.location} is damaged: {info.key} is missing") from error
        if hashlib.sha256(data).hexdigest() != info.sha256:
            raise RunError(f"{where} is damaged: it has other content than stats.json says")
        return from_bytes(info.key, data, list(columns), ROWS)

    def validation_limit(self, options: Options) -> int:
        """Instructions whose hash is below this are set aside; 0 where there is no such split."""
        if options.validation is None:
            return 0
        hashes = sorted(
            _hash(options.seed, id_)
            for table in self.tables(["instruction_id"])
            for id_ in table["instruction_id"].unique().to_pylist()
        )
        hashes = sorted(set(hashes))  # of an instruction whose rows lie in two shards
        wanted = options.validation
        count = max(1, round(wanted * len(hashes))) if isinstance(wanted, float) else wanted
        if count >= len(hashes):
            raise ConfigError(
                f"validation would take all: the run has {len(hashes)} instructions with rows"
            )
        return hashes[count]


def _hash(seed: int, instruction_id: str) -> int:
    digest = hashlib.blake2b(f"{seed}/{instruction_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


# Writing ---------------------------------------------------------------------------------------


def _write(
    source: _Source,
    scratch: Path,
    layout: Layout,
    options: Options,
    limit: int,
    listen: Callable[[int, int], None],
) -> dict[str, list[Written]]:
    """The shards of each split, in the scratch folder."""
    names = ["train", "validation"] if limit else ["train"]
    schema = _schema(layout)
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
        done = 0
        for lines, numbers, held_out in _lines(source, layout, options, limit):
            if options.shuffle and not shuffles:
                expected = source.rows * sum(map(len, lines)) / max(len(lines), 1)
                buckets = min(_MOST_BUCKETS, 1 + int(expected / _BUCKET))
                shuffles = {n: Shuffle(scratch / f"{n}-shuffle", buckets) for n in names}
            for name, mask in (("train", ~held_out), ("validation", held_out)):
                if not mask.any():
                    continue
                every = mask.all()
                part = lines if every else [lines[i] for i in np.flatnonzero(mask).tolist()]
                if shuffles:
                    shuffles[name].add(part, numbers if every else numbers[mask])
                else:
                    files[name].add(part)
            done += len(lines)
            listen(done, source.rows)
        for name, shuffle in shuffles.items():
            for part in shuffle.sorted():
                files[name].add(part)
        return {name: files[name].finish() for name in names}


def _lines(
    source: _Source, layout: Layout, options: Options, limit: int
) -> Iterator[tuple[list[bytes], np.ndarray, np.ndarray]]:
    """Encoded rows in pool order, some at a time; their numbers for the shuffle; the held out."""
    columns = list(dict.fromkeys([*layout.columns, *(["instruction_id"] if limit else [])]))
    encode = encoder(layout.columns)
    start = 0
    for table in source.tables(columns):
        for chunk in table.to_batches(max_chunksize=_CHUNK):
            count = chunk.num_rows
            values = {name: chunk.column(name).to_pylist() for name in columns}
            choices = row_numbers(options.seed, "layout", start, count).tolist()
            lines = [encode(row) for row in layout.rows(values, choices)]
            assert len(lines) == count, "a layout lost rows"
            held_out = np.zeros(count, bool)
            if limit:
                ids = values["instruction_id"]
                low = {id_: _hash(options.seed, id_) < limit for id_ in dict.fromkeys(ids)}
                held_out = np.array([low[id_] for id_ in ids])
            yield lines, row_numbers(options.seed, "shuffle", start, count), held_out
            start += count


def encoder(columns: Sequence[str]) -> Callable[[dict[str, Any]], bytes]:
    """A row -> a line of JSON, UTF-8, with its end; the same bytes whether orjson is there or not.

    orjson is five times as fast (benchmarks/export.json) but writes some floating-point numbers
    otherwise, so rows that may have any are left to the standard library.
    """
    if not any(pa.types.is_floating(kind) for name in columns for kind in _leaves(name)):
        try:
            import orjson
        except ImportError:
            pass
        else:
            dumps, option = orjson.dumps, orjson.OPT_APPEND_NEWLINE
            return lambda row: dumps(row, option=option)
    text = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
    return lambda row: text(row).encode() + b"\n"


def _leaves(column: str) -> list[pa.DataType]:
    kind = ROWS.field(column).type
    if pa.types.is_list(kind):
        kind = kind.value_type
    return [field.type for field in kind] if pa.types.is_struct(kind) else [kind]


def _schema(layout: Layout) -> pa.Schema:
    """The Arrow schema of the rows: that of an example."""
    example = {
        "most_similar": [{"instruction": "", "rouge": 0.5}],
        "demonstrations": [""],
    }
    simple = {pa.string(): "", pa.int64(): 0, pa.float64(): 0.5, pa.bool_(): False}
    values = {name: [example.get(name, simple.get(ROWS.field(name).type))] for name in ROWS.names}
    return pa.Table.from_pylist(list(layout.rows(values, [0]))).schema


# Putting in place ------------------------------------------------------------------------------


def _present(target: Objects, name: str) -> list[str]:
    """The files of an export of this name, its manifest among them, if there is any."""
    suffixes = "|".join(map(re.escape, KINDS))
    shard = re.compile(
        rf"{re.escape(name)}(-train|-validation)?(-\d{{5,}}-of-\d{{5,}})?\.({suffixes})"
    )
    manifest = [key for key in target.list(f"_{name}.manifest") if key == f"_{name}.manifest"]
    return [*(key for key in target.list(name) if shard.fullmatch(key)), *manifest]


def _publish(
    target: Objects,
    present: list[str],
    splits: dict[str, list[Written]],
    options: Options,
    manifest: dict[str, Any],
) -> Exported:
    """Give the files their names, the manifest last; after an error none of them is there."""
    files = _named(splits, options)
    if options.manifest in present:
        target.delete(options.manifest)
    done: list[str] = []
    try:
        for key, _, shard in files:
            done.append(key)
            target.adopt(key, str(shard.path))
        for key in set(present) - set(done) - {options.manifest}:
            target.delete(key)
        manifest["files"] = [
            {"key": key, "split": split, "rows": s.rows, "size": s.size, "sha256": s.sha256}
            for key, split, s in files
        ]
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        target.put(options.manifest, text.encode())
    except BaseException:
        for key in done:
            target.delete(key)
        raise
    rows = {split: sum(shard.rows for shard in shards) for split, shards in splits.items()}
    return Exported(rows, [*done, options.manifest])


def _named(splits: dict[str, list[Written]], options: Options) -> list[tuple[str, str, Written]]:
    sharded = options.rows_per_shard is not None or options.bytes_per_shard is not None
    named = []
    for split, shards in splits.items():
        for index, shard in enumerate(shards):
            parts = [options.name]
            if len(splits) > 1 or sharded:
                parts.append(split)
            if sharded:
                parts.append(f"{index:05d}-of-{len(shards):05d}")
            named.append((f"{'-'.join(parts)}.{options.kind}", split, shard))
    return named


def _manifest(run: Run, options: Options, description: Mapping[str, Any]) -> dict[str, Any]:
    values = asdict(options)
    del values["overwrite"]
    return {"run": run.header["fingerprint"], **description, **values}


@contextmanager
def _room_in(scratch: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageLostError(
            f"{scratch} cannot be written ({error.strerror}); free some space, or for S3 set "
            "TMPDIR to a larger disk"
        ) from error
