"""GPUs for the gate's shards, reserved before replicas take them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from ray_si.errors import GateError

GPU_S = 1800.0
"""Seconds that a shard waits for a GPU: an autoscaler may take as long to bring a node."""

_SOON_S = 5.0
"""After so many seconds a wait for GPUs is told of."""


@contextmanager
def reserved_gpus(
    shards: int,
    gpus: float,
    *,
    notify: Callable[[str], None] = lambda _: None,
    check: Callable[[], None] = lambda: None,
) -> Iterator[PlacementGroup | None]:
    """A GPU, or this share of one, for each shard, over as many nodes as there are; None for 0.

    Before replicas take what there is; it stays a shard's own while that is rebuilt, and where its
    node is lost, Ray reserves another. A wait is told of by ``notify``, and what ``check`` raises
    ends it. Raises GateError where none is free for long.
    """
    if not gpus:
        yield None
        return
    cards = placement_group([{"GPU": gpus}] * shards, strategy="SPREAD")
    try:
        began, is_told = time.monotonic(), False
        while not cards.wait(1):
            check()
            waited_s = time.monotonic() - began
            if waited_s > _SOON_S and not is_told:
                is_told = True
                notify(f"waiting for {gpus:g} GPU to be free for each of {shards} gate shards")
            if waited_s > GPU_S:
                raise GateError(
                    f"no {gpus:g} GPU was free for each of {shards} gate shards in {GPU_S:g} s: "
                    "take fewer or smaller shares of GPUs, for the gate or for replicas"
                )
        yield cards
    finally:
        remove_placement_group(cards)
