"""Which replica answers a call: by the requests that are known to be there, not by calls."""

from __future__ import annotations

import random
import time

from ray.serve.request_router import FIFOMixin, PendingRequest, RequestRouter, RunningReplica

_FRESH_S = 1.0
"""For so long a replica's word on its load counts; then it is asked again."""


class Loads:
    """Requests on each replica, running and waiting, as far as this process knows.

    Replicas say how many they have with every answer; what is sent to them is added until they say
    more. Calls would say little: one holds sixteen requests, or the last of them.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, int]] = {}

    def told(self, replica: str, requests: int) -> None:
        """A replica has said what it has."""
        self._known[replica] = time.monotonic(), requests

    def sent(self, replica: str, requests: int) -> None:
        """So many more are on their way to it."""
        if replica in self._known:
            at, before = self._known[replica]
            self._known[replica] = at, before + requests

    def fresh(self, replica: str) -> int | None:
        """What it has by now; None where it has said nothing for too long."""
        at, requests = self._known.get(replica, (0.0, 0))
        if time.monotonic() - at > _FRESH_S:
            self._known.pop(replica, None)
            return None
        return requests


LOADS = Loads()
"""Of the replicas of every application that this process asks: ids are unique."""


class FewestRequestsOfTwo(FIFOMixin, RequestRouter):  # type: ignore[misc]
    """The less loaded of two random replicas, in requests, by what both said a moment ago.

    Serve's own router remembers what it heard, and hears only from replicas it chooses; with
    several callers, one for each round, what it remembers of a replica contains the others' calls
    after they have ended, so that a replica may stand idle for seconds. What a replica says with
    its answers needs no asking; only one that was silent is asked for its calls, as Serve does it.
    """

    queue_len_response_deadline_s = 1.0  # a model on a CPU may not let its replica answer sooner
    max_queue_len_response_deadline_s = 10.0

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """One replica, or two in random order, which Serve asks how loaded they are."""
        two = random.sample(candidate_replicas, min(2, len(candidate_replicas)))
        loads = [LOADS.fresh(replica.replica_id.unique_id) for replica in two]
        known = [load for load in loads if load is not None]
        if len(known) < len(two):
            for replica in two:
                self.on_replica_actor_unavailable(replica.replica_id)  # forgets what it remembers
            return [two]
        best = two[known.index(min(known))]
        # what stands here Serve does not ask for; the method above it takes this or that by version
        self._replica_queue_len_cache.update(best.replica_id, min(known))
        LOADS.sent(best.replica_id.unique_id, _requests_of(pending_request))
        return [[best]]


def _requests_of(call: PendingRequest | None) -> int:
    """How many a call brings; see `GeneratorReplica.answer`."""
    first = call.args[0] if call and call.args else None
    return len(first) if isinstance(first, list) else 1
