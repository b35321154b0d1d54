"""What a cluster must have before models are loaded on it: room for them, and sight of the run."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_si.build.cost import affordable, check_ceiling, living_nodes, with_replicas
from ray_si.config import RunConfig
from ray_si.errors import ConfigError, RaySIError, StorageError
from ray_si.serving.placement import embedder_placement, in_words, placement, shards_on_gpus
from ray_si.storage.objects import open_objects

WAIT_VARIABLE = "RAY_SI_NODES_WAIT_S"
"""Environment variable with the seconds to wait for nodes, where the two below don't fit."""

_JOIN_S = 60.0
"""Seconds that the nodes of a fixed cluster may take to join it."""

_LAUNCH_S = 1800.0
"""Seconds that an autoscaler may take to bring nodes."""

_PROBE_S = 120.0
"""Seconds that a node may take to start a worker and to ask the store."""

_UNLIKE = "node:", "memory", "object_store_memory"
"""Resources in which nodes of one kind differ."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Demand:
    """``count`` replicas, or shards, and what each takes of one node; ``who`` names one of them."""

    who: str
    count: int
    resources: dict[str, float]


def demands(config: RunConfig, *, embedder: bool, least: bool = False) -> list[Demand]:
    """What the run's replicas take, and with an embedder the gate's shards.

    With ``least``, those replicas with which work begins.
    """
    wanted = []
    for section, part in config.generators.items():
        replicas = part.min_replicas if least else part.replicas
        who = f"a replica of {section}"
        wanted += [Demand(who, replicas, node) for node in placement(part).on_nodes()]
    if embedder:
        (resources,) = embedder_placement(config.embedder).on_nodes()
        replicas = 1 if least else config.embedder.replicas
        wanted.append(Demand("a replica of embedder", replicas, resources))
        wanted += [Demand("a shard of dedup", 1, node) for node in shards_on_gpus(config.dedup)]
    return wanted


def lack(wanted: list[Demand], nodes: list[dict[str, float]]) -> str | None:
    """What these nodes (resources by name) are short of, in words; None if they'll do.

    In use by others counts as there: that ends. Placing is left to Ray, so a set of demands that
    fits one by one and in sum may still not fit together.
    """
    for name in ("CPU", "GPU"):
        need = sum(demand.count * demand.resources[name] for demand in wanted)
        have = sum(node.get(name, 0.0) for node in nodes)
        if need > have:
            return f"the configuration asks for {need:g} {name} and there are {have:g}"
    for demand in wanted:
        if not any(_fits(demand, node) for node in nodes):
            most = max((node.get("GPU", 0.0), node.get("CPU", 0.0)) for node in nodes)
            return (
                f"{demand.who} asks for {in_words(demand.resources)} on one node, "
                f"and no node has that; the largest has {most[1]:g} CPU and {most[0]:g} GPU"
            )
    return None


def room_for_cores(*, adopted: bool) -> float:
    """Cores that nobody has; with ``adopted``, where the models have theirs already, all cores."""
    if adopted:
        return sum(node.get("CPU", 0.0) for node in _nodes())
    return _free_cores()


def leaves_cores(config: RunConfig, cores: float, before: float) -> bool:
    """Whether so many are free besides what the models may take at most.

    ``before`` is the room that there was for all of these, see `room_for_cores`, since some models
    may still be on their way. What is free now counts too: another build may have begun meanwhile,
    and of two that fill a cluster together at least one sees it full, so that they do not wait for
    each other's cores.
    """
    taken = sum(part.cpus * part.most_replicas for part in config.generators.values())
    taken += config.embedder.cpus * config.embedder.replicas
    return min(before - taken, _free_cores()) >= cores


def _free_cores() -> float:
    return float(ray.available_resources().get("CPU", 0.0))


def wait_for_room(
    config: RunConfig,
    *,
    embedder: bool,
    is_ours: bool,
    notify: Callable[[str], None] = lambda message: None,
    check: Callable[[], None] = lambda: None,
) -> RunConfig:
    """Return once the cluster has room for the replicas with which work begins.

    Its autoscaler is asked for room for all of them, and what still lacks is told. Where Ray was
    started on this machine, all must have room at once, since nothing will join. Raises ConfigError
    with what is asked and what is there: at once on this machine, else after a minute, or half an
    hour where there is an autoscaler.

    On a cluster ``budget.dollars_per_hour`` bounds what comes: the configuration that is returned
    has no more replicas than that has room for. What nodes cost is known of those that are there;
    so only the first replicas are asked for until there are some.

    ``check`` is called each second of waiting, which ends with what it raises.
    """
    ceiling = None if is_ours else config.budget.dollars_per_hour
    every = demands(config, embedder=embedder)
    least = every if is_ours else demands(config, embedder=embedder, least=True)

    def check_each() -> None:
        check()
        if ceiling:
            check_ceiling(living_nodes(), ceiling)

    if ceiling:
        check_ceiling(living_nodes(), ceiling)
        affordable(config, living_nodes(), embedder=embedder)
    shortage = lack(least, _nodes())
    if shortage:
        asked = least if ceiling else every
        shortage = _wait(least, asked, shortage, is_ours=is_ours, notify=notify, check=check_each)
    if shortage:
        raise ConfigError(
            f"{shortage}: set generator.replicas, .cpus or .gpus, embedder.cpus or .gpus, or "
            "dedup.shards or .gpus"
        )
    if ceiling:
        config = _within(config, embedder=embedder, notify=notify)
        every = demands(config, embedder=embedder)
    if later := lack(every, _nodes()):
        notify(f"{later}; beginning with the replicas that have room")
    return config


def _within(config: RunConfig, *, embedder: bool, notify: Callable[[str], None]) -> RunConfig:
    """The configuration with the replicas that its ceiling has room for; fewer are told of."""
    counts = affordable(config, living_nodes(), embedder=embedder)
    for section, count in counts.items():
        part = getattr(config, section)
        wanted = getattr(part, "max_replicas", None) or part.replicas
        if count < wanted:
            notify(
                f"budget.dollars_per_hour {config.budget.dollars_per_hour:g} has room for {count} "
                f"of {wanted} replicas of {section}"
            )
    return with_replicas(config, counts)


def _wait(
    least: list[Demand],
    asked: list[Demand],
    shortage: str,
    *,
    is_ours: bool,
    notify: Callable[[str], None],
    check: Callable[[], None],
) -> str | None:
    """What the cluster is still short of after the time that nodes may take to join it."""
    grows = not is_ours and is_autoscaler_v2(fetch_from_server=True)
    seconds = 0.0 if is_ours else _LAUNCH_S if grows else _JOIN_S
    if not is_ours and WAIT_VARIABLE in os.environ:
        seconds = _seconds(os.environ[WAIT_VARIABLE])
    if not seconds:
        return shortage
    notify(f"{shortage}; waiting up to {seconds:g} s for more nodes")
    bundles = [dict(d.resources) for d in asked for _ in range(d.count)]
    end = time.monotonic() + seconds
    left: str | None = shortage
    try:
        while left and time.monotonic() < end:
            if grows:  # again and again: of all requests only the last counts, Ray Data's included
                request_resources(bundles=bundles)
            time.sleep(1)
            check()
            left = lack(least, _nodes())
    finally:
        if grows:  # replicas ask for themselves from here on
            request_resources(bundles=[])
    return f"{left} after {seconds:g} s of waiting ({WAIT_VARIABLE})" if left else None


def check_location(location: str) -> None:
    """Try a run's location from a node of each kind that the cluster has, for writing.

    Raises StorageError naming nodes that cannot use it where others can, or that mean a folder of
    their own by it. Leaves nothing behind.
    """
    probe = ray.remote(num_cpus=0, max_retries=1)(_probe)
    with _marker(location) as marker:
        answers = {
            name: probe.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(location, marker)
            for name, node in _kinds()
        }
        for name, answer in answers.items():
            try:
                problem = ray.get(answer, timeout=_PROBE_S)
            except RayError as error:  # a node that left, or is too busy: no word on the location
                logger.warning("%s could not be asked about %s: %s", name, location, error)
                continue
            if problem:
                raise StorageError(
                    f"nodes like {name} cannot use {location}: {problem} (each node needs its own "
                    "access to the run, by a role, its environment, or shared storage)"
                )


def _probe(location: str, marker: str | None) -> str | None:
    """What is wrong with the location, seen from here. Runs in a Ray task."""
    if marker and not Path(marker).exists():
        return "it is another folder there than here; use storage that all share, or s3://"
    try:
        open_objects(location).check(write=True)
    except RaySIError as error:
        return str(error)
    return None


@contextmanager
def _marker(location: str) -> Iterator[str | None]:
    """A file for a while where a run's folder is or will be; None for places that are no folder."""
    if "://" in location:
        yield None
        return
    folder = next(path for path in (Path(location), *Path(location).parents) if path.is_dir())
    with tempfile.NamedTemporaryFile(prefix=".tmp-", dir=folder) as file:
        yield file.name


def _fits(demand: Demand, node: dict[str, float]) -> bool:
    return all(node.get(name, 0.0) >= value for name, value in demand.resources.items())


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _kinds() -> Iterator[tuple[str, dict[str, Any]]]:
    """An address and node for each set of resources among the nodes."""
    seen = set()
    for node in ray.nodes():
        kind = frozenset(
            item for item in node["Resources"].items() if not item[0].startswith(_UNLIKE)
        )
        if node["Alive"] and kind not in seen:
            seen.add(kind)
            shown = {k: v for k, v in sorted(kind) if k in ("CPU", "GPU")}
            what = ", ".join(f"{value:g} {name}" for name, value in shown.items())
            yield f"{node['NodeManagerAddress']} ({what or 'no CPU'})", node


def _seconds(text: str) -> float:
    try:
        return max(0.0, float(text))
    except ValueError as error:
        raise ConfigError(f"{WAIT_VARIABLE}={text} is not a number of seconds") from error
