"""Which replica answers a call."""

from __future__ import annotations

import random

from ray.serve.request_router import FIFOMixin, PendingRequest, RequestRouter, RunningReplica


class FreshTwoChoices(FIFOMixin, RequestRouter):  # type: ignore[misc]
    """The less loaded of two random replicas, by what both say at that moment.

    Serve's own router remembers what it heard, and hears only from replicas it chooses; with
    several callers, one for each round, what it remembers of a replica contains the others' calls
    after they have ended, so that a replica may stand idle for seconds. Here every call asks, which
    costs a millisecond for some 16 requests.
    """

    queue_len_response_deadline_s = 1.0  # a model on a CPU may not let its replica answer sooner
    max_queue_len_response_deadline_s = 10.0

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Two of them in random order, which Serve asks how loaded they are."""
        two = random.sample(candidate_replicas, min(2, len(candidate_replicas)))
        for replica in two:
            self.on_replica_actor_unavailable(replica.replica_id)  # forgets what it remembers
        return [two]
