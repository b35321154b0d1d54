"""How many replicas a generator wants: by its requests, running and waiting, not by calls.

Serve takes this module to its controller by value, so it imports nothing of ray_si.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

REQUESTS, SLOTS = "requests", "slots"
"""What a replica says of itself: see `GeneratorReplica.record_autoscaling_stats`."""


_PRESSED = 1.1
"""Requests for each slot from which more may wait with the clients, unseen from here: these send
half as many again as there are slots, and what is on its way counts as well."""

_GROWTH = 4
"""Times as many replicas as those requests would fill are asked for then: a start takes minutes,
and what turns out to be too many is taken away again."""


def replicas_for_requests(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """As many replicas as have slots for every request that is on some replica.

    Clients send no more than the replicas that are there can take, see `Client`; so where more than
    fill the slots are there, several times as many are asked for. Once fewer are, it is a number
    whose slots they do not overfill, so one that is settled on stays. Serve applies bounds and
    delays. Without a word from any replica all stays as it is.
    """
    metrics = context.aggregated_metrics or {}
    slots = [count for count in metrics.get(SLOTS, {}).values() if count]
    if not slots:
        return context.target_num_replicas, {}
    wanted = sum(metrics.get(REQUESTS, {}).values()) / (sum(slots) / len(slots))
    if wanted > _PRESSED * len(slots):
        wanted *= _GROWTH
    return max(1, math.ceil(wanted)), {}
