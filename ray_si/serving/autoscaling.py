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


def replicas_for_requests(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """As many replicas as have slots for every request that is on some replica.

    Clients have one and a half times the slots of ``max_replicas`` on their way while there is
    work enough, so that many are asked for then. Serve applies bounds and delays. Without a word
    from any replica all stays as it is.
    """
    metrics = context.aggregated_metrics or {}
    requests = metrics.get(REQUESTS, {}).values()
    slots = [count for count in metrics.get(SLOTS, {}).values() if count]
    if not slots:
        return context.target_num_replicas, {}
    each = sum(slots) / len(slots)
    return max(1, math.ceil(sum(requests) / each)), {}
