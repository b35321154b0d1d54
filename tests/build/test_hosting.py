"""A model beside a run is hosted with a look at the lease, and under a custodian from the first."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from ray_si.build import checks, hosting
from ray_si.build.hosting import hosted
from ray_si.config.file import parse_config
from ray_si.errors import LeaseLostError
from ray_si.run.folder import Folder
from tests import loopback

CONFIG = parse_config({"generator": {"engine": "replay", "model": None}})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """One that is held, without a cluster."""
    loopback.install(monkeypatch.setattr)
    folder = Folder(str(tmp_path), "header.json", "a score")
    with folder.held(lambda message: None):
        yield folder


def host(folder, notify=lambda note: None):
    return hosted(CONFIG, "si-x", folder, is_ours=True, notify=notify)


@pytest.mark.parametrize("place", ["nodes", "earlier replicas", "replicas"])
def test_who_is_succeeded_while_waiting_waits_no_longer(folder, monkeypatch, place):
    def wait(*_, check, **__):
        folder.objects.put("lease/00009.json", b"{}")
        check()
        pytest.fail("it goes on waiting")

    match place:
        case "nodes":
            monkeypatch.setattr(checks, "wait_for_room", wait)
        case "earlier replicas":
            monkeypatch.setattr(hosting, "remove_predecessors", wait)
        case "replicas":
            monkeypatch.setattr(hosting, "Serving", wait)
    with pytest.raises(LeaseLostError, match="another driver has taken over"), host(folder):
        pytest.fail("it got hold of replicas")


def test_nodes_are_asked_for_under_the_custodian_that_the_replicas_have_then(folder, monkeypatch):
    told = []

    class Custody(loopback.LoopbackCustody):
        @contextmanager
        def asking_for_nodes(self):
            told.append(("asks", self.fencing))
            yield
            told.append("asks no more")

    def wait_for_room(config, **_):
        told.append("waits")
        return config

    monkeypatch.setattr(hosting, "Custody", Custody)
    monkeypatch.setattr(checks, "wait_for_room", wait_for_room)
    with host(folder, told.append) as serving:
        assert isinstance(serving._custody, Custody)
    assert told == [("asks", 1), "waits", "asks no more", "loading the model"]
