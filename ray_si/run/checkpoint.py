"""The committed rounds in a few objects, so that a resume need not read each round.

::

    checkpoint/rounds-00000-00016-00001.parquet     manifests of rounds 0 to 15, by fencing number
    checkpoint/pool-00000-00016-00001.parquet       what these rounds accepted

A segment covers 16 rounds, or 16 segments of the size below it, so each round is written again a
few times in the life of a run (three times in 4,096 rounds), and a run of that many rounds is read
from at most 45 segments and the 15 rounds behind the last. It is a cache: it holds nothing that the
rounds do not say, each object begins with the SHA-256 of the rest of it, and where a segment is
missing, damaged or of other rounds than there are, those rounds are read one by one. It goes when
the run is finished.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from ray_si.errors import RunError
from ray_si.run.layout import round_folder
from ray_si.run.manifests import RoundManifest
from ray_si.run.run import Run, part_key
from ray_si.storage.reading import read_ahead
from ray_si.storage.tables import from_parquet, to_parquet

FOLDER = "checkpoint/"

FAN_OUT = 16
"""Rounds of the smallest segment, and segments of each size in one of the next."""

MOST_ROWS = 1 << 20
"""Accepted rows beyond which segments are not merged: about 100 MB of texts."""

POOL_COLUMNS = ["id", "instruction", "classification_prompt", "instance"]
"""Of accepted rows, those that later rounds and the instances are made from."""

_NAME = re.compile(r"checkpoint/(rounds|pool)-(\d{5,})-(\d{5,})-(\d{5,})\.parquet")
_ROUNDS = pa.schema([("manifest", pa.string()), ("pool", pa.string())])
"""Of a segment's rounds: the `head` of each as JSON, and the SHA-256 of the segment's pool."""

_DIGEST = 32

_READERS = 4
"""Segments read at a time, which may have 100 MB each; as many more wait for their turn."""

Span = tuple[int, int]
"""The first round of a segment, and the one after its last."""


@dataclass(frozen=True)
class Segment:
    """Some consecutive rounds: their `head`s, and what they accepted, a table for each."""

    manifests: list[RoundManifest]
    tables: list[pa.Table]


class CommittedRounds:
    """The rounds that a run has committed, as far as later rounds and the instances go by them.

    ``manifests`` are `head`s, in order; ``tables`` have what each round accepted, with the columns
    of `POOL_COLUMNS`. Read once and shared: tables are slices of what was read, never copies.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self.manifests: list[RoundManifest] = []
        self.tables: list[pa.Table] = []
        self._rows = [0]  # accepted before each round, and after all
        self._written: set[Span] = set()

    @classmethod
    def read(cls, run: Run) -> CommittedRounds:
        """Those of a run, from its checkpoint and what was committed since."""
        rounds = cls(run)
        objects = segment_keys(run)
        for segment in _segments(run, objects):
            rounds._append(segment)
        rounds._written = set(objects)
        return rounds

    @property
    def accepted(self) -> int:
        """Instructions that they accepted."""
        return self._rows[-1]

    def accepted_before(self, round_: int) -> int:
        """Instructions that the rounds before this one accepted; it is at most the next."""
        return self._rows[round_]

    def rows(self, start: int, stop: int) -> pa.Table:
        """What was accepted at these places of all that was."""
        parts = []
        for round_ in range(bisect_right(self._rows, start) - 1, bisect_left(self._rows, stop)):
            first = self._rows[round_]
            parts.append(self.tables[round_].slice(max(0, start - first), stop - max(start, first)))
        return pa.concat_tables(parts)

    def append(self, manifest: RoundManifest, accepted: pa.Table) -> None:
        """Take the round that was committed just now."""
        self._append(Segment([head(manifest)], [accepted.select(POOL_COLUMNS)]))

    def write(self) -> None:
        """Write the segments that are lacking; the run's lease is held."""
        for first, end in _cover(self._rows):
            if (first, end) not in self._written:
                manifests, tables = self.manifests[first:end], self.tables[first:end]
                place = f"{first:05d}-{end:05d}"
                pool = self._run.write_numbered(
                    f"{FOLDER}pool-{place}", seal(pa.concat_tables(tables))
                )
                lines = [
                    {"manifest": json.dumps(manifest, ensure_ascii=False), "pool": pool.sha256}
                    for manifest in manifests
                ]
                table = pa.Table.from_pylist(lines, _ROUNDS)
                self._run.write_numbered(f"{FOLDER}rounds-{place}", seal(table))
                self._written.add((first, end))

    def with_embeddings(self) -> Iterator[pa.Table]:
        """``tables`` with the column ``embedding``, which is read now, from each round's own rows.

        In memory are those of a few rounds at a time.
        """
        return _with_embeddings(self._run, Segment(self.manifests, self.tables))

    def _append(self, segment: Segment) -> None:
        self.manifests += segment.manifests
        self.tables += segment.tables
        for table in segment.tables:
            self._rows.append(self.accepted + table.num_rows)


def accepted_tables(run: Run, *, embeddings: bool) -> Iterator[pa.Table]:
    """The ``tables`` of `CommittedRounds`, with the column ``embedding`` if asked for.

    In memory are those of a few segments at a time, and nothing of them stays.
    """
    for segment in _segments(run, segment_keys(run)):
        yield from _with_embeddings(run, segment) if embeddings else segment.tables


def _with_embeddings(run: Run, rounds: Segment) -> Iterator[pa.Table]:
    keys = (part_key(manifest, "accepted") for manifest in rounds.manifests)
    vectors = read_ahead(lambda key: run.read(key, ["embedding"]), keys)
    for table, column in zip(rounds.tables, vectors, strict=True):
        yield table.append_column("embedding", column["embedding"])


def read_manifests(run: Run) -> list[RoundManifest]:
    """The `head`s of the committed rounds, without what these accepted."""
    segments = _segments(run, segment_keys(run), texts=False)
    return [manifest for segment in segments for manifest in segment.manifests]


def head(manifest: RoundManifest) -> RoundManifest:
    """A round's manifest with only its accepted and rejected rows among its objects."""
    decided = (f"{round_folder(manifest['round'])}/{name}-" for name in ("accepted", "rejected"))
    parts = tuple(decided)
    objects = [named for named in manifest["objects"] if named["key"].startswith(parts)]
    return {**manifest, "objects": objects}


def segment_keys(run: Run) -> dict[Span, dict[str, str]]:
    """The segments that a run has: the keys of both objects of each."""
    return segments_among(run.objects.list(FOLDER))


def segments_among(stored: Iterable[str]) -> dict[Span, dict[str, str]]:
    """What `segment_keys` is where these keys stand."""
    keys: dict[Span, dict[str, tuple[int, str]]] = {}
    for key in stored:
        if match := _NAME.fullmatch(key):
            kinds = keys.setdefault((int(match[2]), int(match[3])), {})
            kinds[match[1]] = max(kinds.get(match[1], (0, "")), (int(match[4]), key))
    return {
        span: {kind: key for kind, (_, key) in kinds.items()}
        for span, kinds in keys.items()
        if len(kinds) == 2
    }


def read_segment(run: Run, span: Span, keys: dict[str, str], *, texts: bool) -> Segment | None:
    """A segment, its tables empty without ``texts``; None where it is damaged."""
    try:
        rounds = unseal(run.objects.get(keys["rounds"]))
        manifests: list[RoundManifest] = [
            json.loads(line) for line in rounds["manifest"].to_pylist()
        ]
        if len(manifests) != span[1] - span[0]:
            return None
        if not texts:
            return Segment(manifests, [])
        data = run.objects.get(keys["pool"])
        if hashlib.sha256(data).hexdigest() != rounds["pool"][0].as_py():
            return None
        pool = unseal(data)
        sizes = [manifest["accepted"] for manifest in manifests]
    except (KeyError, ValueError, OSError, pa.ArrowException):  # a cache: the rounds have it all
        return None
    if sum(sizes) != pool.num_rows or pool.column_names != POOL_COLUMNS:
        return None
    starts = itertools.accumulate(sizes, initial=0)
    return Segment(manifests, [pool.slice(a, n) for a, n in zip(starts, sizes, strict=False)])


def seal(table: pa.Table) -> bytes:
    """A table as Parquet behind the SHA-256 of it."""
    data = to_parquet(table)
    return hashlib.sha256(data).digest() + data


def unseal(data: bytes) -> pa.Table:
    """The table that was sealed; ValueError where it has changed."""
    if hashlib.sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:
        raise ValueError("it has other content than its SHA-256 says")
    return from_parquet(data[_DIGEST:])


def _segments(
    run: Run, objects: dict[Span, dict[str, str]], *, texts: bool = True
) -> Iterator[Segment]:
    """All committed rounds in order, by segments where there are sound ones."""
    last = (run.instances() or {}).get("rounds")  # a superseded driver may have committed more
    spans = [span for span in _chosen(objects) if last is None or span[1] <= last]

    def read(span: Span) -> Segment | None:
        segment = read_segment(run, span, objects[span], texts=texts)
        if segment is None:
            return None
        last = run.round_manifest(span[1] - 1)  # so that it is of these rounds, not of others
        return segment if last and head(last) == segment.manifests[-1] else None

    done = 0
    for (first, end), segment in zip(spans, read_ahead(read, spans, _READERS), strict=True):
        if segment is None:
            continue
        yield from _one_by_one(run, range(done, first), texts=texts)
        yield segment
        done = end
    rest = itertools.count(done) if last is None else range(done, last)
    yield from _one_by_one(run, rest, texts=texts)


def _one_by_one(run: Run, rounds: Iterable[int], *, texts: bool) -> Iterator[Segment]:
    """Rounds that no segment has, up to the first that is not committed."""

    def read(round_: int) -> Segment | None:
        manifest = run.round_manifest(round_)
        if manifest is None:
            return None
        key = part_key(manifest, "accepted")
        return Segment([head(manifest)], [run.read(key, POOL_COLUMNS)] if texts else [])

    for round_, segment in enumerate(read_ahead(read, rounds)):
        if segment is None:
            if isinstance(rounds, range):
                key = f"{round_folder(rounds[round_])}/manifest.json"
                raise RunError(f"{run.location} is damaged: {key} is missing")
            return
        yield segment


def _chosen(spans: Iterable[Span]) -> Iterator[Span]:
    """Spans that do not overlap, the longest from each place on."""
    done = 0
    for first, end in sorted(spans, key=lambda span: (span[0], -span[1])):
        if first >= done:
            yield first, end
            done = end


def _cover(rows: Sequence[int]) -> Iterator[Span]:
    """The segments that rounds are to be in; ``rows`` are those before each, and after all."""
    first, count = 0, len(rows) - 1
    while first + FAN_OUT <= count:
        size, best = FAN_OUT, 0
        while first % size == 0 and first + size <= count:
            if rows[first + size] - rows[first] <= MOST_ROWS:
                best = size
            size *= FAN_OUT
        if best:
            yield first, first + best
        first += best or FAN_OUT
