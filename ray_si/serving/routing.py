"""Which replica answers a call: by the requests that are known to be there, not by calls."""

from __future__ import annotations

import random

from ray.serve.request_router import (
    FIFOMixin,
    PendingRequest,
    ReplicaID,
    RequestRouter,
    RunningReplica,
)

from ray_si.serving import loads


class FewestRequestsOfTwo(FIFOMixin, RequestRouter):  # type: ignore[misc]
    """The less loaded of two random replicas, in requests, by what both said a moment ago.

    Serve's own router remembers what it heard, and hears only from replicas it chooses; with
    several callers, one for each round, what it remembers of a replica contains the others' calls
    after they have ended, so that a replica may stand idle for seconds. What a replica says with
    its answers needs no asking; only one that was silent is asked for its calls, as Serve does it.
    """

    queue_len_response_deadline_s = 1.0  # a model on a CPU may not let its replica answer sooner
    max_queue_len_response_deadline_s = 10.0

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Take Serve's word on which replicas there are, and note how many."""
        super().update_replicas(replicas)
        loads.RUNNING[self.app_name] = len(replicas)

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Leave it out, and count those that are left: Serve's word comes many seconds later."""
        super().on_replica_actor_died(replica_id)
        loads.RUNNING[self.app_name] = len(self.curr_replicas)

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """One replica, or two in random order, which Serve asks how loaded they are."""
        two = random.sample(candidate_replicas, min(2, len(candidate_replicas)))
        told = [loads.LOADS.fresh(replica.replica_id.unique_id) for replica in two]
        known = [load for load in told if load is not None]
        if len(known) < len(two):
            for replica in two:
                self.on_replica_actor_unavailable(replica.replica_id)  # forgets what it remembers
            return [two]
        best = two[known.index(min(known))]
        # what stands here Serve does not ask for; the method above it takes this or that by version
        self._replica_queue_len_cache.update(best.replica_id, min(known))
        loads.LOADS.sent(best.replica_id.unique_id, _requests_of(pending_request))
        return [[best]]


def _requests_of(call: PendingRequest | None) -> int:
    """How many a call brings; see `GeneratorReplica.answer`."""
    first = call.args[0] if call and call.args else None
    return len(first) if isinstance(first, list) else 1
