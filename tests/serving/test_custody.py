"""Replicas and requests for nodes end by themselves once no driver beats, and not before."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from types import SimpleNamespace
from uuid import uuid4

import numpy as np
import pytest
import ray
from ray import serve
from ray.exceptions import ActorUnavailableError, GetTimeoutError

from ray_si.config.file import parse_config
from ray_si.engines import registry
from ray_si.errors import LeaseLostError, StorageError
from ray_si.serving import applications, custody as custody_module
from ray_si.serving.applications import Serving, remove_predecessors
from ray_si.serving.custodian import Custodian, CustodianActor, is_of
from ray_si.serving.custody import Custody, identity_of
from ray_si.serving.replicas import EmbedderReplica
from tests.builds import replay_values


def config(**generator):
    values = replay_values()["generator"] | {"cpus": 0.1, **generator}
    return parse_config({"generator": values})


@pytest.fixture
def name():
    return f"test-{uuid4().hex}"


def until(condition, seconds=40.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def apps(name):
    return [app for app in serve.status().applications if is_of(name, app) is not None]


def custodian_of(name):
    try:
        return ray.get_actor(f"{name}-custodian", "ray_si")
    except ValueError:
        return None


def test_the_driver_with_the_highest_number_counts():
    custodian = Custodian("x", "identity", 1e6)
    assert custodian.beat(1)
    assert custodian.take_over(2, "identity", 1e6) == (True, None)
    custodian.deploys(1)  # too late
    assert custodian.take_over(3, "identity", 1e6) == (True, None)
    custodian.deploys(3)
    assert not custodian.beat(2)
    assert custodian.take_over(2, "identity", 1e6) == (False, None)
    assert custodian.take_over(4, "other", 1e6) == (False, None)
    assert custodian.take_over(5, "identity", 1e6) == (True, 3)


def test_only_the_beat_of_the_driver_that_counts_is_heard(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("ray_si.serving.custodian.time.monotonic", lambda: now[0])
    custodian = Custodian("x", "identity", 100.0)
    custodian.beat(2)
    for now[0] in (50.0, 90.0):
        custodian.beat(1)
    assert not custodian.is_silent()
    now[0] = 101.0
    assert custodian.is_silent()
    custodian.beat(2)
    assert not custodian.is_silent()


def test_a_name_is_told_from_others_that_begin_like_it():
    assert is_of("ray_si-1", "ray_si-1-00003-generator") == 3
    assert is_of("ray_si-1", "ray_si-1-other-00003-generator") is None
    assert is_of("ray_si-1", "ray_si-12-00003-generator") is None


def test_nobody_takes_over_what_is_being_ended():
    custodian = Custodian("x", "identity", silence_s=60.0)
    custodian.beat(1)
    custodian.deploys(1)
    assert not custodian.ends()
    assert custodian.take_over(2, "identity", -1.0) == (True, 1)
    assert custodian.ends()
    assert custodian.take_over(3, "identity", 60.0) == (False, None)


def test_embedders_give_their_room_back_while_generators_stay_to_the_end_of_the_driver(
    ray_session, name, monkeypatch
):
    class WithoutModel(EmbedderReplica):
        """No model is loaded in its process; in here, so that Ray takes it there by value."""

        def __init__(self, *arguments):
            zeros = SimpleNamespace(encode=lambda texts: np.zeros((len(texts), 3), np.float32))
            registry.embedder = lambda model, device: zeros
            super().__init__(*arguments)

    monkeypatch.setattr(applications, "EmbedderReplica", WithoutModel)
    with Serving(config(), name, 1, embedder=True) as serving:
        assert len(apps(name)) == 2
        assert custodian_of(name)
        assert serving.encode(["a", "b"]).shape == (2, 3)
        serving.release_embedder()
        until(lambda: len(apps(name)) == 1)
        assert apps(name) == [serving.generators.apps["instructions"]]
    until(lambda: not apps(name) and not custodian_of(name))


class Silent(Custody):
    """Of a driver that is killed: it begins, and beats no more."""

    def _beat(self):
        pass

    def __exit__(self, *_):
        pass


def test_what_a_silent_driver_held_ends_within_the_set_time(ray_session, name):
    custody = Silent(name, 1, identity_of(config(), embedder=False), silence_s=3.0)
    with custody:
        serving = Serving(config(), name, 1, embedder=False, custody=custody)
        serving.__enter__()
        assert len(apps(name)) == 1
        began = time.monotonic()
        until(lambda: not apps(name) and not custodian_of(name), 15)
        assert time.monotonic() - began >= 1.0


def test_what_a_driver_takes_over_while_the_custodian_asks_serve_is_left(monkeypatch):
    deleted = []
    custodian = CustodianActor.__new__(CustodianActor)
    Custodian.__init__(custodian, "x", "identity", silence_s=-1.0)
    assert custodian.is_silent()

    def asked():
        custodian.beat(2, silence_s=60.0)
        return SimpleNamespace(applications={"x-00001-generator": None})

    monkeypatch.setattr(serve, "status", asked)
    monkeypatch.setattr(serve, "delete", lambda *arguments, **_: deleted.append(arguments))
    assert not custodian._ended_orphans()
    assert deleted == []


def test_a_driver_within_the_set_time_goes_on_with_the_replicas(ray_session, name):
    settings = config()
    identity = identity_of(settings, embedder=False)
    first = Silent(name, 1, identity, silence_s=60.0)
    first.__enter__()
    Serving(settings, name, 1, embedder=False, custody=first).__enter__()
    (app,) = apps(name)
    replicas = replica_ids(app)
    notes = []
    with Custody(name, 2, identity, silence_s=60.0) as second:  # which finds too few nodes, say
        assert second.adopted == 1
    with Custody(name, 3, identity, silence_s=60.0) as custody:
        assert custody.adopted == 1
        remove_predecessors(name, 3, keep=custody.adopted)
        with Serving(
            settings, name, 3, embedder=False, custody=custody, notify=notes.append
        ) as serving:
            assert serving.generators.apps["instructions"] == app
            assert replica_ids(app) == replicas
            assert serving.usage().requests.total() == 0
            assert notes == ["going on with the replicas of the driver before"]
            assert not first.counts()
            Serving._delete(_of(first, settings, name))  # a superseded driver deletes nothing
            assert apps(name) == [app]
    until(lambda: not apps(name) and not custodian_of(name))


def begun(question, name, identity, does=lambda: time.sleep(3600)):
    """A custodian that hangs, or what it else ``does``, when it is asked that."""

    class Hanging(Custodian):
        """One question is never answered, nor any after it.

        In here, so that Ray takes it to the actor by value, not by this module.
        """

        def __init__(self, question: str, *arguments: object) -> None:
            super().__init__(*arguments)
            self._question = question

        def take_over(self, *arguments):
            return self._answer("take_over", super().take_over(*arguments))

        def total(self, *arguments):
            return self._answer("total", super().total(*arguments))

        def _answer(self, question, answer):
            if question == self._question:
                does()
            return answer

    options = {"name": f"{name}-custodian", "namespace": "ray_si", "lifetime": "detached"}
    actor = ray.remote(Hanging).options(num_cpus=0, max_restarts=-1, **options)
    custodian = actor.remote(question, name, identity, 60.0)
    ray.get(custodian.beat.remote(1))
    ray.get(custodian.deploys.remote(1))
    return custodian


@pytest.mark.parametrize("question", ["take_over", "total"])
def test_a_custodian_that_hangs_is_replaced_and_its_replicas_are_deployed_anew(
    ray_session, name, monkeypatch, question
):
    monkeypatch.setattr(custody_module, "_ANSWER_S", 3.0)
    settings = config()
    identity = identity_of(settings, embedder=False)
    hanging = begun(question, name, identity)
    with Custody(name, 2, identity, silence_s=60.0) as custody:
        assert custody.adopted == (1 if question == "total" else None)
        with Serving(settings, name, 2, embedder=False, custody=custody) as serving:
            assert custody.custodian != hanging
            assert serving.usage().deaths == 0
            assert [is_of(name, app) for app in apps(name)] == [2]
    until(lambda: not apps(name) and not custodian_of(name))


def test_a_custodian_that_is_being_restarted_is_replaced(ray_session, name, monkeypatch):
    monkeypatch.setattr(custody_module, "_ANSWER_S", 10.0)
    restarting = begun("take_over", name, "identity", does=lambda: os._exit(1))
    with Custody(name, 2, "identity", silence_s=60.0) as custody:
        assert custody.custodian != restarting
        assert custody.adopted is None
        assert ray.get(custody.custodian.beat.remote(2))


def test_a_lease_that_cannot_be_read_is_told_as_it_is_and_the_custodian_left(monkeypatch):
    def get(*_, **__):
        raise ActorUnavailableError("it is being restarted", None)

    def check_lease():
        raise StorageError("the bucket refuses it")

    take_over = SimpleNamespace(remote=lambda *_: None)
    monkeypatch.setattr(ray, "get_actor", lambda *_: SimpleNamespace(take_over=take_over))
    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(StorageError, match="refuses"):
        Custody("si-x", 2, "identity", 60.0, check_lease)._take_over()


@pytest.mark.parametrize("question", ["take_over", "total"])
def test_a_driver_that_was_succeeded_meanwhile_touches_no_custodian(
    ray_session, name, monkeypatch, question
):
    def check_lease():
        raise LeaseLostError("another driver has taken over")

    monkeypatch.setattr(custody_module, "_ANSWER_S", 1.0)
    monkeypatch.setattr(custody_module, "_BEAT_S", 1.0)
    settings = config()
    identity = identity_of(settings, embedder=False)
    hanging = begun(question, name, identity)
    began = time.monotonic()
    custody = Custody(name, 2, identity, 60.0, check_lease)
    with pytest.raises(LeaseLostError), custody:
        Serving(settings, name, 2, embedder=False, custody=custody).__enter__()
    assert time.monotonic() - began > 1.0  # it was waited for
    assert custodian_of(name)
    ray.kill(hanging)


@pytest.mark.parametrize("holds", [True, False])
@pytest.mark.parametrize("is_served", [True, False])
@pytest.mark.parametrize("adopted", [1, None])
def test_where_the_custodian_does_not_answer_the_lease_tells_whose_the_replicas_are(
    monkeypatch, adopted, is_served, holds
):
    def get(*_, **__):
        raise GetTimeoutError("no answer")

    def check_lease():
        if not holds:
            raise LeaseLostError("another driver has taken over")

    monkeypatch.setattr(ray, "get", get)
    custody = Custody("si-x", 1, "identity", check_lease=check_lease)
    custody.custodian = SimpleNamespace(beat=SimpleNamespace(remote=lambda fencing: None))
    custody.adopted = adopted
    if is_served:
        custody.goes_on()
    assert custody.counts() == (holds and (is_served or adopted is None))


def _of(custody, settings, name):
    return Serving(settings, name, custody.fencing, embedder=False, custody=custody)


def replica_ids(app):
    from ray._private.internal_api import get_state_from_address

    address = ray.get_runtime_context().gcs_address
    actors = get_state_from_address(address).actor_table(None)
    return {
        id_ for id_, actor in actors.items() if actor["State"] == "ALIVE" and app in actor["Name"]
    }


def test_what_was_deployed_otherwise_or_is_gone_meanwhile_is_not_gone_on_with(ray_session, name):
    settings = config()
    first = Silent(name, 1, identity_of(settings, embedder=False), silence_s=60.0)
    first.__enter__()
    Serving(settings, name, 1, embedder=False, custody=first).__enter__()

    other = config(max_batch=3)
    identity = identity_of(other, embedder=False)
    second = Silent(name, 2, identity, silence_s=60.0)
    second.__enter__()
    assert second.adopted is None  # they are there, and another's
    remove_predecessors(name, 2, keep=second.adopted)
    Serving(other, name, 2, embedder=False, custody=second).__enter__()
    assert [is_of(name, app) for app in apps(name)] == [2]

    serve.delete(apps(name)[0])
    with Custody(name, 3, identity, silence_s=60.0) as third:
        assert third.adopted == 2  # they are its own, and gone
        with Serving(other, name, 3, embedder=False, custody=third) as serving:
            assert is_of(name, serving.generators.apps["instructions"]) == 3
            assert [is_of(name, app) for app in apps(name)] == [3]


def request_in_store():
    from ray._private.ray_constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
    from ray.experimental.internal_kv import _internal_kv_get

    return _internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL)


def test_a_request_for_nodes_ends_with_its_driver(ray_session, name):
    """One that was killed while it waited for nodes, before there was any replica."""
    from ray.autoscaler.sdk import request_resources

    with Silent(name, 1, "identity", silence_s=2.0) as custody:
        asking = custody.asking_for_nodes()  # which it never comes to leave
        asking.__enter__()
        request_resources(bundles=[{"CPU": 1000}])
        assert b"1000" in request_in_store()
        until(lambda: not custodian_of(name), 15)
        assert b"1000" not in request_in_store()


def test_other_runs_requests_are_left_alone(ray_session, name):
    from ray.autoscaler.sdk import request_resources

    with suppress(ValueError):  # of earlier builds; it puts its own request in place of others
        ray.kill(ray.get_actor("AutoscalingCoordinator", "AutoscalingCoordinator"))
    request_resources(bundles=[{"CPU": 2000}])
    with Silent(name, 1, "identity", silence_s=1.0):
        until(lambda: not custodian_of(name), 15)
    assert b"2000" in request_in_store()
    request_resources(bundles=[])
