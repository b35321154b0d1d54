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
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_si._version import __version__
from ray_si.config import RunConfig
from ray_si.errors import LeaseLostError, RaySIError
from ray_si.serving.background import in_thread
from ray_si.serving.custodian import BEATS, LONGEST_S, CustodianActor
from ray_si.serving.placement import engine_arguments, placement
from ray_si.serving.usage import Usage

_NAMESPACE = "ray_si"
"""Of the custodians' names, the same for every driver."""

_ANSWER_S = 30.0
"""Seconds that a custodian may take to answer."""

_BEAT_S = 5.0
"""Seconds that it may take to answer whether the driver that beats is the one that counts."""

SILENCE_S = 600.0
"""The set time, where no configuration has it."""

logger = logging.getLogger(__name__)


class Custody:
    """A driver's part: beats for as long as ``with`` lasts, and then ends the custodian.

    Not where it adopted applications and got no further than that, with too few nodes, say: they
    are left to the next driver, or to the custodian. Connects to nothing by itself: `ray.init`
    comes before. ``adopted`` is the number in the names of an earlier driver's applications that
    are what this driver would deploy, None where there are none; ``custodian`` is the actor.
    ``check_lease`` raises LeaseLostError where there is a later driver, whose things are not to be
    touched.
    """

    def __init__(
        self,
        name: str,
        fencing: int,
        identity: str,
        silence_s: float = SILENCE_S,
        check_lease: Callable[[], None] = lambda: None,
    ) -> None:
        self.name, self.fencing = name, fencing
        self.adopted: int | None = None
        self.custodian: Any = None
        self._identity, self._silence_s, self._check_lease = identity, silence_s, check_lease
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
            counts: bool = ray.get(self.custodian.beat.remote(self.fencing), timeout=_BEAT_S)
        except RayError:
            return (self.adopted is None or self._is_served) and self._holds_lease()
        return counts

    def _holds_lease(self) -> bool:
        try:
            self._check_lease()
        except LeaseLostError:
            return False
        except (OSError, RaySIError) as error:
            logger.warning("whether another driver has taken over is not known: %s", error)
        return True

    def goes_on(self) -> None:
        """What was adopted is this driver's from now on, and ends with it."""
        self._is_served = True

    def deploys(self) -> None:
        """Nothing is adopted: this driver's own applications come."""
        self.adopted, self._is_served = None, True
        self.custodian.deploys.remote(self.fencing)

    def usage(self) -> Usage | None:
        """What all replicas have done so far; None where the custodian does not answer."""
        try:
            usage: Usage = ray.get(self.custodian.total.remote(), timeout=_ANSWER_S)
        except RayError:  # it hangs, or is being restarted
            return None
        return usage

    def begins_anew(self, *, with_custodian: bool) -> None:
        """What was adopted is to be removed, and so is a custodian that does not answer.

        Raises LeaseLostError where these are another driver's by now.
        """
        self._check_lease()
        if with_custodian:
            return
        with suppress(RayError):
            ray.kill(self.custodian)
        self.custodian = self._create()

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
        try:
            custodian = ray.get_actor(self._actor_name, _NAMESPACE)
        except ValueError:  # there is none
            return
        question = custodian.take_over.remote(self.fencing, self._identity, self._silence_s)
        try:
            is_same, deployed = ray.get(question, timeout=_ANSWER_S)
        except RayError:  # it hangs, goes, or is being restarted, and its name would not be free
            is_same, deployed = False, None
        if is_same:
            self.custodian, self.adopted = custodian, deployed
            return
        self._check_lease()
        with suppress(RayError):
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
                actor = ray.remote(CustodianActor).options(**options)
                custodian = actor.remote(self.name, self._identity, self._silence_s)
                break
            except ValueError:  # the name of the one before is not free yet
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
        custodian.beat.remote(self.fencing)
        return custodian

    def _beat(self) -> None:
        pause_s = min(LONGEST_S, self._silence_s / BEATS)
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
