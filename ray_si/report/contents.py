"""A run read for its report: whatever its state, as much as can be read, and what cannot."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_si.errors import DamageError, RunError, StorageError, one_line
from ray_si.export.kept import Kept, kept_rows
from ray_si.run.audit import Audit, Check, section_of, wrong_columns
from ray_si.run.ids import place_of_request
from ray_si.run.layout import round_of_block
from ray_si.run.manifests import Stats, named_blocks
from ray_si.run.run import Run, part_key
from ray_si.run.schemas import (
    ACCEPTED,
    INSTANCE_BLOCK,
    NULLABLE,
    RAW_BLOCK,
    REJECTED,
    SEEDS,
    RawRow,
    SeedRow,
    select,
)
from ray_si.scores.overview import ScoresOverview, overview
from ray_si.storage.objects import open_objects

State = Literal["finished", "unfinished", "empty", "damaged"]

_ACCEPTED = select(
    ACCEPTED,
    ["id", "instruction", "round", "request_seed", "demonstrations", "model", "revision",
     "most_similar", "mean_rouge", "cosine", "embedding"],
)  # fmt: skip
_INSTANCES = select(
    INSTANCE_BLOCK,
    ["id", "is_classification", "completion_tokens", "classification_completion_tokens",
     "instances", "rejected"],
)  # fmt: skip
_REQUESTS = select(RAW_BLOCK, ["request_id", "seed", "demonstrations"])
_SEEDS = select(SEEDS, ["id", "instruction", "is_classification"])

_READERS = 4
"""Objects read ahead of their turn, each by a thread."""

_ROWS_AT_ONCE = 4096
"""Instance rows handed on at a time: blocks are small."""


class RunContents:
    """What a run holds, in pool order; damage becomes one of ``problems``, never an exception.

    ``identity`` is the part of the configuration that results depend on, {} where the header is
    lost; ``rounds`` are the sound manifests by number; ``seeds`` the seed tasks;
    ``selected_from`` is where the rows of a selection come from, else None. ``stats`` is what
    stats.json says or, before it is written, what it will. Raises RunError where there is no run or
    one of another layout, StorageError and StorageLostError where the place cannot be read.
    """

    def __init__(self, run: Run, problems: Iterable[str] = (), stats: Stats | None = None):
        self._run = run
        self._audit = Audit(run)
        manifests = self._audit.check_manifests()
        self._check = Check("parts", findings=[*problems, *manifests.findings])
        self._check.unlisted = manifests.unlisted
        self.stats = stats or self._audit.stats
        self.rounds = self._audit.sound_rounds
        self.identity: dict[str, Any] = section_of(run.header, "identity")
        self.selected_from = section_of(run.header, "selected_from").get("run")
        self.fingerprint = str(run.header.get("fingerprint", ""))
        for part in (self._audit.instances or {}).get("parts", ()):
            key = part["key"]
            if key not in self._audit.damaged and (wrong := self._audit.wrong_object(key)):
                self._check.find(key, wrong)
        table = self._read("seeds.parquet", _SEEDS)
        self.seeds: list[SeedRow] = table.to_pylist() if table else []
        for shard in self.stats["shards"] if self.stats else []:
            if stats is None and shard["key"] not in self._audit.keys:
                self._check.find(shard["key"], "is missing")

    @classmethod
    def open(cls, location: str) -> RunContents:
        """What there is at a folder or s3://bucket/prefix, a damaged header included."""
        try:
            return cls(Run.open(location))
        except DamageError as error:
            objects = open_objects(location)
            what = str(error).removeprefix(f"{location}/run.json ")
            return cls(Run(location, objects, {}), [f"run.json: {what}"])

    # State -------------------------------------------------------------------------------------

    @property
    def problems(self) -> list[str]:
        """Each thing found damaged or missing so far, on one line; complete once all is read."""
        findings: list[str] = self._check.as_dict()["findings"]
        return findings

    @property
    def state(self) -> State:
        """Of the run, as far as it has been read."""
        if self._check.findings:
            return "damaged"
        if self.stats:
            return "finished"
        return "unfinished" if self.rounds or self.waiting_blocks else "empty"

    @property
    def target(self) -> int | None:
        """Accepted instructions that the run goes for, where its header says so."""
        target = self.identity.get("target_instructions")
        return target if isinstance(target, int) else None

    @property
    def waiting_blocks(self) -> int:
        """Raw blocks that no round counts on yet; of a finished run, which needs no more, none."""
        if self.stats:
            return 0  # there may be some of rounds begun ahead, until they are cleaned up
        rounds = (round_of_block(key) for key in self._audit.keys)
        return sum(round_ is not None and round_ not in self.rounds for round_ in rounds)

    # Parts -------------------------------------------------------------------------------------

    def decisions(self) -> Iterator[tuple[int, pa.Table | None, pa.Table | None]]:
        """Number, accepted and rejected rows of each sound round; None for what is unreadable."""
        keys: list[tuple[str, pa.Schema]] = []
        for manifest in self.rounds.values():
            keys.append((part_key(manifest, "accepted"), _ACCEPTED))
            keys.append((part_key(manifest, "rejected"), REJECTED))
        tables = self._read_all(keys)
        for round_ in self.rounds:
            yield round_, next(tables), next(tables)

    def instances(self) -> Iterator[pa.Table]:
        """Instance rows in pool order, some thousands at a time.

        A further column, "is_row", tells of each instance whether it is one of the dataset.
        """
        batch: list[pa.Table] = []
        rows = 0
        kept, size = self._kept(), self._block_size("instances")
        wanted = [(key, _INSTANCES) for key in self._instance_keys()]
        for number, table in enumerate(self._read_all(wanted)):
            if table is not None:
                of_block = kept.of(number * size, table.num_rows) if kept else None
                batch.append(_with_is_row(table, of_block))
                rows += table.num_rows
            if rows >= _ROWS_AT_ONCE:
                yield pa.concat_tables(batch)
                batch, rows = [], 0
        if rows:
            yield pa.concat_tables(batch)

    @property
    def instance_blocks(self) -> tuple[int, int]:
        """Instance blocks that there are to read, and rows in each but the last (1 if unknown)."""
        return len(self._instance_keys()), self._block_size("instances") or 1

    def _kept(self) -> Kept | None:
        """The instances that ``output.keep`` makes rows of.

        None where all are rows, where the run isn't finished, and where damage hides it.
        """
        if not self.stats or "left_out" not in self.stats or not self._audit.instances:
            return None
        if not self._block_size("instances"):
            return None
        try:
            return kept_rows(self._run)
        except (KeyError, ValueError) as error:  # RunError is a ValueError
            wrong = f"which rows output.keep keeps cannot be told, so all count: {error}"
            self._check.find("data", wrong)
            return None

    def requests(self, ids: Iterable[str]) -> dict[str, RawRow]:
        """Of requests by id: their ``seed`` and ``demonstrations``, where they can be read."""
        wanted = set(ids)
        keys = set()
        size = self._block_size("bootstrap")
        for id_ in wanted if size else ():
            if place := place_of_request(id_):
                round_, index = place
                if manifest := self.rounds.get(round_):
                    keys.add(named_blocks(manifest["objects"]).get(index // size))
        requests: dict[str, RawRow] = {}
        for table in self._read_all([(key, _REQUESTS) for key in sorted(filter(None, keys))]):
            for row in table.to_pylist() if table else []:
                if row["request_id"] in wanted:
                    requests[row["request_id"]] = row
        return requests

    def scores(self) -> ScoresOverview | None:
        """What the scores of a finished run say; None where it has none, or damage hides them."""
        try:
            return overview(self._run)
        except RunError as error:
            self._check.find("scores", f"cannot be told: {error}")
            return None

    def _block_size(self, section: str) -> int:
        """As the header has it; 0 where it does not say."""
        size = section_of(self.identity, section).get("block_size")
        return size if isinstance(size, int) and size > 0 else 0

    def _instance_keys(self) -> list[str]:
        return self._audit.instance_keys()

    # Reading -----------------------------------------------------------------------------------

    def _read_all(self, wanted: list[tuple[str, pa.Schema]]) -> Iterator[pa.Table | None]:
        """The objects' columns, in order, read ahead by threads."""
        pending: deque[tuple[str, Future[pa.Table | str]]] = deque()
        rest = iter(wanted)
        with ThreadPoolExecutor(_READERS) as readers:
            while True:
                while len(pending) < 2 * _READERS and (item := next(rest, None)):
                    pending.append((item[0], readers.submit(self._load, *item)))
                if not pending:
                    return
                key, future = pending.popleft()
                yield self._noted(key, future.result())

    def _read(self, key: str, columns: pa.Schema) -> pa.Table | None:
        return self._noted(key, self._load(key, columns))

    def _noted(self, key: str, loaded: pa.Table | str) -> pa.Table | None:
        if isinstance(loaded, str):
            self._check.find(key, loaded)
            return None
        return loaded

    def _load(self, key: str, columns: pa.Schema) -> pa.Table | str:
        """An object's columns, or what is wrong with it."""
        try:
            data = self._run.objects.get(key)
            said = self._audit.said(key)
            if said and (len(data) != said.size or hashlib.sha256(data).hexdigest() != said.sha256):
                return "has other content than its manifest says"
            with pq.ParquetFile(pa.BufferReader(data)) as stored:
                table = stored.read(columns.names, use_threads=False)
            table.validate(full=True)
        except KeyError:
            return "is missing"
        except StorageError as error:
            self._run.objects.get("run.json")  # fails as well where the whole run cannot be read
            return f"cannot be read: {one_line(error)}"
        except (pa.ArrowException, OSError, ValueError) as error:
            return f"cannot be read: {error}"
        return wrong_columns(table, columns) or _hollow(table) or table


def _with_is_row(table: pa.Table, of_instances: np.ndarray | None) -> pa.Table:
    """Instance rows with "is_row"; true for all where nothing is known of as many instances."""
    instances = table["instances"].combine_chunks()
    count = len(instances.flatten())
    if of_instances is None or len(of_instances) != count:
        of_instances = np.ones(count, bool)
    offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(instances))])
    is_row = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(of_instances))
    return table.append_column("is_row", is_row)


def _hollow(table: pa.Table) -> str | None:
    """Where a list that may hold no null does."""
    for name in sorted(set(table.column_names) - NULLABLE):
        inner = table[name].combine_chunks()
        if pa.types.is_list(inner.type):
            inner = inner.flatten()
            parts = [inner]
            if pa.types.is_struct(inner.type):
                parts += [inner.field(f.name) for f in inner.type if f.name not in NULLABLE]
            if any(part.null_count for part in parts):
                return f"has nulls inside {name}"
    return None
