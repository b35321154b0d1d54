"""Ray Serve applications for the generators and the embedder of a run."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus, LoggingConfig, ReplicaState

from ray_si.config import Generator, RunConfig
from ray_si.engines.base import Purpose
from ray_si.errors import EngineError, GenerationError
from ray_si.serving.client import short, start_failure
from ray_si.serving.custodian import is_of
from ray_si.serving.custody import Custody, identity_of
from ray_si.serving.placement import (
    embedding_device,
    engine_arguments,
    for_workers,
    placement,
)
from ray_si.serving.replicas import EMBED_S, EmbedderReplica, GeneratorReplica
from ray_si.serving.routing import FewestRequestsOfTwo
from ray_si.serving.usage import Usage

_EMBED_SIZE = 1024
"""Most texts in one embedder call."""

_EMBEDDING = 2
"""Calls that an embedder has, so that one is tokenized while another is computed."""

_ATTEMPTS = 4
"""Tries of an embedder call that fails."""

_AT_WORK_S = 60.0
"""For which an embedder counts as one of those at work after it has answered."""

_DECLARATIONS = 50
"""Tries of a declaration that one of Serve's threads can spoil."""

_EMBED_S = EMBED_S + 60.0
"""Before a call is made again. An embedder that hangs has been replaced by then."""

_LOOK_S = 0.25
"""Seconds between looks at replicas that start or go."""

_REMOVAL_S = 30.0
"""Most seconds for an earlier driver's replicas to go."""

_SLOTS_S = 10.0
"""Most seconds for a replica to tell its slots."""

_POLICY = "ray_si.serving.autoscaling:replicas_for_requests"
"""What decides how many replicas there are, where they may be more."""

_NO_BOUND = 1 << 14
"""Calls that a replica takes at a time: clients bound what is on its way, and replicas queue it."""

_declaring = threading.Lock()
"""Several builds may run in a process, and Ray's declarations are not made for threads."""

_IN_FLIGHT = 1.5
"""Requests on their way for each slot: a replica should find its next one waiting. Not many more,
since what waits on a replica is lost with it."""

_SLOTS_A_TASK = 1024
"""Slots that one process keeps busy without effort where answers take a second or more: it makes
1,700 requests a second (benchmarks/serving.json). Each round under way has as many processes, and
starting one takes seconds of a core."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Generators:
    """The applications of a run: which one answers a purpose, and how many slots each has.

    ``leave_cores`` says whether they leave cores of the cluster to those who ask.
    ``replicas`` are those that have the slots together, once all are there, and ``replica_slots``
    how many of them each one has.
    """

    apps: dict[Purpose, str]
    slots: dict[str, int]
    leave_cores: bool = False
    replicas: dict[str, int] = field(default_factory=dict)
    replica_slots: dict[str, int] = field(default_factory=dict)

    @property
    def tasks(self) -> int:
        """Processes that it takes to keep every slot busy."""
        return max(1, -(-sum(self.slots.values()) // _SLOTS_A_TASK))

    def windows(self) -> dict[str, int]:
        """Requests that one of `tasks` processes may have on their way, by application."""
        return {
            app: max(1, round(_IN_FLIGHT * slots / self.tasks)) for app, slots in self.slots.items()
        }


def shared_name(location: str) -> str:
    """What everything of a run is named by that a cluster shares with others."""
    return f"ray_si-{hashlib.sha256(location.rstrip('/').encode()).hexdigest()[:8]}"


def remove_predecessors(
    name: str,
    fencing: int,
    *,
    keep: int | None = None,
    check: Callable[[], None] = lambda: None,
) -> None:
    """End the applications of a run's earlier drivers, which died or lost the lease.

    Those of the number ``keep`` stay, since this driver goes on with them. The others hold what
    new replicas need, so it returns once they are gone, or after half a minute if they do not go.
    ``check`` is called between looks, and what it raises ends the wait.
    """
    end = time.monotonic() + _REMOVAL_S
    asked: set[str] = set()
    while time.monotonic() < end:
        numbers = {app: is_of(name, app) for app in serve.status().applications}
        left = {app for app, n in numbers.items() if n is not None and n < fencing and n != keep}
        for app in left - asked:
            serve.delete(app, _blocking=False)
        if not left:
            return
        asked |= left
        check()
        time.sleep(_LOOK_S)
    logger.warning("replicas of an earlier driver are still there: %s", ", ".join(sorted(left)))


class Serving:
    """The applications of one driver of a run; ``with`` deploys them and removes them again.

    They are named by ``name``, which is the run's, and ``fencing``, the number of the driver's
    lease, so no other driver removes them unless it has succeeded this one: see
    `remove_predecessors`, which comes before. With a ``custody`` that has adopted those of an
    earlier driver, these are gone on with, where they still run; without one it takes its own.

    Connects to nothing by itself: `ray.init` comes before. Serve is started without an HTTP proxy
    where it isn't running yet; replicas wait for room (see `ray_si.build.checks`). Returns with the
    first ``min_replicas`` of each generator; the others join in later, and those that fail to start
    are replaced, of which ``notify`` is told. Raises EngineError where a model cannot be loaded on
    any replica.
    """

    def __init__(
        self,
        config: RunConfig,
        name: str,
        fencing: int,
        *,
        embedder: bool,
        notify: Callable[[str], None] = lambda message: None,
        check: Callable[[], None] = lambda: None,
        custody: Custody | None = None,
    ) -> None:
        self._config, self._name, self._fencing = config, name, fencing
        self._notify, self._check = notify, check
        self._batches: dict[str, int] = {}
        self._with_embedder = embedder
        self._embedder: Any = None  # its handle
        self._dimension: int | None = None  # of what it gives
        self._lock = threading.Lock()
        self.embedding_s = 0.0
        """Seconds that the embedders have worked so far, divided by the number that answers."""
        self._answered: dict[str, float] = {}  # when, by embedder
        self._custody = custody
        self._own = ExitStack()
        self._before = Usage()
        self.versions: dict[str, dict[str, str]] = {}
        """Of the replicas, by engine, once they run."""
        self._name_apps(fencing)

    def _name_apps(self, number: int) -> None:
        self._embedder_app = f"{self._name}-{number:05d}-embedder"
        self._apps = {s: f"{self._name}-{number:05d}-{s}" for s in self._config.generators}

    @property
    def _every_app(self) -> list[str]:
        return [*self._apps.values()] + [self._embedder_app] * self._with_embedder

    @property
    def generators(self) -> Generators:
        """Where to ask."""
        config = self._config
        slots = {
            app: self._slots_of(app, config.generators[name]) for name, app in self._apps.items()
        }
        return Generators(
            apps={name: self._apps[config.section_for(name)] for name in get_args(Purpose)},
            slots=slots,
            replicas={
                app: config.generators[name].most_replicas for name, app in self._apps.items()
            },
            replica_slots={
                app: max(1, slots[app] // config.generators[name].most_replicas)
                for name, app in self._apps.items()
            },
        )

    def _slots_of(self, app: str, generator: Generator) -> int:
        """What the engine says, once it runs; an endpoint's are those of all replicas together."""
        most = generator.most_replicas
        if generator.engine == "openai" or app not in self._batches:
            return most * -(-generator.slots // most)
        return most * self._batches[app]

    def usage(self) -> Usage:
        """What all replicas have done for this driver; raises RayError where the meter is gone."""
        assert self._custody is not None, "the applications are not there"
        usage: Usage = ray.get(self._custody.custodian.total.remote(), timeout=5)
        return usage.since(self._before)

    def __enter__(self) -> Serving:
        quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
        serve.start(proxy_location="Disabled", logging_config=quiet)
        if self._custody is None:
            identity = identity_of(self._config, embedder=self._with_embedder)
            self._custody = self._own.enter_context(Custody(self._name, self._fencing, identity))
        try:
            if not self._goes_on(self._custody):
                self._deploy(self._custody, quiet)
            self._wait_for_the_first()
            for app in self._apps.values():
                with suppress(RayError, TimeoutError):  # it died just now; what is usual will do
                    told = serve.get_app_handle(app).slots.remote()
                    self._batches[app] = told.result(timeout_s=_SLOTS_S)
            with suppress(RayError):
                self.versions = ray.get(self._custody.custodian.versions.remote(), timeout=5)
        except BaseException:
            self._delete()
            raise
        return self

    def _goes_on(self, custody: Custody) -> bool:
        """Whether an earlier driver's applications are there, and are these from now on."""
        if custody.adopted is None:
            return False
        self._name_apps(custody.adopted)
        applications = serve.status().applications
        statuses = [applications[app].status for app in self._every_app if app in applications]
        before = custody.usage()
        if before is None or statuses != [ApplicationStatus.RUNNING] * len(self._every_app):
            custody.begins_anew(with_custodian=before is not None)
            remove_predecessors(self._name, self._fencing, check=self._check)
            self._name_apps(self._fencing)
            return False
        self._before = before
        custody.goes_on()
        self._notify("going on with the replicas of the driver before")
        return True

    def _deploy(self, custody: Custody, quiet: LoggingConfig) -> None:
        custody.deploys()
        # meanwhile Ray notes, for the whole process, which modules are pickled by value
        with _declaring:
            targets = self._targets(custody.custodian, quiet)
            serve.run_many(targets, wait_for_applications_running=False)

    def _targets(self, meter: Any, quiet: LoggingConfig) -> list[serve.RunTarget]:
        deployments = {app: self._generator(section, meter) for section, app in self._apps.items()}
        if self._with_embedder:
            embedder = self._config.embedder
            deployments[self._embedder_app] = (
                serve.deployment(EmbedderReplica)
                .options(
                    num_replicas=embedder.replicas,
                    max_ongoing_requests=_EMBEDDING,
                    max_constructor_retry_count=2,
                    ray_actor_options={"num_cpus": embedder.cpus, "num_gpus": embedder.gpus},
                )
                .bind(for_workers(embedder.model), embedding_device(embedder.gpus))
            )
        return [
            serve.RunTarget(deployment, name=app, route_prefix=None, logging_config=quiet)
            for app, deployment in deployments.items()
        ]

    def _wait_for_the_first(self) -> None:
        """Return once every application has the replicas with which work begins."""
        wanted = {
            app: self._config.generators[section].min_replicas
            for section, app in self._apps.items()
        }
        if self._with_embedder:
            wanted[self._embedder_app] = 1
        told = ""
        while wanted:
            self._check()
            applications = serve.status().applications
            for app in list(wanted):
                status = applications.get(app)
                if status is None:
                    continue
                if status.status == ApplicationStatus.DEPLOY_FAILED:
                    reason = start_failure(app) or status.message
                    raise EngineError(f"a model could not be started on its replica: {reason}")
                states = [d.replica_states for d in status.deployments.values()]
                if sum(state.get(ReplicaState.RUNNING, 0) for state in states) >= wanted[app]:
                    del wanted[app]
            if wanted:
                with suppress(RayError):  # the meter is not there yet
                    if (trouble := self.usage().trouble) != told:
                        told = trouble
                        self._notify(trouble)
                time.sleep(_LOOK_S)

    def _generator(self, section: str, meter: Any) -> Any:
        generator = self._config.generators[section]
        # they go when the run ends, and nobody wants the answers they still owe
        scaling: dict[str, Any] = {
            "num_replicas": generator.replicas,
            "graceful_shutdown_timeout_s": 1.0,
        }
        if generator.max_replicas:
            scaling = {
                "autoscaling_config": AutoscalingConfig(
                    min_replicas=generator.replicas,
                    max_replicas=generator.max_replicas,
                    policy=AutoscalingPolicy(policy_function=_POLICY),
                    upscale_delay_s=5.0,
                )
            }
        return (
            serve.deployment(GeneratorReplica)
            .options(
                **scaling,
                max_ongoing_requests=_NO_BOUND,
                # each may fail once, as on a node that is broken, before it is the model's fault
                max_constructor_retry_count=generator.replicas + 1,
                health_check_period_s=5.0,
                request_router_config=_router_config(),
                **placement(generator).deployment_options(),
            )
            .bind(*engine_arguments(generator), generator.request_timeout_s, meter, section)
        )

    def __exit__(self, *_: object) -> None:
        self._delete()

    def _delete(self) -> None:
        """Remove the applications, unless a later driver goes on with them."""
        if self._custody is not None and self._custody.counts():
            for app in self._every_app:
                serve.delete(app, _blocking=False)
        self._own.close()

    def release_embedder(self) -> None:
        """Give back what the embedders hold; nothing is embedded after that."""
        if self._with_embedder and self._custody is not None and self._custody.counts():
            self._with_embedder = False
            serve.delete(self._embedder_app, _blocking=False)

    def encode(self, texts: list[str]) -> np.ndarray:
        """Embeddings of the texts, float32, shape (n, dimension); for several threads at a time.

        Raises GenerationError where the embedders fail or hang, EngineError where they give now
        this many numbers for a text and now that.
        """
        if self._embedder is None:
            self._embedder = serve.get_app_handle(self._embedder_app)
        parts = [texts[i : i + _EMBED_SIZE] for i in range(0, len(texts), _EMBED_SIZE)]
        vectors = []
        for part in parts:
            part_vectors, seconds, whose = _encode(self._embedder, part)
            vectors.append(part_vectors)
            with self._lock:
                self._answered[whose] = now = time.monotonic()
                at_work = sum(now - last < _AT_WORK_S for last in self._answered.values())
                self.embedding_s += seconds / min(at_work, self._config.embedder.replicas)
        widths = {self._dimension or vectors[0].shape[1], *(part.shape[1] for part in vectors)}
        if len(widths) > 1:
            raise EngineError(
                f"the embedder {self._config.embedder.model} gives {min(widths)} numbers for one "
                f"text and {max(widths)} for another: its replicas run different models"
            )
        (self._dimension,) = widths
        return np.concatenate(vectors)


def _router_config() -> RequestRouterConfig:
    """By requests; made again where Serve makes one for another build of this process meanwhile.

    Each notes, for the whole process, that its module is pickled by value, and takes that back: the
    second to do so finds nothing to take back, a ValueError.
    """
    for _ in range(_DECLARATIONS):
        with suppress(ValueError):
            return RequestRouterConfig(request_router_class=FewestRequestsOfTwo)
    return RequestRouterConfig(request_router_class=FewestRequestsOfTwo)


def _encode(handle: Any, texts: list[str]) -> tuple[np.ndarray, float, str]:
    for attempt in range(_ATTEMPTS):
        call = handle.encode.remote(texts)
        try:
            vectors, seconds, whose = call.result(timeout_s=_EMBED_S)
        except TimeoutError:
            with suppress(RayError, RayServeException):  # it has failed by itself
                call.cancel()
            reason = (
                f"it has not answered for {_EMBED_S:g} s: it hangs, its node is gone, or it needs "
                "more of embedder.replicas, .cpus or .gpus"
            )
            logger.warning("the embedder failed (%s); trying again", reason)
        except (RayError, RayServeException) as error:
            reason = short(error)
            logger.warning("the embedder failed (%s); trying again", reason)
            if attempt + 1 < _ATTEMPTS:
                time.sleep(2**attempt)
        else:
            if len(vectors) != len(texts):
                raise GenerationError(
                    f"the embedder gave {len(vectors)} embeddings for {len(texts)} texts"
                )
            return vectors, seconds, whose
    raise GenerationError(f"the embedder failed {_ATTEMPTS} times in a row: {reason}")
