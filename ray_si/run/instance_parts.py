"""The manifest of the instances in parts, which are written as they fill up.

::

    instances/part-00000-00001.parquet     what blocks 0 to 999 are, by fencing number
    instances/manifest.json                last: names the parts, and counts what they name

A part has a row for each of its blocks: what a manifest says of it, and what it adds to the counts
of the run. One is written as soon as all its blocks stand and are full. Those without a request
that failed for good are final then, whoever wrote it, and a resume reads none of them again. It
asks the others again, and once they stand it writes the part again, under its own number: of
several parts of one number the last counts. Runs of earlier versions have one manifest with every
block among its ``objects``.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from ray_si.errors import RunError
from ray_si.run.layout import INSTANCES, block_keys
from ray_si.run.manifests import BySetAndKind, by_set, count_contaminated, from_by_set
from ray_si.run.run import Manifest, Run
from ray_si.run.tokens import Tokens, tokens_of
from ray_si.storage.reading import read_ahead
from ray_si.storage.tables import ShardInfo, to_parquet

PART_BLOCKS = 1000
"""Blocks of a part; a power of ten, so that their names begin alike and are listed apart."""

_SHORTEST = 2
"""Digits of the shortest stem, so that what is listed at all is listed several at a time."""

PART = pa.schema(
    [
        ("block", pa.int64()),
        ("key", pa.string()),
        ("rows", pa.int64()),
        ("size", pa.int64()),
        ("sha256", pa.string()),
        ("instances", pa.int64()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("failed", pa.int64()),
        ("contaminated", pa.string()),
    ]
)
"""Blocks in order: ``failed`` are requests that failed for good; ``contaminated`` is JSON,
as `by_set` has it, of instances that came too close to an evaluation set."""

_PART = re.compile(r"instances/part-(\d{5,})-(\d{5,})\.parquet")


@dataclass(frozen=True)
class BlockRecord:
    """An instance block: what a manifest says of it, and what it adds to the run's counts."""

    block: int
    info: ShardInfo
    instances: int
    tokens: Tokens
    failed: int = 0
    contaminated: BySetAndKind = field(default_factory=Counter)

    @classmethod
    def of(cls, table: pa.Table, info: ShardInfo) -> BlockRecord:
        """Of a stored block."""
        left_out = [item for row in table["rejected"].to_pylist() for item in row]
        return cls(
            table["block"][0].as_py(),
            info,
            pc.sum(pc.list_value_length(table["instances"])).as_py(),
            tokens_of(table),
            table["finish_reason"].to_pylist().count("error"),
            count_contaminated(left_out, "instances"),
        )


@dataclass
class Counts:
    """What some blocks come to."""

    blocks: int = 0
    instructions: int = 0
    instances: int = 0
    tokens: Tokens = field(default_factory=Tokens)
    contaminated: BySetAndKind = field(default_factory=Counter)

    def add(self, record: BlockRecord) -> None:
        """Count a block."""
        self.blocks += 1
        self.instructions += record.info.rows
        self.instances += record.instances
        self.tokens += record.tokens
        self.contaminated.update(record.contaminated)


class InstanceParts:
    """The blocks that stand, by number; safe to use from several threads.

    ``size`` is that of a block. Of blocks in written parts only the numbers of the parts are kept.
    A part of an earlier driver that has blocks in which requests failed is written once these were
    asked again; its other blocks are known to stand.
    """

    def __init__(self, run: Run, size: int) -> None:
        self._run, self._size = run, size
        self._lock = threading.Lock()
        self._written: dict[int, ShardInfo] = {}  # parts
        self._failed: dict[int, tuple[str, set[int]]] = {}  # of parts to write again: key, blocks
        self._records: dict[int, dict[int, BlockRecord]] = {}  # added, of parts to write
        self.counts = Counts()
        keys = part_keys(run)
        for number, (info, records) in zip(keys, read_parts(run, keys.values()), strict=True):
            if not is_full(number, [(r.block, r.info.rows) for r in records], size):
                continue
            if failed := {record.block for record in records if record.failed}:
                self._failed[number] = info.key, failed
            else:
                self._written[number] = info
            for record in records:
                if not record.failed:
                    self.counts.add(record)

    def has(self, block: int) -> bool:
        """Whether a block is known to stand."""
        part = block // PART_BLOCKS
        if block in self._records.get(part, ()):
            return True
        if (earlier := self._failed.get(part)) and block not in earlier[1]:
            return True
        return part in self._written  # last: it comes to be that before it ceases to be the others

    def keys(self, first: int, last: int) -> list[str]:
        """Of blocks that are known to stand, from the first number to before the last."""
        keys: list[str] = []
        for part in range(first // PART_BLOCKS, -(-last // PART_BLOCKS)):
            start = part * PART_BLOCKS
            blocks = range(max(first, start), min(last, start + PART_BLOCKS))
            # records first: if they have left for a written part, it is that one that is read then
            known = {n: r.info.key for n, r in self._records.get(part, {}).copy().items()}
            if not known.keys() >= set(blocks):
                known = self._keys_of(part) | known
            keys += [known[block] for block in blocks]
        return keys

    def _keys_of(self, part: int) -> dict[int, str]:
        """Number -> key of the blocks of a part that is written, if only to be so again."""
        earlier = self._failed.get(part)
        key = earlier[0] if earlier else self._written[part].key
        ((_, records),) = read_parts(self._run, [key])
        return {record.block: record.info.key for record in records}

    def unread(self, instructions: int) -> dict[int, str]:
        """Number -> key of the blocks that stand and are not known to, by number.

        Of a block asked again, the last key. Looks into the parts that are to be written, of all
        that so many instructions make: there may be blocks behind parts of which none stands.
        """
        blocks = -(-instructions // (self._size or 1))
        parts = [n for n in range(-(-blocks // PART_BLOCKS)) if n not in self._written]
        stems = _stems(parts)
        if stems and "://" not in self._run.location:
            stems = [""]  # a folder is read whole each time; a store answers with what begins so
        stored: dict[int, str] = {}
        for found in read_ahead(lambda stem: self._run.finished_blocks(INSTANCES, stem), stems):
            stored |= self._not_known(found)
        return dict(sorted(stored.items()))

    def _not_known(self, blocks: dict[int, str]) -> dict[int, str]:
        return {block: key for block, key in blocks.items() if not self.has(block)}

    def add(self, record: BlockRecord) -> None:
        """Take a block that stands; write its part where it is the last of it."""
        number = record.block // PART_BLOCKS
        with self._lock:
            assert not self.has(record.block), f"block {record.block} is there twice"
            self._records.setdefault(number, {})[record.block] = record
            self.counts.add(record)
            if not self._is_complete(number):
                return
        self._write(number)

    def commit(self, instructions: int, more: Manifest) -> None:
        """Declare the instance phase complete; the run's lease is held.

        Raises RunError, and writes no manifest, unless the blocks are consecutive and full, and
        have as many rows together as there are ``instructions``; LeaseLostError.
        """
        self._check(instructions)
        for number in sorted(self._records):
            self._write(number)
        counts = {
            "blocks": self.counts.blocks,
            "instructions": instructions,
            "instances": self.counts.instances,
        }
        parts = [self._written[number] for number in sorted(self._written)]
        self._run.commit_instances(parts, counts | more)

    def _check(self, instructions: int) -> None:
        """Raise RunError unless the blocks are those that so many instructions make."""
        blocks = -(-instructions // self._size)
        sizes = {
            block: record.info.rows
            for records in self._records.values()
            for block, record in records.items()
        }
        for part in range(-(-blocks // PART_BLOCKS)):
            if part in self._written:
                continue
            for block in range(part * PART_BLOCKS, min(blocks, (part + 1) * PART_BLOCKS)):
                rows = sizes.get(block, self._size if self.has(block) else None)
                expected = min(self._size, instructions - block * self._size)
                if rows != expected:
                    raise RunError(
                        f"{self._run.location}: instance block {block} has {rows or 'no'} rows, "
                        f"not {expected}, so the instances are not declared complete; build again"
                    )
        if (self.counts.blocks, self.counts.instructions) != (blocks, instructions):
            raise RunError(
                f"{self._run.location} is damaged: {self.counts.blocks} instance blocks stand for "
                f"{instructions} instructions, which make {blocks}"
            )

    def _is_complete(self, number: int) -> bool:
        """Whether a part has all its blocks, and these all their rows."""
        records = self._records[number].values()
        if number not in self._failed:
            stored = ((record.block, record.info.rows) for record in records)
            return len(records) == PART_BLOCKS and is_full(number, stored, self._size)
        _, failed = self._failed[number]
        if len(records) < len(failed):
            return False
        return failed == {record.block for record in records if record.info.rows == self._size}

    def _write(self, number: int) -> None:
        records = dict(self._records[number])
        if number in self._failed:
            ((_, earlier),) = read_parts(self._run, [self._failed[number][0]])
            records = {record.block: record for record in earlier} | records
        table = part_table(records[block] for block in sorted(records))
        stem = f"instances/part-{number:05d}"
        self._written[number] = self._run.write_numbered(stem, to_parquet(table), table.num_rows)
        self._failed.pop(number, None)
        del self._records[number]


def part_table(records: Iterable[BlockRecord]) -> pa.Table:
    """The rows of `PART` for these blocks."""
    rows = [
        {
            "block": record.block,
            "key": record.info.key,
            "rows": record.info.rows,
            "size": record.info.size,
            "sha256": record.info.sha256,
            "instances": record.instances,
            "prompt_tokens": int(record.tokens.prompt),
            "completion_tokens": int(record.tokens.completion),
            "failed": record.failed,
            "contaminated": json.dumps(by_set(record.contaminated)),
        }
        for record in records
    ]
    return pa.Table.from_pylist(rows, PART)


def records_of(part: pa.Table) -> list[BlockRecord]:
    """The blocks of a part."""
    return [
        BlockRecord(
            row["block"],
            ShardInfo(row["key"], row["rows"], row["size"], row["sha256"]),
            row["instances"],
            Tokens(row["prompt_tokens"], row["completion_tokens"]),
            row["failed"],
            from_by_set(json.loads(row["contaminated"]), "instances"),
        )
        for row in part.to_pylist()
    ]


def part_keys(run: Run) -> dict[int, str]:
    """Number -> key of the parts that a run has, in order."""
    return last_parts(run.objects.list("instances/part-"))


def last_parts(stored: Iterable[str]) -> dict[int, str]:
    """Number -> key of the parts among these keys, in order; of several of a number, the last."""
    keys: dict[int, tuple[int, str]] = {}
    for key in stored:
        if match := _PART.fullmatch(key):
            number = int(match[1])
            keys[number] = max(keys.get(number, (0, "")), (int(match[2]), key))
    return {number: keys[number][1] for number in sorted(keys)}


def read_parts(run: Run, keys: Iterable[str]) -> Iterator[tuple[ShardInfo, list[BlockRecord]]]:
    """Each part in turn: what a manifest says of it, and its blocks."""

    def read(key: str) -> tuple[ShardInfo, list[BlockRecord]]:
        table, info = run.read_stored(key)
        return info, records_of(table)

    return read_ahead(read, keys)


def instance_objects(run: Run, manifest: Manifest) -> Iterator[ShardInfo]:
    """What a manifest of the instances says of each block, in order, whoever wrote it."""
    if "objects" in manifest:
        infos = {entry["key"]: ShardInfo(**entry) for entry in manifest["objects"]}
        yield from (infos[key] for key in block_keys(infos).values())
        return
    for _, records in read_parts(run, (part["key"] for part in manifest["parts"])):
        yield from (record.info for record in records)


def read_blocks(run: Run) -> Iterator[pa.Table]:
    """The blocks of the complete instance phase, in order."""
    manifest = run.instances()
    assert manifest is not None, "the instance phase is not complete"
    return read_ahead(lambda info: run.read(info.key), instance_objects(run, manifest))


def blocks_between(run: Run, first: int, last: int) -> dict[int, str]:
    """Number -> key of the blocks that stand, from the first number to before the last."""
    if first >= last:
        return {}
    keys: dict[int, str] = {}
    for part in range(first // PART_BLOCKS, (last - 1) // PART_BLOCKS + 1):
        keys |= run.finished_blocks(INSTANCES, _stem(part))
    return {block: keys[block] for block in range(first, last) if block in keys}


def _stem(part: int) -> str:
    """How the numbers of a part's blocks begin, and some of those with more digits."""
    return f"{part * PART_BLOCKS:05d}"[: 1 - len(str(PART_BLOCKS))]


def _stems(parts: Iterable[int]) -> list[str]:
    """How the numbers of these parts' blocks begin, those of ten parts in one where all ten are."""
    stems = {_stem(part) for part in parts}
    for length in range(max(map(len, stems), default=0), _SHORTEST, -1):
        tens = Counter(stem[:-1] for stem in stems if len(stem) == length)
        whole = {stem for stem, count in tens.items() if count == 10}
        stems = {s for s in stems if len(s) != length or s[:-1] not in whole} | whole
    return sorted(s for s in stems if stems.isdisjoint(s[:n] for n in range(_SHORTEST, len(s))))


def is_full(part: int, stored: Iterable[tuple[int, int]], size: int) -> bool:
    """Whether a part has all its blocks, and these all their rows, by their numbers and rows.

    What such a part says is what a resume goes by; of others it looks at the blocks.
    """
    blocks = sorted(block for block, rows in stored if rows == size)
    return blocks == list(range(part * PART_BLOCKS, (part + 1) * PART_BLOCKS))
