"""Ray Serve applications for the generators and the embedder of a run."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import ray
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.schema import LoggingConfig

from ray_si.config import Generator, RunConfig
from ray_si.engines.base import Purpose
from ray_si.errors import EngineError, GenerationError
from ray_si.serving.client import short, start_failure
from ray_si.serving.placement import engine_arguments, for_workers, placement
from ray_si.serving.replicas import EmbedderReplica, GeneratorReplica
from ray_si.serving.routing import FreshTwoChoices
from ray_si.serving.usage import Meter, Usage

_EMBED_SIZE = 1024
"""Texts in one embedder call."""

_ATTEMPTS = 4
"""Tries of an embedder call."""

_NO_BOUND = 1 << 14
"""Calls that a replica takes at a time: clients bound what is on its way, and replicas queue it."""

_IN_FLIGHT = 1.5
"""Requests on their way for each slot: a replica should find its next one waiting. Not many more,
since what waits on a replica is lost with it."""

_SLOTS_A_TASK = 256
"""Slots that one process keeps busy without effort (see benchmarks/serving.json)."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Generators:
    """The applications of a run: which one answers a purpose, and how many slots each has."""

    apps: dict[Purpose, str]
    slots: dict[str, int]

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


class Serving:
    """The applications of one driver of a run; ``with`` deploys them and removes them again.

    They are named by ``name``, which is the run's, and ``fencing``, the number of the driver's
    lease, so no other driver removes them unless it has succeeded this one. Those of predecessors,
    which died or lost the lease, are removed first: they hold what the new replicas need.

    Connects to nothing by itself: `ray.init` comes before. Serve is started without an HTTP proxy
    where it isn't running yet; replicas wait for room (see `ray_si.build.checks`). Raises
    EngineError where a model cannot be loaded on its replica.
    """

    def __init__(self, config: RunConfig, name: str, fencing: int, *, embedder: bool) -> None:
        self._config, self._fencing = config, fencing
        self._with_embedder = embedder
        self._meter: Any = None
        self._name = name
        self._embedder_app = f"{name}-{fencing:05d}-embedder"
        self._apps = {section: f"{name}-{fencing:05d}-{section}" for section in config.generators}

    @property
    def generators(self) -> Generators:
        """Where to ask."""
        config = self._config
        return Generators(
            apps={name: self._apps[config.section_for(name)] for name in get_args(Purpose)},
            slots={app: config.generators[name].slots for name, app in self._apps.items()},
        )

    def usage(self) -> Usage:
        """What all replicas have done so far; raises RayError where the meter is gone."""
        usage: Usage = ray.get(self._meter.total.remote(), timeout=5)
        return usage

    def __enter__(self) -> Serving:
        quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
        serve.start(proxy_location="Disabled", logging_config=quiet)
        self._remove_predecessors()
        self._meter = ray.remote(num_cpus=0, max_restarts=-1)(Meter).remote()
        deployments = {
            app: self._generator(self._config.generators[section])
            for section, app in self._apps.items()
        }
        if self._with_embedder:
            embedder = self._config.embedder
            deployments[self._embedder_app] = (
                serve.deployment(EmbedderReplica)
                .options(
                    max_constructor_retry_count=2,
                    ray_actor_options={"num_cpus": embedder.cpus, "num_gpus": embedder.gpus},
                )
                .bind(for_workers(embedder.model))
            )
        targets = [
            serve.RunTarget(deployment, name=app, route_prefix=None, logging_config=quiet)
            for app, deployment in deployments.items()
        ]
        try:
            serve.run_many(targets)
        except RuntimeError as error:
            reasons = filter(None, map(start_failure, deployments))
            reason = next(reasons, str(error))
            self._delete()
            raise EngineError(f"a model could not be started on its replica: {reason}") from error
        except BaseException:
            self._delete()
            raise
        return self

    def _generator(self, generator: Generator) -> Any:
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
                    target_ongoing_requests=max(1, generator.slots // generator.max_replicas),
                    upscale_delay_s=5.0,
                )
            }
        return (
            serve.deployment(GeneratorReplica)
            .options(
                **scaling,
                max_ongoing_requests=_NO_BOUND,
                max_constructor_retry_count=2,
                health_check_period_s=5.0,
                request_router_config=RequestRouterConfig(request_router_class=FreshTwoChoices),
                **placement(generator).deployment_options(),
            )
            .bind(*engine_arguments(generator), generator.request_timeout_s, self._meter)
        )

    def __exit__(self, *_: object) -> None:
        self._delete()

    def _remove_predecessors(self) -> None:
        for app in serve.status().applications:
            match = re.fullmatch(rf"{re.escape(self._name)}-(\d{{5,}})-\w+", app)
            if match and int(match[1]) < self._fencing:
                serve.delete(app, _blocking=False)

    def _delete(self) -> None:
        names = [*self._apps.values()] + [self._embedder_app] * self._with_embedder
        for name in names:
            serve.delete(name, _blocking=False)
        # Serve keeps the deployments' arguments, and with them the actor alive
        ray.kill(self._meter)

    def encode(self, texts: list[str]) -> np.ndarray:
        """Embeddings of the texts, by the embedder's replica."""
        handle = serve.get_app_handle(self._embedder_app)
        parts = [texts[i : i + _EMBED_SIZE] for i in range(0, len(texts), _EMBED_SIZE)]
        return np.concatenate([_encode(handle, part) for part in parts])


def _encode(handle: Any, texts: list[str]) -> np.ndarray:
    for attempt in range(_ATTEMPTS):
        try:
            vectors: np.ndarray = handle.encode.remote(texts).result()
        except (RayActorError, RayTaskError) as error:
            logger.warning("the embedder failed (%s); trying again", short(error))
            time.sleep(2**attempt)
        else:
            return vectors
    raise GenerationError(f"the embedder failed {_ATTEMPTS} times in a row")
