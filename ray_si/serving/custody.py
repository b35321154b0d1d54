"""Who looks after what a run holds of a cluster while no driver does: replicas, requests for nodes.

A driver that is killed outright leaves both, and nothing in Ray or Serve ends them. So each run has
a custodian, an actor that outlives its drivers and hears the beat of the one that counts. Once that
has been silent for the set time, the custodian ends what the run holds, and itself. A driver that
comes within it is told what it can go on with.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

import ray
from ray import serve
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_si._version import __version__
from ray_si.config import RunConfig
from ray_si.serving.background import in_thread
from ray_si.serving.placement import engine_arguments, placement
from ray_si.serving.usage import Meter

_NAMESPACE = "ray_si"
"""Of the custodians' names, the same for every driver."""

_ANSWER_S = 30.0
"""Seconds that a custodian may take to answer."""

_BEATS = 10
"""In the time after which a silent driver counts as gone."""

_LONGEST_S = 10.0
"""Most seconds between two beats."""

SILENCE_S = 600.0
"""The set time, where no configuration has it."""

logger = logging.getLogger(__name__)


def is_of(name: str, app: str) -> int | None:
    """The fencing number in the name of an application of a run, None where it is another's."""
    match = re.fullmatch(rf"{re.escape(name)}-(\d{{5,}})-\w+", app)
    return int(match[1]) if match else None


class Custodian(Meter):
    """A run's `Meter`, and who says when what it holds has been left alone.

    ``identity`` stands for what was deployed, see `identity_of`. Of several drivers the one with
    the highest fencing number counts.
    """

    def __init__(self, name: str, identity: str, silence_s: float) -> None:
        super().__init__({"ray_si": __version__})
        self._name, self._identity, self._silence_s = name, identity, silence_s
        self._fencing = 0
        self._deployed: int | None = None
        self._has_request = False
        self._last_beat = time.monotonic()

    def beat(self, fencing: int, silence_s: float | None = None) -> bool:
        """The driver of that number lives; whether it is the one that counts."""
        if fencing < self._fencing:
            return False
        self._fencing, self._last_beat = fencing, time.monotonic()
        self._silence_s = silence_s or self._silence_s
        return True

    def take_over(self, fencing: int, identity: str, silence_s: float) -> tuple[bool, int | None]:
        """A driver begins. Whether it wants what this custodian is for, and if so the number in the
        names of the applications that it may go on with."""
        counts = self.beat(fencing, silence_s)
        is_same = counts and identity == self._identity
        return is_same, self._deployed if is_same else None

    def deploys(self, fencing: int) -> None:
        """The driver that counts begins to deploy applications of its number."""
        if fencing == self._fencing:
            self._deployed = fencing

    def asks_for_nodes(self, fencing: int, asks: bool) -> None:
        """Whether the driver that counts has a request for nodes with the autoscaler."""
        if fencing == self._fencing:
            self._has_request = asks

    def is_silent(self) -> bool:
        """Whether the driver has been silent for the set time."""
        return time.monotonic() - self._last_beat > self._silence_s


class _Actor(Custodian):
    """As a Ray actor that outlives drivers: it acts on what a custodian says."""

    def __init__(self, name: str, identity: str, silence_s: float) -> None:
        super().__init__(name, identity, silence_s)
        threading.Thread(target=self._watch, name="custodian", daemon=True).start()

    def _watch(self) -> None:
        while True:
            time.sleep(min(_LONGEST_S, self._silence_s / _BEATS))
            if not self.is_silent():
                continue
            try:
                self._end_orphans()
                return  # a killed actor goes on for a moment, in which others may ask for nodes
            except (RayError, RayServeException, RuntimeError, TimeoutError) as error:
                logger.warning("orphans of %s could not be ended yet: %s", self._name, error)

    def _end_orphans(self) -> None:
        """Delete the run's applications, and its request for nodes; then end this actor."""
        for app in serve.status().applications:
            if is_of(self._name, app) is not None:
                logger.warning("%s has had no driver for %g s: ended", app, self._silence_s)
                serve.delete(app, _blocking=False)
        if self._has_request:
            request_resources(bundles=[])
        ray.kill(ray.get_runtime_context().current_actor)


class Custody:
    """A driver's part: beats for as long as ``with`` lasts, and then ends the custodian.

    Not where it adopted applications and got no further than that, with too few nodes, say: they
    are left to the next driver, or to the custodian. Connects to nothing by itself: `ray.init`
    comes before. ``adopted`` is the number in the names of an earlier driver's applications that
    are what this driver would deploy, None where there are none; ``custodian`` is the actor.
    """

    def __init__(
        self, name: str, fencing: int, identity: str, silence_s: float = SILENCE_S
    ) -> None:
        self.name, self.fencing = name, fencing
        self.adopted: int | None = None
        self.custodian: Any = None
        self._identity, self._silence_s = identity, silence_s
        self._is_served = False
        self._ended = threading.Event()

    def __enter__(self) -> Custody:
        self._take_over()
        if self.custodian is None:
            self.custodian = self._create()
        in_thread(self._beat)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        counts = self.counts()
        self._ended.set()
        if counts and (self._is_served or self.adopted is None):
            with suppress(RayError):
                ray.kill(self.custodian)

    def counts(self) -> bool:
        """Whether no later driver has taken over; so too where the custodian is being restarted."""
        try:
            counts: bool = ray.get(self.custodian.beat.remote(self.fencing), timeout=5)
        except RayError:
            return self.adopted is None
        return counts

    def goes_on(self) -> None:
        """What was adopted is this driver's from now on, and ends with it."""
        self._is_served = True

    def deploys(self) -> None:
        """Nothing is adopted: this driver's own applications come."""
        self.adopted, self._is_served = None, True
        self.custodian.deploys.remote(self.fencing)

    @contextmanager
    def asking_for_nodes(self) -> Iterator[None]:
        """While the autoscaler is asked for nodes, a request that would outlive this driver."""
        self.custodian.asks_for_nodes.remote(self.fencing, True)
        try:
            yield
        finally:
            self.custodian.asks_for_nodes.remote(self.fencing, False)

    def _take_over(self) -> None:
        """Find the run's custodian, if there is one; one of other things is ended."""
        with suppress(ValueError, RayError):  # there is none, or it is just going
            custodian = ray.get_actor(self._actor_name, _NAMESPACE)
            question = custodian.take_over.remote(self.fencing, self._identity, self._silence_s)
            is_same, deployed = ray.get(question, timeout=_ANSWER_S)
            if is_same:
                self.custodian, self.adopted = custodian, deployed
            else:
                ray.kill(custodian)

    def _create(self) -> Any:
        # on the head, or wherever the driver is: what it looks after is elsewhere
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        options = {
            "name": self._actor_name,
            "namespace": _NAMESPACE,
            "lifetime": "detached",
            "num_cpus": 0,
            "max_restarts": -1,
            "scheduling_strategy": here,
        }
        end = time.monotonic() + _ANSWER_S
        while True:
            try:
                actor = ray.remote(_Actor).options(**options)
                custodian = actor.remote(self.name, self._identity, self._silence_s)
                break
            except ValueError:  # the name of the one before is not free yet
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
        custodian.beat.remote(self.fencing)
        return custodian

    def _beat(self) -> None:
        pause_s = min(_LONGEST_S, self._silence_s / _BEATS)
        while not self._ended.wait(pause_s):
            with suppress(RayError):  # it is being restarted, or another driver has taken over
                self.custodian.beat.remote(self.fencing)

    @property
    def _actor_name(self) -> str:
        return f"{self.name}-custodian"


def identity_of(config: RunConfig, *, embedder: bool) -> str:
    """What stands for the applications of a run: engines, models, places, and the code they run."""
    generators = {
        section: [
            *engine_arguments(generator),
            generator.request_timeout_s,
            placement(generator).deployment_options(),
            [generator.replicas, generator.max_replicas, generator.slots],
        ]
        for section, generator in config.generators.items()
    }
    parts = [
        __version__,
        ray.get_runtime_context().runtime_env.get("working_dir"),
        generators,
        config.embedder.model_dump(mode="json") if embedder else None,
        config.budget.dollars_per_hour,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
