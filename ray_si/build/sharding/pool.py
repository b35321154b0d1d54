"""Actors that each hold a part of the pool, and the pool that asks them all."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
from ray.exceptions import (
    ActorUnschedulableError,
    GetTimeoutError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
)
from ray.util.placement_group import PlacementGroup, placement_group_table
from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

from ray_si.build.sharding.gpus import GPU_S
from ray_si.dedup import Similar
from ray_si.dedup.cosine.device import DeviceMemoryError, NoDeviceError, free_bytes
from ray_si.dedup.cosine.host import RowsFileError
from ray_si.dedup.layers import nearer_by_cosine, nearer_by_rouge
from ray_si.dedup.pool import LocalPool
from ray_si.dedup.rouge_index import no_match
from ray_si.dedup.segment import Best
from ray_si.errors import GateError, one_line

EmbeddedTexts = tuple[Sequence[str], np.ndarray | None]
"""Texts and their normalized embeddings, shape (n, dimension), or None without a cosine gate."""

Restore = Callable[[], Iterable[EmbeddedTexts]]
"""Yields everything that was put into the pool before the current call of `Deduplicator.filter`, in
order. Runs in a shard that replaces a dead one, so it must be picklable."""

Additions = list[tuple[int, Any]]
"""First ids, ascending, and references to the `EmbeddedTexts` that begins there."""

_ATTEMPTS = 5
"""Times that a shard is replaced within one question before the gate gives up."""

_LOST = (RayActorError, OutOfMemoryError, ActorUnschedulableError, ObjectLostError)
"""What Ray says of a shard that is gone, that it killed since its node was short of memory, whose
node has just left, or has left with its answer."""

logger = logging.getLogger(__name__)


class Shard:
    """An actor with every ``count``-th text of the pool, from ``number`` on.

    It answers with ids of the whole pool, and shares its node's cores with ``neighbours`` shards,
    itself included. Where the pool's ``device`` is not there, or has no room, GateError; where the
    device fails otherwise, the process ends.
    """

    def __init__(self, number: int, count: int, neighbours: int, options: dict[str, Any]) -> None:
        self._number, self._count = number, count
        threads = max(1, len(os.sched_getaffinity(0)) // neighbours)
        self._device = options["device"]
        self._pool = LocalPool(threads=threads, **options)

    def free_bytes(self) -> int:
        """Of the device's memory."""
        with self._told_of_device():
            return free_bytes(self._device)

    def restore(self, restore: Restore | None, additions: Additions, size: int) -> None:
        """Take this shard's texts of ``size``: of what ``restore`` yields, then of additions."""
        known = additions[0][0] if additions else size
        first_id = 0
        for texts, embeddings in restore() if restore and known else ():
            room = known - first_id
            self.add((texts[:room], None if embeddings is None else embeddings[:room]), first_id)
            first_id += min(room, len(texts))
            if first_id == known:
                break
        if first_id < known:
            raise GateError(f"only {first_id} of the pool's {known} texts could be read back")
        for first_id, batch in additions:
            self.add(ray.get(batch), first_id)

    def add(self, batch: EmbeddedTexts, first_id: int) -> None:
        """Take this shard's texts of a batch whose ids begin with ``first_id``."""
        own = slice((self._number - first_id) % self._count, None, self._count)
        texts, embeddings = batch
        with self._told_of_device():
            self._pool.add(texts[own], None if embeddings is None else embeddings[own])

    def nearest_by_rouge(self, texts: Sequence[str]) -> Best:
        """See `ray_si.dedup.pool.Pool`."""
        ids, lcs, totals = self._pool.nearest_by_rouge(texts)
        return Best(self._global(ids), lcs, totals)

    def nearest_by_cosine(
        self, normalized: np.ndarray, threshold: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `ray_si.dedup.pool.Pool`."""
        with self._told_of_device():
            ids, cosines = self._pool.nearest_by_cosine(normalized, threshold)
        return self._global(ids), cosines

    def most_similar(self, texts: Sequence[str], k: int) -> list[Similar]:
        """See `ray_si.dedup.pool.Pool`."""
        found = self._pool.most_similar(texts, k)
        number, count = self._number, self._count
        return [Similar([i * count + number for i in s.ids], s.scores, s.total) for s in found]

    def texts(self, ids: Sequence[int]) -> dict[int, str]:
        """Those of the texts that are here, by id."""
        own = [id_ for id_ in ids if id_ % self._count == self._number]
        places = [id_ // self._count for id_ in own]
        return dict(zip(own, self._pool.texts(places), strict=True))

    def set_rouge(self, threshold: float) -> None:
        """See `ray_si.dedup.pool.Pool`."""
        self._pool.set_rouge(threshold)

    @contextmanager
    def _told_of_device(self) -> Iterator[None]:
        shard = f"gate shard {self._number} of {self._count}"
        try:
            yield
        except DeviceMemoryError as error:
            raise GateError(
                f"{shard} has no room on its GPU beside {len(self._pool):,} texts: take more "
                "shards, a larger share of a GPU for each, or none (gpus 0 searches on "
                f"processors); {one_line(error, 200)}"
            ) from error
        except NoDeviceError as error:
            raise GateError(
                f"{shard}: {error}; its node needs a driver, and a torch that is built for it, or "
                "take no GPUs for the gate (gpus 0 searches on processors)"
            ) from error
        except RowsFileError as error:
            raise GateError(f"{shard}: {error}") from error
        except RuntimeError as error:
            if "CUDA error" not in str(error):
                raise
            logger.error("%s: %s; it ends, and another replaces it", shard, one_line(error, 200))
            os._exit(1)  # none of its kernels runs again in this process

    def _global(self, ids: np.ndarray) -> np.ndarray:
        return np.where(ids < 0, -1, ids * self._count + self._number)


class ShardedPool:
    """A `ray_si.dedup.pool.Pool` over shard actors; text i lives on shard i modulo ``shards``.

    A question goes once into the object store and from there to all shards. A shard that dies is
    replaced and filled from ``restore`` and from what was added since `rely_on_restore`, which the
    object store keeps; without ``restore`` it keeps everything, on disk once memory is short.
    GateError where that fails for good, or a shard's device does. With ``cards``, of
    `reserved_gpus`, shards are there; ``options`` are those of `LocalPool`.
    """

    def __init__(
        self,
        shards: int,
        restore: Restore | None,
        cards: PlacementGroup | None = None,
        *,
        device: str = "cpu",
        **options: Any,
    ) -> None:
        self._options, self._restore = options | {"device": device}, restore
        self._cards = cards
        self._size = 0
        self._additions: Additions = []
        self._is_closed = False
        self._shards = [self._start(number, shards) for number in range(shards)]

    def __len__(self) -> int:
        return self._size

    def close(self) -> None:
        """End the actors; what is asked of them then is a GateError."""
        self._is_closed = True
        for shard in self._shards:
            ray.kill(shard)

    def free_bytes(self) -> int:
        """The least that a shard's device has."""
        least: int = min(self._ask("free_bytes"))
        return least

    def add(self, texts: Sequence[str], embeddings: np.ndarray | None) -> None:
        """See `ray_si.dedup.pool.Pool`."""
        if texts:
            batch = ray.put((list(texts), embeddings))
            self._ask("add", batch, self._size)
            self._additions.append((self._size, batch))
            self._size += len(texts)

    def rely_on_restore(self) -> None:
        """Keep no longer what was added so far: ``restore`` yields it by now."""
        if self._restore is not None:
            self._additions.clear()

    def nearest_by_rouge(self, texts: Sequence[str]) -> Best:
        """See `ray_si.dedup.pool.Pool`."""
        best = no_match(len(texts))
        for found in self._ask("nearest_by_rouge", ray.put(list(texts))):
            best = nearer_by_rouge(best, found)
        return best

    def nearest_by_cosine(
        self, normalized: np.ndarray, threshold: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `ray_si.dedup.pool.Pool`."""
        best = np.full(len(normalized), -1), np.full(len(normalized), -1.0)
        for found in self._ask("nearest_by_cosine", ray.put(normalized), threshold):
            best = nearer_by_cosine(best, found)
        return best

    def most_similar(self, texts: Sequence[str], k: int) -> list[Similar]:
        """See `ray_si.dedup.pool.Pool`."""
        merged = [Similar([], [], 0)] * len(texts)
        for part in self._ask("most_similar", ray.put(list(texts)), k):
            merged = [a.merged(b, k) for a, b in zip(merged, part, strict=True)]
        return merged

    def texts(self, ids: Sequence[int]) -> list[str]:
        """See `ray_si.dedup.pool.Pool`."""
        if not ids:
            return []
        found: dict[int, str] = {}
        for part in self._ask("texts", list(ids)):
            found |= part
        return [found[id_] for id_ in ids]

    def set_rouge(self, threshold: float) -> None:
        """See `ray_si.dedup.pool.Pool`."""
        self._ask("set_rouge", threshold)
        self._options["rouge"] = threshold

    def _start(self, number: int, count: int) -> Any:
        place: Any
        if self._cards is None:
            nodes, gpus = _homes(), 0.0
            place = NodeAffinitySchedulingStrategy(nodes[number % len(nodes)], soft=False)
            neighbours = _neighbours(number, count, len(nodes))
        else:
            gpus = self._cards.bundle_specs[number]["GPU"]
            place = PlacementGroupSchedulingStrategy(self._cards, number)
            where = placement_group_table(self._cards)["bundles_to_node_id"]
            neighbours = list(where.values()).count(where[number])
        actor = ray.remote(Shard).options(num_cpus=0, num_gpus=gpus, scheduling_strategy=place)
        return actor.remote(number, count, neighbours, self._options)

    def _ask(self, method: str, *arguments: Any) -> list[Any]:
        """Every shard's answer, in order."""
        answers = [getattr(shard, method).remote(*arguments) for shard in self._shards]
        return [self._answer(i, answer, method, arguments) for i, answer in enumerate(answers)]

    def _answer(self, number: int, answer: Any, method: str, arguments: tuple[Any, ...]) -> Any:
        for attempt in itertools.count():
            try:
                return ray.get(answer)
            except RayTaskError as error:
                if isinstance(error.cause, GateError):
                    raise error.cause from error
                raise
            except _LOST as error:
                name = type(error).__name__
                if self._is_closed:
                    raise GateError(f"gate shard {number} was asked after its end") from error
                if attempt == _ATTEMPTS:
                    raise GateError(
                        f"gate shard {number} was lost, and {attempt} that replaced it as well: "
                        f"{one_line(error, 200)}"
                    ) from error
                logger.warning("gate shard %d is lost (%s) and rebuilt", number, name)
            ray.kill(self._shards[number])  # in case it was only out of reach
            self._shards[number] = self._start(number, len(self._shards))
            answer = self._refill_and_ask(number, method, arguments)
        raise AssertionError("unreachable")

    def _refill_and_ask(self, number: int, method: str, arguments: tuple[Any, ...]) -> Any:
        shard = self._shards[number]
        try:
            ray.get(shard.__ray_ready__.remote(), timeout=GPU_S)
            if self._size:
                ray.get(shard.restore.remote(self._restore, list(self._additions), self._size))
        except GetTimeoutError as error:
            what = "no GPU was free for it" if self._cards else "it was not started"
            raise GateError(
                f"gate shard {number} cannot be rebuilt: {what} in {GPU_S:g} s"
            ) from error
        except RayTaskError as error:
            raise GateError(f"gate shard {number} cannot be rebuilt: {error.cause}") from error
        except _LOST:
            logger.warning("gate shard %d was lost while it was rebuilt", number)
        return getattr(shard, method).remote(*arguments)


def _neighbours(number: int, count: int, nodes: int) -> int:
    """Of ``count`` shards, how many are on the node of this one, dealt to the nodes in turn."""
    return len(range(number % nodes, count, nodes))


def _homes() -> list[str]:
    """Ids of the nodes for shards, the head last: it has the driver, and all should share evenly.

    Ray puts actors that reserve nothing anywhere, SPREAD or not: eight shards on five of nine. A
    shard that moves reads the whole pool, so nodes that may be taken away (spot) or that are there
    for their GPUs come into question only where there are no others.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    lasting = [node for node in nodes if not (node["Resources"].get("GPU") or _is_spot(node))]
    nodes = lasting or [node for node in nodes if not _is_spot(node)] or nodes
    nodes.sort(key=lambda node: ("node:__internal_head__" in node["Resources"], node["NodeID"]))
    return [node["NodeID"] for node in nodes]


def _is_spot(node: dict[str, Any]) -> bool:
    """Whether a node says so by the label that Ray has for it."""
    return bool(node.get("Labels", {}).get("ray.io/market-type") == "spot")
