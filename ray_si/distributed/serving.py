"""Ray Serve applications for the generator and the embedder, and calls to them."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.schema import ApplicationStatus, LoggingConfig

from ray_si.config import RunConfig
from ray_si.engines import bundled, registry
from ray_si.engines.base import Completion, Request
from ray_si.errors import ConfigError, EngineError, GenerationError
from ray_si.storage.objects import absolute

_CALL_SIZE = 16
"""Requests in one Serve call: a call costs the same for one as for many."""

_EMBED_SIZE = 1024
"""Texts in one embedder call."""

_ATTEMPTS = 4
"""Tries of a single request whose replica dies or raises, before it becomes an error row."""

logger = logging.getLogger(__name__)


class GeneratorReplica:
    """One engine behind a handle."""

    def __init__(self, engine: str, model: str | None, options: dict[str, Any]) -> None:
        self._engine = registry.create(engine, model, options)

    async def generate(self, requests: list[Request]) -> list[Completion]:
        """As many completions as requests, in order."""
        return list(await asyncio.gather(*map(self._engine.generate, requests)))


class EmbedderReplica:
    """One sentence-transformers model behind a handle."""

    def __init__(self, model: str) -> None:
        self._embedder = registry.embedder(model)

    def encode(self, texts: list[str]) -> np.ndarray:
        """Embeddings, float32, shape (len(texts), dimension)."""
        return self._embedder.encode(texts)


class Serving:
    """The applications of one run; ``with`` deploys them and removes them again.

    Connects to nothing by itself: `ray.init` comes before. Serve is started without an HTTP proxy
    where it isn't running yet. Raises EngineError where a model cannot be loaded on its replica,
    and ConfigError where the replicas need more than there is, unless the cluster ``may_grow``.
    """

    def __init__(
        self, config: RunConfig, name: str, *, embedder: bool, may_grow: bool = True
    ) -> None:
        self.generator_app = f"{name}-generator"
        self.embedder_app = f"{name}-embedder"
        self._config = config
        self._with_embedder = embedder
        self._may_grow = may_grow

    def __enter__(self) -> Serving:
        self._check_resources()
        quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
        serve.start(proxy_location="Disabled", logging_config=quiet)
        generator = self._config.generator
        options = generator.engine_options()
        if "recording" in options:
            options["recording"] = _for_workers(options["recording"])
        targets = [
            serve.RunTarget(
                serve.deployment(GeneratorReplica)
                .options(
                    num_replicas=generator.replicas,
                    max_ongoing_requests=max(4, 4 * generator.max_batch // _CALL_SIZE),
                    max_constructor_retry_count=2,
                    ray_actor_options={"num_cpus": generator.cpus, "num_gpus": generator.gpus},
                )
                .bind(generator.engine, _for_workers(generator.model), options),
                name=self.generator_app,
                route_prefix=None,
                logging_config=quiet,
            )
        ]
        if self._with_embedder:
            embedder = self._config.embedder
            targets.append(
                serve.RunTarget(
                    serve.deployment(EmbedderReplica)
                    .options(
                        max_constructor_retry_count=2,
                        ray_actor_options={"num_cpus": embedder.cpus, "num_gpus": embedder.gpus},
                    )
                    .bind(_for_workers(embedder.model)),
                    name=self.embedder_app,
                    route_prefix=None,
                    logging_config=quiet,
                )
            )
        try:
            serve.run_many(targets)
        except RuntimeError as error:
            reason = _failure(self.generator_app) or _failure(self.embedder_app) or str(error)
            self._delete()
            raise EngineError(f"a model could not be started on its replica: {reason}") from error
        except BaseException:
            self._delete()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._delete()

    def _delete(self) -> None:
        names = [self.generator_app] + [self.embedder_app] * self._with_embedder
        for name in names:
            serve.delete(name, _blocking=False)

    def _check_resources(self) -> None:
        generator, embedder = self._config.generator, self._config.embedder
        for resource, each, other in (
            ("CPU", generator.cpus, embedder.cpus),
            ("GPU", generator.gpus, embedder.gpus),
        ):
            need = generator.replicas * each + other * self._with_embedder
            have = ray.cluster_resources().get(resource, 0.0)
            if need > have:
                asked = f"the configuration asks for {need:g} {resource} and there are {have:g}"
                if not self._may_grow:
                    raise ConfigError(
                        f"{asked}: set generator.replicas, .cpus or .gpus or embedder.cpus or .gpus"
                    )
                logger.warning("%s: waiting until the cluster has more", asked)

    def encode(self, texts: list[str]) -> np.ndarray:
        """Embeddings of the texts, by the embedder's replica."""
        handle = serve.get_app_handle(self.embedder_app)
        parts = [texts[i : i + _EMBED_SIZE] for i in range(0, len(texts), _EMBED_SIZE)]
        return np.concatenate([_encode(handle, part) for part in parts])


def _for_workers(path: str | None) -> str | None:
    """A path that exists here, absolute, since workers have folders of their own; else as it is."""
    if path is None or path in bundled.MODELS or not Path(path).exists():
        return path
    return absolute(path)


def _encode(handle: Any, texts: list[str]) -> np.ndarray:
    for attempt in range(_ATTEMPTS):
        try:
            vectors: np.ndarray = handle.encode.remote(texts).result()
        except (RayActorError, RayTaskError) as error:
            logger.warning("the embedder failed (%s); trying again", _short(error))
            time.sleep(2**attempt)
        else:
            return vectors
    raise GenerationError(f"the embedder failed {_ATTEMPTS} times in a row")


def generate(app: str, requests: list[Request]) -> list[Completion]:
    """Answer requests through a generator application, from a driver or any Ray worker.

    As many completions as requests, in order. Replicas that die or raise are survived: their calls
    are repeated in halves until the request that does it stands alone, and after a few tries that
    one comes back with finish_reason "error".
    """
    calls = [requests[i : i + _CALL_SIZE] for i in range(0, len(requests), _CALL_SIZE)]
    completions = _together(app, calls, _ATTEMPTS)
    assert len(completions) == len(requests), "the generator lost rows"
    return completions


def _together(app: str, calls: list[list[Request]], attempts: int) -> list[Completion]:
    """Send all calls, then gather their answers in order."""
    handle = serve.get_app_handle(app)
    responses = [handle.generate.remote(call) for call in calls]
    completions: list[Completion] = []
    for call, response in zip(calls, responses, strict=True):
        try:
            completions += response.result()
        except (RayActorError, RayTaskError) as error:
            logger.warning("a generator replica failed (%s); %d again", _short(error), len(call))
            completions += _again(app, call, attempts, error)
    return completions


def _again(
    app: str, call: list[Request], attempts: int, error: RayActorError | RayTaskError
) -> list[Completion]:
    if len(call) > 1:
        middle = len(call) // 2
        return _together(app, [call[:middle], call[middle:]], attempts)
    if attempts > 1:
        return _together(app, [call], attempts - 1)
    if not _is_up(app):  # an interrupted build, say; its rows must not be blamed for that
        raise GenerationError("the generator was removed while it was needed") from error
    return [Completion("", "error", error=_short(error))]


def _is_up(app: str) -> bool:
    status = serve.status().applications.get(app)
    return status is not None and status.status != ApplicationStatus.DELETING


def _short(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _failure(app: str) -> str | None:
    """The last line of what Serve reports of a failed application."""
    status = serve.status().applications.get(app)
    for deployment in status.deployments.values() if status else ():
        found = [line for line in deployment.message.splitlines() if "Error" in line]
        if found:
            return str(found[-1].strip())
    return None
