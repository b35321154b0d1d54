"""Replicas that come late, never, or fail first: work begins with those that are there."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from contextlib import suppress
from uuid import uuid4

import numpy as np
import pytest
import ray
from ray import serve
from ray.exceptions import ObjectLostError, RayActorError, RaySystemError
from ray.serve._private.common import DeploymentID
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.schema import LoggingConfig

from ray_si.build.builder import build
from ray_si.config.file import parse_config
from ray_si.errors import EngineError, GenerationError
from ray_si.serving import applications
from ray_si.serving.applications import Generators, Serving, remove_predecessors
from ray_si.serving.loads import RUNNING
from ray_si.serving.replicas import GeneratorReplica
from ray_si.serving.routing import FewestRequestsOfTwo
from tests.builds import digests, replay_values


def test_work_begins_with_the_first_replicas_and_does_not_wait_for_the_others(
    finished, ray_session, tmp_path
):
    values = replay_values()
    values["generator"] |= {"replicas": 3, "cpus": 1.6}  # of which two have room
    notes = []
    build(parse_config(values), str(tmp_path / "run"), listen=lambda p: notes.append(p.note))
    assert digests(tmp_path / "run") == digests(finished[0])
    assert any("beginning with the replicas that have room" in note for note in notes)


def serving(recording, **generator):
    generator = {"engine": "replay", "model": None, "cpus": 0.1, **generator}
    config = parse_config({"generator": generator | {"replay": {"recording": str(recording)}}})
    return lambda notify: Serving(config, f"test-{uuid4().hex}", 1, embedder=False, notify=notify)


def test_starts_that_fail_are_made_again_counted_and_told_with_their_reason(ray_session, tmp_path):
    recording, notes = tmp_path / "recording.jsonl", []

    def mend(note):
        notes.append(note)
        recording.write_text('{"prompt": "x", "completion": "y"}\n')

    with serving(recording, replicas=2)(mend) as applications:
        deadline = time.monotonic() + 60
        while applications.usage().failed_starts < 1:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert notes[0].startswith("a replica could not start: ")
    assert "recording.jsonl" in notes[0]


def test_starts_that_all_fail_end_with_the_reason(ray_session, tmp_path):
    with (
        pytest.raises(EngineError, match=r"could not be started on its replica: .*absent\.jsonl"),
        serving(tmp_path / "absent.jsonl", replicas=1)(lambda note: None),
    ):
        pass


def test_replicas_tell_their_slots_and_are_gone_before_a_later_driver_looks_for_room(ray_session):
    """A driver that was killed left them, with all the cores there are."""
    generator = replay_values()["generator"] | {"cpus": 4, "max_batch": 7}
    config = parse_config({"generator": generator})
    name = f"test-{uuid4().hex}"
    with Serving(config, name, 1, embedder=False) as applications:
        assert list(applications.generators.slots.values()) == [7]
        assert list(applications.generators.replica_slots.values()) == [7]
        assert [RUNNING[app] for app in applications.generators.slots] == [1]
        remove_predecessors(name, 1)
        assert f"{name}-00001-generator" in serve.status().applications
        remove_predecessors(name, 2)
        assert f"{name}-00001-generator" not in serve.status().applications
        task = ray.remote(num_cpus=4)(lambda: "there is room")
        assert ray.get(task.remote(), timeout=20) == "there is room"


class Embedders:
    """A handle of two embedders that do what is on the ``script``, one call after another."""

    def __init__(self, *script) -> None:
        self._script = list(script)
        self._names = itertools.cycle(("one", "other"))
        self.cancelled = 0

    @property
    def encode(self):
        return self

    def remote(self, texts):
        self._texts = texts
        return self

    def cancel(self):
        self.cancelled += 1

    def result(self, timeout_s):
        match self._script.pop(0) if len(self._script) > 1 else self._script[0]:
            case "hangs":
                raise TimeoutError
            case "dies":
                raise RayActorError
            case "is lost with its node":
                raise ObjectLostError("00ff", None, "")
            case "is not there":
                raise DeploymentUnavailableError(DeploymentID("EmbedderReplica", "test"))
            case "is cut off":
                raise RaySystemError("the connection was lost")
            case "loses one":
                return np.ones((len(self._texts) - 1, 3), np.float32), 0.5, next(self._names)
            case width:
                return np.ones((len(self._texts), width), np.float32), 0.5, next(self._names)


@pytest.fixture
def embedders(monkeypatch):
    """Applications whose embedders are those of a script; waits between tries take no time."""
    monkeypatch.setattr(applications.time, "sleep", lambda seconds: None)

    def scripted(*script):
        config = parse_config(replay_values() | {"embedder": {"replicas": 2}})
        serving = Serving(config, "test", 1, embedder=True)
        serving._embedder = Embedders(*script)
        return serving

    return scripted


def test_an_embedder_that_dies_is_asked_again(embedders):
    serving = embedders("dies", "is lost with its node", 3)
    assert serving.encode(["text"] * 2000).shape == (2000, 3)
    assert len(serving._answered) == 2


def test_a_ray_that_is_in_trouble_for_a_moment_is_asked_again(embedders):
    serving = embedders("is not there", "is cut off", 3)
    assert serving.encode(["text"]).shape == (1, 3)


@pytest.mark.parametrize(("silent_s", "at_work"), [(50, 2), (70, 1)])
def test_an_embedders_time_is_divided_by_those_at_work_not_by_those_that_are_to_be(
    embedders, silent_s, at_work
):
    serving = embedders(3)
    serving.encode(["text"] * 2000)
    serving._answered["other"] -= silent_s
    serving._embedder._names = itertools.repeat("one")
    before = serving.embedding_s
    serving.encode(["text"] * 4000)  # four calls of half a second
    assert serving.embedding_s - before == 4 * 0.5 / at_work


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        (("dies",), GenerationError, "the embedder failed 4 times in a row"),
        (("is not there",), GenerationError, "failed 4 times in a row: Deployment"),
        (("is cut off",), GenerationError, "failed 4 times in a row: .*the connection was lost"),
        (("hangs",), GenerationError, "failed 4 times in a row: it has not answered for 300 s"),
        (("loses one",), GenerationError, "the embedder gave 1 embeddings for 2 texts"),
        ((3, 5), EngineError, "gives 3 numbers for one text and 5 for another"),
    ],
)
def test_embedders_that_fail_hang_or_differ_are_one_named_error(embedders, script, error, words):
    serving = embedders(*script)
    if len(script) > 1:
        serving.encode(["one", "two"])
    with pytest.raises(error, match=words) as raised:
        serving.encode(["one", "two"])
    assert serving._embedder.cancelled == (4 if script == ("hangs",) else 0)
    assert "\n" not in str(raised.value)


def test_each_generators_replicas_are_told_which_of_them_they_are_of():
    """And hand on what they are told: the meter keeps their slots' time apart by it."""
    own = {"engine": "replay", "model": None}
    config = parse_config({"generator": own, "instance_generator": own})
    targets = Serving(config, "test", 1, embedder=False)._targets(None, LoggingConfig())
    made = {target.name: target.target._bound_deployment.init_args for target in targets}
    assert set(made) == {"test-00001-generator", "test-00001-instance_generator"}
    for app, arguments in made.items():
        replica = GeneratorReplica(*arguments)
        replica._note()
        (section,) = replica._clock.usage.open_s
        assert app == f"test-00001-{section}"


def test_a_task_has_a_thousand_slots_and_its_share_of_what_is_on_its_way():
    assert Generators({}, {"app": 1024}).tasks == 1
    assert Generators({}, {"app": 1025}).tasks == 2
    many = Generators({}, {"app": 8192, "other": 100})
    assert many.tasks == 9
    assert many.windows() == {"app": round(1.5 * 8192 / 9), "other": round(1.5 * 100 / 9)}


@pytest.mark.parametrize("more", [{}, {"max_replicas": 8}])
def test_those_that_may_come_share_the_window_whether_they_come_for_sure_or_when_asked_for(more):
    """Else the first of them would be sent all of it, and the later ones what it cannot take."""
    generator = replay_values()["generator"] | {"replicas": 8 if not more else 1, "max_batch": 5}
    config = parse_config({"generator": generator | more})
    generators = Serving(config, "test", 1, embedder=False).generators
    assert list(generators.slots.values()) == [40]
    assert list(generators.replicas.values()) == [8]


def test_a_router_is_declared_while_serve_declares_the_same_for_another_build():
    """Serve's thread of another build takes back what this one has noted of the module."""
    before, ended = sys.getswitchinterval(), threading.Event()

    def declare_again():
        while not ended.is_set():
            with suppress(ValueError):
                RequestRouterConfig(request_router_class=FewestRequestsOfTwo)

    other = threading.Thread(target=declare_again)
    sys.setswitchinterval(1e-5)
    other.start()
    try:
        for _ in range(200):
            applications._router_config()
    finally:
        ended.set()
        other.join()
        sys.setswitchinterval(before)
