"""A run in storage: its layout, its manifests, and what they say of its state.

::

    run.json                                          written first, once
    seeds.parquet
    decontaminate.parquet                             texts of evaluation sets, where there are any
    selection.parquet                                 rows by id, where they were selected elsewhere
    scores/                                           see `ray_si.scores.stored`
    lease/00001.json                                  who writes, under which fencing number
    bootstrap/round-00000/block-00000.parquet ...     raw completions, as they finish
    bootstrap/round-00000/block-00000-00002.parquet   one asked again, by fencing number
    bootstrap/round-00000/{accepted,rejected}-00001.parquet     decisions, by fencing number
    bootstrap/round-00000/embeddings-00001.parquet    of what a cosine gate did not accept
    bootstrap/round-00000/inputs-00001.parquet        of seeds and evaluation sets; first round only
    bootstrap/round-00000/manifest.json               last: the round exists from here on
    instances/block-00000.parquet ...                 instructions with their instances
    instances/part-00000-00001.parquet ...            what 1,000 blocks are, by fencing number
    instances/manifest.json                           last: names the parts
    checkpoint/                                       the rounds again, in a few objects
    data/train-00000-of-00002.parquet ...
    README.md  report.html                            the dataset card, and what the run came to
    stats.json                                        last of all: the run is complete
    live.json                                         how a build is doing, while there is one
    job/outcome.json  job/driver-*.log                how the last job ended, and the log of each

A block is written by whoever comes first, and stays. Manifests are written once, name every part
with its digest, and carry the fencing number of the lease under which they were written. What no
manifest names doesn't count. Nothing is replaced, and nothing deleted before stats.json stands: so
a driver that was superseded and has not noticed can at most add what nobody names, which is deleted
then.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, cast

import pyarrow as pa

from ray_si._version import READING, __version__
from ray_si.errors import DamageError, LeaseLostError, RunError, one_line
from ray_si.records import SeedTask
from ray_si.run.evaluation import EvaluationSet, from_table, to_table
from ray_si.run.layout import (
    JOB,
    block_keys,
    round_folder,
    shard_key,
)
from ray_si.run.manifests import RoundManifest, Stats
from ray_si.run.schemas import SEEDS
from ray_si.storage.base import Objects, absolute
from ray_si.storage.lease import LEASES, Lease, check_exclusive
from ray_si.storage.objects import open_objects
from ray_si.storage.reading import read_ahead
from ray_si.storage.tables import (
    ShardInfo,
    claim_table,
    describe_bytes,
    describe_table,
    read_stored,
    read_table,
    to_bytes,
    write_table,
)

LAYOUT = 1
"""Number of this layout; a run of another one is refused."""

_RUN, _STATS = "run.json", "stats.json"
_SETS = "decontaminate.parquet"
_SELECTION = "selection.parquet"
_INSTANCES = "instances/manifest.json"

LIVE = "live.json"
"""What a running build says of itself, for `Run.status`; nothing depends on it."""

Manifest = dict[str, Any]

_SIGNATURE = ("fencing", "versions", "sha256")
"""What every manifest has besides its own content."""


class Run:
    """One run's objects, by meaning; ``location`` is absolute, since Ray's workers use it too."""

    def __init__(self, location: str, objects: Objects, header: dict[str, Any]) -> None:
        self.location = absolute(location)
        self.objects = objects
        self.header = header
        self._lease: Lease | None = None

    @classmethod
    def open(cls, location: str) -> Run:
        """An existing run; RunError where there is none or it is of another layout."""
        objects = open_objects(location)
        objects.check(write=False)
        try:
            data = objects.get(_RUN)
        except KeyError as error:
            raise RunError(f"{location} is not a run: it has no {_RUN}") from error
        try:
            header = json.loads(data)
        except ValueError as error:
            raise DamageError(f"{location}/{_RUN} is damaged: {error}") from error
        if not isinstance(header, dict) or "layout" not in header:
            raise DamageError(f"{location}/{_RUN} is damaged: it is not the header of a run")
        if header["layout"] != LAYOUT:
            raise RunError(f"{location} was written by another version of ray_si")
        missing = {"fingerprint", "config", "identity"} - header.keys()
        if missing:
            raise DamageError(f"{location}/{_RUN} is damaged: no {', '.join(sorted(missing))}")
        return cls(location, objects, header)

    @classmethod
    def check_location(cls, location: str, identity: dict[str, Any], fingerprint: str) -> None:
        """Raise RunError unless a run with this identity can be started or resumed there.

        Leaves nothing behind. The place may be missing, empty, or hold a run of the same
        fingerprint, finished or cut short at any moment. Raises StorageError where it cannot be
        read or written.
        """
        objects = open_objects(location)
        objects.check(write=True)
        if next(objects.list(_RUN), None) == _RUN:
            _check_same(location, cls.open(location).header, identity, fingerprint)
        elif not all(key.startswith((LEASES, JOB)) for key in objects.list()):
            raise RunError(f"{location} is not empty and not a run; choose another --out")
        check_exclusive(objects, location)

    @classmethod
    def configuration_at(cls, location: str) -> dict[str, Any]:
        """What the run there was begun with, as stored; empty where there is none."""
        objects = open_objects(location)
        objects.check(write=True)
        found = next(objects.list(_RUN), None) == _RUN
        return dict(cls.open(location).header["config"]) if found else {}

    @classmethod
    def prepare(cls, location: str, header: dict[str, Any], fingerprint: str) -> Run:
        """The run there, or one that `create` will write; see `check_location` for refusals."""
        cls.check_location(location, header["identity"], fingerprint)
        header = {"layout": LAYOUT, "reading": READING, "fingerprint": fingerprint, **header}
        run = cls(location, open_objects(location), header)
        return cls.open(location) if run._json_or_none(_RUN) else run

    def create(
        self,
        seeds: list[SeedTask],
        sets: Sequence[EvaluationSet] = (),
        selection: pa.Table | None = None,
    ) -> None:
        """Make the place a run, unless it is one; ``sets`` are what it is decontaminated against.

        ``selection`` is by what a run of selected rows was chosen. Raises LeaseLostError, and
        RunError where it came to be a run of another configuration.
        """
        tables = {"seeds.parquet": pa.Table.from_pylist([asdict(seed) for seed in seeds], SEEDS)}
        if sets:
            tables[_SETS] = to_table(sets)
        if selection is not None:
            tables[_SELECTION] = selection
        objects = [asdict(describe_table(key, table)) for key, table in tables.items()]
        self.header.setdefault("objects", objects)
        self.lease.check()
        if not self.objects.put_if_absent(_RUN, _json(self.header)):
            self._read_header()
        for key, table in tables.items():
            claim_table(self.objects, key, table)

    def evaluation_sets(self) -> list[EvaluationSet]:
        """What the run is decontaminated against, as it was when the run began."""
        return from_table(self.read(_SETS)) if self.header.get("decontaminate") else []

    @property
    def is_selection(self) -> bool:
        """Whether its rows are some of another run's, in which rounds and instances are."""
        return "selected_from" in self.header

    def selection(self) -> pa.Table:
        """Ids of the rows that a selection holds, best first, with what they were chosen by."""
        return self.read(_SELECTION)

    @property
    def reading(self) -> int:
        """Number of the rules of reading answers under which the run was begun."""
        return int(self.header.get("reading", 1))

    @property
    def exists(self) -> bool:
        """Whether there is one already, so that its lease can be taken."""
        return self._json_or_none(_RUN) is not None

    @property
    def lease(self) -> Lease:
        """The lease, which must be held."""
        assert self._lease is not None, "the run's lease is not held"
        return self._lease

    @contextmanager
    def held(self, notify: Callable[[str], None] = lambda message: None) -> Iterator[None]:
        """Hold the lease, without which nothing can be written; see `Lease`.

        The header is read again under it. Raises RunError where another driver holds the lease, or
        has made this a run of another configuration meanwhile.
        """
        with Lease(self.objects, self.location, notify=notify) as lease:
            self._read_header()
            self._lease = lease
            try:
                yield
            finally:
                self._lease = None

    def _read_header(self) -> None:
        """Take the header as it is stored, if it is."""
        header = self._json_or_none(_RUN)
        if header is not None:
            mine = self.header
            _check_same(self.location, header, mine["identity"], mine["fingerprint"])
            self.header = header

    def _commit(self, key: str, manifest: Manifest) -> Manifest:
        """Write a manifest, once, and return it as it is stored.

        Raises LeaseLostError where another driver has taken over.
        """
        self.lease.check()
        manifest = seal(manifest | {"fencing": self.lease.number, "versions": _versions()})
        if not self.objects.put_if_absent(key, _json(manifest)):
            self.lease.check()
            raise LeaseLostError(f"{self.location}/{key} was written by another driver meanwhile")
        return manifest

    def write_numbered(self, stem: str, data: bytes, rows: int = 0) -> ShardInfo:
        """Write ``stem``-FENCING.parquet, which only this driver does. Raises LeaseLostError."""
        self.lease.check()
        key = f"{stem}-{self.lease.number:05d}.parquet"
        self.objects.put(key, data)
        return describe_bytes(key, rows, data)

    def publish(self, key: str, data: bytes, rows: int = 0) -> ShardInfo:
        """Write what stats.json will name, unless this very thing stands there.

        What an earlier driver may have left there, another version of this program say, is
        replaced. Raises LeaseLostError.
        """
        self.lease.check()
        if not self.objects.put_if_absent(key, data) and self.objects.get(key) != data:
            self.lease.check()
            self.objects.put(key, data)
        return describe_bytes(key, rows, data)

    # Blocks ------------------------------------------------------------------------------------

    def finished_blocks(self, folder: str, stem: str = "") -> dict[int, str]:
        """Block number -> key of the blocks that stand in a folder, by number.

        With ``stem`` those whose number begins so, written with five digits or more.
        """
        return block_keys(self.objects.list(f"{folder}/block-{stem}"))

    def read(self, key: str, columns: list[str] | None = None) -> pa.Table:
        """A Parquet object of this run; RunError where it is missing or damaged."""
        with self._reading(key):
            return read_table(self.objects, key, columns)

    def read_stored(self, key: str) -> tuple[pa.Table, ShardInfo]:
        """`read`, and what a manifest says of the object."""
        with self._reading(key):
            return read_stored(self.objects, key)

    def sound_block(self, key: str) -> tuple[pa.Table, ShardInfo] | None:
        """A block that no manifest names yet, as `read_stored` has it.

        None where requests of it failed for good, a replica's every time, say, so that a resumed
        run asks them again.
        """
        table, info = self.read_stored(key)
        return None if "error" in table["finish_reason"].to_pylist() else (table, info)

    @contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        try:
            yield
        except KeyError as error:
            raise RunError(f"{self.location} is damaged: {key} is missing") from error
        except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:  # OSError: broken pages
            raise RunError(f"{self.location}/{key} cannot be read: {one_line(error)}") from error

    # Bootstrap ---------------------------------------------------------------------------------

    def round_manifest(self, round_: int) -> RoundManifest | None:
        """The manifest of a round; None where it is not committed."""
        manifest = self._json_or_none(f"{round_folder(round_)}/manifest.json")
        return cast("RoundManifest | None", manifest)

    def rounds(self) -> list[RoundManifest]:
        """Manifests of the committed rounds, in order, up to the first that is missing.

        Whole, so one object a round; what a build goes by is `ray_si.run.checkpoint`. Once there is
        a manifest of the instances, those that it counts: a driver that was superseded without
        noticing may have committed another.
        """
        last = (self.instances() or {}).get("rounds")
        manifests: list[RoundManifest] = []
        for manifest in read_ahead(
            self.round_manifest, itertools.count() if last is None else range(last)
        ):
            if manifest is None:
                break
            manifests.append(manifest)
        return manifests

    def commit_round(
        self,
        round_: int,
        blocks: list[ShardInfo],
        accepted: pa.Table,
        rejected: pa.Table,
        manifest: RoundManifest,
        embeddings: pa.Table | None = None,
        inputs: pa.Table | None = None,
    ) -> RoundManifest:
        """Write a round's decisions, then its manifest; from then on the round exists.

        ``blocks`` are the raw blocks they were taken from. ``embeddings`` are those of what was
        refused, ``inputs`` those of what the run began with. Returns the manifest as it is stored.
        Raises LeaseLostError.
        """
        self.lease.check()
        folder, fencing = round_folder(round_), self.lease.number
        tables = {
            "accepted": accepted,
            "rejected": rejected,
            "embeddings": embeddings,
            "inputs": inputs,
        }
        parts = [
            write_table(self.objects, f"{folder}/{name}-{fencing:05d}.parquet", table)
            for name, table in tables.items()
            if table is not None
        ]
        objects = [asdict(part) for part in (*blocks, *parts)]
        stored = self._commit(f"{folder}/manifest.json", {**manifest, "objects": objects})
        return cast(RoundManifest, stored)

    def accepted(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Accepted rows of the committed rounds, a table each, in pool order."""
        keys = (part_key(manifest, "accepted") for manifest in self.rounds())
        return read_ahead(lambda key: self.read(key, columns), keys)

    # Instances, data -----------------------------------------------------------------------------

    def instances(self) -> Manifest | None:
        """The manifest of the instances, once that phase is complete."""
        return self._json_or_none(_INSTANCES)

    def commit_instances(self, parts: Sequence[ShardInfo], manifest: Manifest) -> None:
        """Declare the instance phase complete, its blocks being those that the parts name.

        See `ray_si.run.instance_parts`. Raises LeaseLostError.
        """
        self._commit(_INSTANCES, manifest | {"parts": [asdict(part) for part in parts]})

    def write_shard(self, index: int, count: int, suffix: str, table: pa.Table) -> ShardInfo:
        """Write one training shard. Raises LeaseLostError."""
        key = shard_key(index, count, suffix)
        return self.publish(key, to_bytes(key, table), table.num_rows)

    def stats(self) -> Stats | None:
        """What the finished run came to, without who wrote it; None while it isn't finished."""
        stats = self._json_or_none(_STATS)
        rest = stats and {k: v for k, v in stats.items() if k not in _SIGNATURE}
        return cast("Stats | None", rest)

    def commit_stats(self, stats: Stats) -> None:
        """Declare the run complete. Raises LeaseLostError."""
        self._commit(_STATS, {**stats})

    def live(self) -> dict[str, Any] | None:
        """What the last driver said of itself while it was building."""
        return self._json_or_none(LIVE)

    def _json_or_none(self, key: str) -> dict[str, Any] | None:
        try:
            data = self.objects.get(key)
        except KeyError:
            return None
        try:
            found: dict[str, Any] = json.loads(data)
        except ValueError as error:
            raise RunError(f"{self.location}/{key} is damaged: {error}") from error
        return found


def _check_same(
    location: str, header: dict[str, Any], identity: dict[str, Any], fingerprint: str
) -> None:
    """Raise RunError unless a header is that of a run of this identity."""
    if header["fingerprint"] != fingerprint:
        changed = (
            ", ".join(differences(header["identity"], identity)) or "seed tasks, or evaluation sets"
        )
        raise RunError(
            f"{location} holds a run of another configuration (different: {changed}); "
            "restore it or choose another --out"
        )


def seal(manifest: Manifest) -> Manifest:
    """The manifest with the SHA-256, hex, of all the rest of it, anew if it had one."""
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return rest | {"sha256": hashlib.sha256(_json(rest)).hexdigest()}


def part_key(manifest: RoundManifest, name: str) -> str:
    """The key of a round's "accepted" or "rejected" rows."""
    key = optional_part_key(manifest, name)
    assert key is not None, f"a round has no {name}"
    return key


def optional_part_key(manifest: RoundManifest, name: str) -> str | None:
    """The key of a round's "embeddings" or "inputs"; None where it has none."""
    keys = (part["key"] for part in manifest["objects"])
    return next((key for key in keys if key.rpartition("/")[2].startswith(f"{name}-")), None)


def _versions() -> dict[str, str | int]:
    return {
        "ray_si": __version__,
        "reading": READING,
        "python": platform.python_version(),
        "pyarrow": pa.__version__,
    }


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Dotted keys at which two nested dictionaries differ, sorted."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [prefix]
    found = []
    for key in sorted(old.keys() | new.keys()):
        found += differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
    return found
