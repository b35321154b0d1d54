"""A look from where the replicas will run: whether all is there that their engines need."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from ray_si.config import RunConfig
from ray_si.engines import registry
from ray_si.engines.base import Request
from ray_si.engines.memory import free_memory
from ray_si.errors import EngineError
from ray_si.serving.placement import Placement, engine_arguments, for_workers, placement

_WAIT_S = 120.0
"""Seconds that a probe may wait for a replica's place and look around there."""

logger = logging.getLogger(__name__)


def check_engines(
    config: RunConfig,
    longest: Sequence[Request],
    *,
    embedder: bool,
    notify: Callable[[str], None] = lambda message: None,
) -> None:
    """Ask one task for each generator, on a replica's own resources, for what its engine needs.

    Package, model, context, heads, adapter, and the weights' size against the memory there. Raises
    EngineError with what is wrong, in one line. Where no replica's place is free for long, the
    replicas themselves have the word; a warning goes to ``notify``.
    """
    probes = {}
    for section, generator in config.generators.items():
        if generator.engine in registry.FROM_THE_DRIVER:
            continue
        expected = [item for item in longest if config.generator_for(item.purpose) is generator]
        arguments = (*engine_arguments(generator), expected, generator.vllm.gpus)
        options = placement(generator).probe_options()
        probes[section] = ray.remote(_look_at_engine).options(**options).remote(*arguments)
    if embedder:
        place = Placement(config.embedder.cpus, config.embedder.gpus).probe_options()
        model = for_workers(config.embedder.model)
        probes["embedder"] = ray.remote(_look_at_model).options(**place).remote(model)
    for section, probe in probes.items():
        try:
            problem, warning = ray.get(probe, timeout=_WAIT_S)
        except GetTimeoutError:
            ray.cancel(probe, force=True)
            notify(f"no place for a replica of {section} is free yet: its engine is not checked")
            continue
        except RayError as error:  # the node left, say
            logger.warning("the engine of %s could not be checked: %s", section, error)
            continue
        if problem:
            raise EngineError(f"{section}, where its replicas run: {problem}")
        if warning:
            notify(f"{section}: {warning}")


def _look_at_engine(
    engine: str,
    model: str | None,
    options: dict[str, Any],
    longest: Sequence[Request],
    cards: int,
) -> tuple[str | None, str | None]:
    """What is wrong, and what may be. Runs in a Ray task."""
    try:
        registry.check(engine, model, options, longest)
        return None, registry.check_fit(
            engine, model, options, free_memory(bool(ray.get_gpu_ids())), cards
        )
    except EngineError as error:
        return str(error), None


def _look_at_model(model: str) -> tuple[str | None, str | None]:
    """What is wrong with the embedder's model. Runs in a Ray task."""
    try:
        registry.check_embedder(model)
    except EngineError as error:
        return str(error), None
    return None, None
