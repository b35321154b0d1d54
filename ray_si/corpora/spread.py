"""Corpora read and embedded over a cluster by Ray Data: ``read`` tasks, a pool of `Embed` actors.

A part of a file is a row, which a ``read`` task makes into a row for each of its batches; `Embed`
adds their embeddings. Batches come in order, and are cut the same whatever the cluster is like. No
more of them are read than there is room for in the object store while the gate is busy.

A batch is a pickle in its row: Arrow has no place for lines as they are stored, beside columns of
any kind.
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
import ray.data
import ray.data.exceptions
from ray.exceptions import RayError

from ray_si import errors
from ray_si.corpora.reading import Place, Read
from ray_si.engines import registry
from ray_si.errors import ConfigError, GateError, RaySIError, one_line
from ray_si.serving.placement import embedding_device
from ray_si.storage.corpus import PART_BYTES, Corpus, CorpusBatch

_BATCHES = pa.schema(
    [
        *((name, pa.int64()) for name in ("part", "number")),
        *((name, pa.large_binary()) for name in ("batch", "embeddings")),
        *((name, pa.string()) for name in ("error", "message")),
    ]
)
"""A batch of a part: its number there, and pickles of the `CorpusBatch` and of its embeddings; or
the name and message of the error of ours in its stead."""

_READING, _EMBEDDING = 0.25, 0.5
"""Cores that a task and an actor reserve. They differ, or Ray Data makes one operator of both, in
which an actor reads all of a part and embeds it alone."""


_GIVEN_UP = (RayError, getattr(ray.data.exceptions, "ExecutionTimeoutError", RayError))
"""What Ray Data ends with; newer versions with the latter, where nothing finds room for long."""


@dataclass(frozen=True)
class Embedders:
    """Actors with a model: so many, each with a share of a GPU, or with none."""

    model: str
    count: int
    gpus: float = 0.0

    @classmethod
    def fitting(
        cls, model: str, count: int | None, gpus: float, cards: Sequence[float]
    ) -> Embedders:
        """As many as asked for, else one for each core or share of the cluster's `free_cards`.

        Raises ConfigError where it has no room for them.
        """
        cores = _cores()
        room = int((cores - _READING) / _EMBEDDING)
        most, has = min(room, max(1, int(cores))), f"{cores:g} cores"
        if gpus:
            room = most = min(room, sum(_times(gpus, card) for card in cards))
            has += f" and {len(cards)} GPUs"
            has += f", {sum(cards):g} of them free" if sum(cards) < len(cards) else ""
        count = most if count is None else count
        if not 1 <= count <= room:
            raise ConfigError(
                f"the cluster has {has}: with --embedder-gpus {gpus:g} there is room for "
                f"{room} embedders, and not for {max(count, 1)}"
            )
        return cls(model, count, gpus)


def free_cards(shards: int, gpus: float) -> list[float]:
    """What is left of each of the cluster's GPUs beside the gate's shards, with ``gpus`` each.

    Dealt to them in turn, which leaves the least. Raises ConfigError where they have no room.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cards = [1.0] * sum(int(node.get("GPU", 0.0)) for node in nodes)
    room = len(cards) * _times(gpus, 1.0) if gpus else shards
    if shards > room:
        raise ConfigError(
            f"the cluster has {len(cards)} GPUs: with --gate-gpus {gpus:g} there is room for "
            f"{room} shards, and not for {shards}"
        )
    for shard in range(shards if gpus else 0):
        cards[shard % len(cards)] -= gpus
    return cards


def _times(share: float, card: float) -> int:
    return math.floor(card / share + 1e-9)


def _cores() -> float:
    return float(sum(n["Resources"].get("CPU", 0) for n in ray.nodes() if n["Alive"]))


@dataclass(frozen=True)
class SpreadReader:
    """Reads over the cluster that this process is connected to, and embeds if that is asked for.

    Files that are not on S3 are read on this node.
    """

    rows: int
    embedders: Embedders | None

    @property
    def cut(self) -> str:
        """See `Reader`."""
        return f"parts of {PART_BYTES} bytes, {self.rows} rows"

    def read(self, corpora: Sequence[Corpus], known: Place | None = None) -> Iterator[Read]:
        """See `Reader`."""
        parts = [(number, part) for number, corpus in enumerate(corpora) for part in corpus.parts()]
        ends = [0] * len(corpora)  # number of the last line or row so far
        start, place = 0, -1
        for row in _batches(corpora, parts, self.rows, self.embedders, known):
            number = parts[row["part"]][0]
            if row["error"]:
                raise getattr(errors, row["error"])(row["message"])
            if row["part"] != place:
                start, place = ends[number], row["part"]
            batch: CorpusBatch = pickle.loads(row["batch"]).numbered_from(start)
            ends[number] = batch.last
            if batch.unreadable and not corpora[number].skips_unreadable:
                raise corpora[number].unreadable(*batch.unreadable[0])
            vectors = pickle.loads(row["embeddings"]) if row["embeddings"] else None
            yield Read(number, (place, row["number"]), batch, vectors)


def _batches(
    corpora: Sequence[Corpus],
    parts: Sequence[tuple[int, range]],
    rows: int,
    embedders: Embedders | None,
    known: Place | None,
) -> Iterator[dict[str, Any]]:
    """Rows of `_BATCHES`, in order."""
    if not parts:
        return
    # what cannot be read is an error to the reader, which knows how many lines are before the part
    tolerant = [copy.copy(corpus) for corpus in corpora]
    for corpus in tolerant:
        corpus.skips_unreadable = True
    dataset: Any = ray.data.from_blocks(
        [
            pa.table({"part": [i], "corpus": [number], "start": [part.start], "stop": [part.stop]})
            for i, (number, part) in enumerate(parts)
        ]
    )
    is_local = any(corpus.file.is_local for corpus in corpora)
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()} if is_local else None
    dataset.context.target_max_block_size = 1  # a batch goes on as soon as it is there
    dataset.context.execution_options.preserve_order = True
    blocks: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow"}
    dataset = dataset.map_batches(
        _read,
        fn_kwargs={"rows": rows, "corpora": tolerant},
        compute=ray.data.TaskPoolStrategy(min(len(parts), max(1, int(_cores())))),
        num_cpus=0 if is_local else _READING,  # there may be none left on this node
        label_selector=here,
        **blocks,
    )
    if embedders:
        dataset = dataset.map_batches(
            Embed,
            fn_constructor_kwargs={
                "model": embedders.model,
                "device": embedding_device(embedders.gpus),
                "known": known,
            },
            compute=ray.data.ActorPoolStrategy(size=embedders.count),
            num_cpus=_EMBEDDING,
            num_gpus=embedders.gpus,
            **(blocks | {"batch_size": 1}),  # a row is a batch, and Ray wants a number with GPUs
        )
    tables = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    try:
        for table in tables:
            yield from table.to_pylist()
    except _GIVEN_UP as error:  # beyond what Ray does again by itself
        raise GateError(f"Ray gave up reading or embedding: {one_line(error, 300)}") from error


# Operators ---------------------------------------------------------------------------------


def _read(table: pa.Table, *, rows: int, corpora: Sequence[Corpus]) -> Iterator[pa.Table]:
    """The batches of a part. An error raised here would reach the driver as a traceback."""
    for dealt in table.to_pylist():
        corpus, part = corpora[dealt["corpus"]], range(dealt["start"], dealt["stop"])
        try:
            for number, batch in enumerate(corpus.batches(rows, part)):
                row = {"part": dealt["part"], "number": number, "batch": pickle.dumps(batch)}
                yield pa.Table.from_pylist([row], _BATCHES)
        except RaySIError as error:
            yield pa.Table.from_pylist([{"part": dealt["part"]} | _failed(error)], _BATCHES)


class Embed:
    """Adds the embeddings to batches, but for those up to ``known``."""

    def __init__(self, model: str, device: str | None, known: Place | None) -> None:
        self._known = known or (-1, -1)
        self._failed: dict[str, str] = {}
        try:
            registry.check_embedder(model)
            self._encode = registry.embedder(model, device).encode
        except RaySIError as error:  # raised here it would reach the driver as a traceback
            self._failed = _failed(error)

    def __call__(self, table: pa.Table) -> pa.Table:
        """The same rows, with embeddings."""
        rows = table.to_pylist()
        for row in rows:
            if row["error"] or (row["part"], row["number"]) <= self._known:
                continue
            if self._failed:
                row |= self._failed
                continue
            texts = pickle.loads(row["batch"]).texts
            try:
                row["embeddings"] = pickle.dumps(self._encode(texts)) if texts else None
            except RaySIError as error:
                row |= _failed(error)
        return pa.Table.from_pylist(rows, _BATCHES)


def _failed(error: RaySIError) -> dict[str, str]:
    return {"error": type(error).__name__, "message": str(error)}
