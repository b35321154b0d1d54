"""The choice between two replicas, by requests."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from ray.serve._private.common import DeploymentHandleSource, DeploymentID
from ray.serve.request_router import ReplicaID

from ray_si.serving import loads as loads_module
from ray_si.serving.loads import Loads
from ray_si.serving.routing import FewestRequestsOfTwo


@dataclass
class Heard:
    """Stands in for what Serve's router does with the word of a replica."""

    told: list[tuple[str, int]] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)

    @property
    def _replica_queue_len_cache(self):
        return self

    def update(self, replica_id, requests):
        self.told.append((replica_id.unique_id, requests))

    def on_replica_actor_unavailable(self, replica_id):
        self.forgotten.append(replica_id.unique_id)


@pytest.fixture
def loads(monkeypatch):
    monkeypatch.setattr(loads_module, "LOADS", Loads())
    return loads_module.LOADS


def choose(names, requests=16):
    """What is chosen for a call of so many requests, and what Serve was told."""
    router = Heard()
    replicas = [SimpleNamespace(replica_id=SimpleNamespace(unique_id=name)) for name in names]
    call = SimpleNamespace(args=[["request"] * requests, (0,)])
    (chosen,) = asyncio.run(FewestRequestsOfTwo.choose_replicas(router, replicas, call))
    return [replica.replica_id.unique_id for replica in chosen], router


def test_the_replica_with_fewer_requests_is_chosen_and_nobody_is_asked(loads):
    loads.told("idle", 3)
    loads.told("busy", 40)
    for _ in range(5):  # whichever of the two is drawn first
        loads.told("idle", 3)
        chosen, router = choose(["busy", "idle"])
        assert (chosen, router.told, router.forgotten) == (["idle"], [("idle", 3)], [])


def test_what_was_sent_since_counts(loads):
    loads.told("first", 0)
    loads.told("second", 20)
    assert [choose(["first", "second"])[0] for _ in range(3)] == [["first"], ["first"], ["second"]]


def test_a_replica_of_which_nothing_fresh_is_known_is_asked(loads, monkeypatch):
    loads.told("known", 0)
    chosen, router = choose(["known", "new"])
    assert sorted(chosen) == sorted(router.forgotten) == ["known", "new"]
    loads.told("new", 0)
    assert len(choose(["known", "new"])[0]) == 1
    monkeypatch.setattr(loads_module, "_FRESH_S", 0.0)
    loads.told("known", 0)
    assert len(choose(["known", "new"])[0]) == 2


def test_a_replica_that_has_said_when_it_will_say_more_is_not_asked_before(loads, monkeypatch):
    monkeypatch.setattr(loads_module, "_FRESH_S", 0.0)
    loads.told("first", 1, next_s=60.0)
    loads.told("second", 0, next_s=60.0)
    assert choose(["first", "second"], requests=0)[0] == ["second"]


def test_a_call_that_brings_no_list_of_requests_counts_as_one(loads):
    loads.told("only", 5)
    router = Heard()
    replica = SimpleNamespace(replica_id=SimpleNamespace(unique_id="only"))
    asyncio.run(FewestRequestsOfTwo.choose_replicas(router, [replica], None))
    assert loads.fresh("only") == 6


def test_replicas_that_died_do_not_count_until_serve_says_which_there_are(monkeypatch):
    monkeypatch.setattr(loads_module, "RUNNING", {})
    deployment = DeploymentID("replica", "app")
    router = FewestRequestsOfTwo(deployment, DeploymentHandleSource.UNKNOWN)
    there = [
        SimpleNamespace(replica_id=ReplicaID(name, deployment), multiplexed_model_ids=())
        for name in "abcd"
    ]

    async def befall():
        router.update_replicas(there)
        yield loads_module.RUNNING["app"]
        for replica in there[:3]:
            router.on_replica_actor_died(replica.replica_id)
        router.on_replica_actor_died(there[0].replica_id)  # several calls were on it
        yield loads_module.RUNNING["app"]
        router.update_replicas(there[2:])
        yield loads_module.RUNNING["app"]

    async def counts():
        return [count async for count in befall()]

    assert asyncio.run(counts()) == [4, 1, 2]
