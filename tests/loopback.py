"""Whole builds without a cluster: what Ray carries is called in this process instead.

Everything else is the real thing: phases, tasks, clients, budget, lease, store. So thousands of
schedules can be tried where a cluster would allow for tens; those that need a cluster, and what
Ray itself does, are tested elsewhere.
"""

from __future__ import annotations

import hashlib
import random
from concurrent.futures import as_completed
from contextlib import contextmanager, nullcontext
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException

from ray_si.build import checks, hosting, phases, stages
from ray_si.engines import registry
from ray_si.engines.replay.engine import ReplayEngine
from ray_si.serving import client
from ray_si.serving.applications import Serving
from ray_si.serving.background import in_thread
from ray_si.serving.custody import Custody
from ray_si.serving.replicas import Replies, Reply


class _Response:
    """What a handle gives for a call."""

    def __init__(self, replies):
        self._replies = replies

    def __aiter__(self):
        return self._replies

    def cancel(self):
        """Whoever asked has been cancelled, and with it what is iterated here."""


class StreamingHandle:
    """What a handle of Serve has around its calls, which are in ``remote``."""

    def options(self, **_):
        return self

    @property
    def answer(self):
        return SimpleNamespace(remote=lambda *call: _Response(self.remote(*call)))


class Handle(StreamingHandle):
    """Answers calls as a replica does; a ``share`` of them fails in one of the ways calls do.

    As many answers travel in a later call of their client, if it makes one.
    """

    def __init__(self, rng: random.Random, latency_s: float, share: float) -> None:
        self._rng, self._latency_s, self._share = rng, latency_s, share
        self._elsewhere: dict[str, list[Reply]] = {}
        self.replay(None)

    def replay(self, recording: str | None) -> None:
        """From now on answers are those of this recording, or scripted without one."""
        self._engine = ReplayEngine(
            recording=recording, latency_s=self._latency_s, latency_sigma=1.0
        )

    async def remote(self, requests, order, sender):
        for number, request in enumerate(requests, sender.first):
            answer = number, await self._engine.generate(request)
            if self._rng.random() < self._share:
                self._elsewhere.setdefault(sender.client, []).append(answer)
                continue
            if self._rng.random() < self._share:
                match self._rng.choice(["fail", "die", "serve", "end"]):
                    case "fail":
                        yield Replies("replica", 0, [(number, "RuntimeError: out of memory")])
                        continue
                    case "die":
                        raise RayActorError()
                    case "serve":
                        raise RayServeException("the controller is away")
                    case "end":
                        return
            carried = self._elsewhere.pop(sender.client, [])
            yield Replies("replica", 0, [*carried, answer])


def hashed(texts):
    """Vectors that depend on the text alone, in no time."""
    seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) for text in texts]
    return np.stack([np.random.default_rng(s).normal(size=16) for s in seeds]).astype("float32")


@cache
def _embedder(model):
    return registry.embedder(model)


class LoopbackServing(Serving):
    """Deploys nothing; the embedder is in this process."""

    def __enter__(self):
        for section, app in self._apps.items():
            if recording := self._config.generators[section].replay.recording:
                serve.get_app_handle(app).replay(recording)
        return self

    def __exit__(self, *_):
        pass

    def release_embedder(self):
        pass

    def encode(self, texts):
        return _embedder(self._config.embedder.model).encode(texts)


class LoopbackCustody(Custody):
    """Has no custodian."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def asking_for_nodes(self):
        return nullcontext()


@contextmanager
def _nothing(*_, **__):
    yield True


def _map_part(part, task):
    """What the operators make of a part."""
    if isinstance(task.work, stages.StagedWork):
        asked = stages.generate(stages.render(part, work=task.work), task=task)
        return [stages.parse(done, work=task.work) for done in asked]
    return list(stages.generate(part, task=task))


def _map_parts(parts, task, concurrency):
    """Each part in a thread, whose results come as they end."""
    for future in as_completed([in_thread(_map_part, part, task) for part in parts]):
        yield from future.result()


@contextmanager
def installed(**options):
    """For a while; see `install`."""
    with pytest.MonkeyPatch.context() as patch:
        install(patch.setattr, **options)
        yield


def install(
    patch, seed: int = 0, *, latency_s: float = 0.0, share: float = 0.0, hashes: bool = False
) -> None:
    """Have builds in this process do without a cluster; ``patch`` sets an attribute for a while.

    Every generator is the replay, of its recording where it has one; with ``hashes``, embeddings
    are `hashed`.
    """
    rng = random.Random(seed)
    connect_nothing(patch, phases)
    for module in (phases, hosting):
        patch(module, "Serving", LoopbackServing)
        patch(module, "Custody", LoopbackCustody)
        patch(module, "identity_of", lambda *_, **__: "")
        patch(module, "remove_predecessors", lambda *_, **__: None)
    if hashes:
        patch(LoopbackServing, "encode", lambda self, texts: hashed(texts))
    patch(phases, "Watcher", _nothing)
    patch(checks, "wait_for_room", lambda config, **_: config)
    patch(checks, "room_for_cores", lambda **_: 0.0)
    patch(checks, "leaves_cores", lambda *_: False)
    patch(stages, "warm_up", lambda count: None)
    patch(stages, "_map_parts", _map_parts)
    patch(serve, "get_app_handle", cache(lambda app: Handle(rng, latency_s, share)))
    patch(client, "_is_up", lambda app: True)
    patch(client, "_PAUSE_S", 0.002)
    patch(client, "_STRAY_S", 0.02)
    patch(client, "_GATHER_S", 0.0)


def connect_nothing(patch, module) -> None:
    """Have this module, which connects to Ray by this name, do without."""
    patch(module, "connect", _nothing)
