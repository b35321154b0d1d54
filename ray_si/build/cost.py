"""What a cluster costs while a build runs on it, and may cost, by the prices that nodes tell."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from ray_si.config import RunConfig
from ray_si.config.nodes import PRICE
from ray_si.errors import ConfigError
from ray_si.serving.placement import Room, embedder_placement, fits, placement, shards_on_gpus


@dataclass(frozen=True)
class Node:
    """Resources by name, and dollars an hour; None where it tells no price."""

    resources: Mapping[str, float]
    dollars: float | None = None

    @classmethod
    def of(cls, node: Mapping[str, Any]) -> Node:
        """From an entry of ``ray.nodes()``."""
        try:
            dollars = float(node["Labels"][PRICE])
        except (KeyError, ValueError):  # none, or somebody else's label
            dollars = None
        return cls(node["Resources"], dollars)

    def holds(self, part: Mapping[str, float]) -> bool:
        """Whether there is room for these resources, with nothing else on it."""
        return fits(self.resources, part)


def living_nodes() -> list[Node]:
    """Those of the cluster that this process is connected to."""
    return [Node.of(node) for node in ray.nodes() if node["Alive"]]


def total(nodes: Iterable[Node]) -> float:
    """Dollars an hour of all that tell a price."""
    return sum(node.dollars or 0.0 for node in nodes)


@dataclass
class ClusterCost:
    """Nodes with a price, what they cost an hour now, and what they cost since this was made.

    ``ceiling`` is ``budget.dollars_per_hour``.
    """

    ceiling: float | None = None
    nodes: int = 0
    dollars_per_hour: float = 0.0
    dollars: float = 0.0
    _since: float = field(default_factory=time.monotonic)

    def look(self) -> None:
        """Take the nodes as they are; the time until now was paid at the former rate."""
        self.note(living_nodes())

    def note(self, nodes: Sequence[Node], now: float | None = None) -> None:
        """Take the nodes that there are at a moment (`time.monotonic`)."""
        now = time.monotonic() if now is None else now
        self.dollars += self.dollars_per_hour * (now - self._since) / 3600
        self._since = now
        self.nodes = sum(node.dollars is not None for node in nodes)
        self.dollars_per_hour = total(nodes)

    def as_dict(self) -> dict[str, Any]:
        """For a status; empty where no node has told a price."""
        if not self.nodes and not self.dollars:
            return {}
        return {
            "nodes": self.nodes,
            "dollars_per_hour": round(self.dollars_per_hour, 2),
            **({"at_most": self.ceiling} if self.ceiling else {}),
            "dollars": round(self.dollars, 2),
        }


def check_ceiling(nodes: Sequence[Node], ceiling: float) -> None:
    """Raise ConfigError where nodes cost more than ``budget.dollars_per_hour``, or nobody knows."""
    if all(node.dollars is None for node in nodes):
        raise ConfigError(
            f"budget.dollars_per_hour: no node of the cluster tells what it costs, by a label "
            f"{PRICE} (ray start --labels), as those of ray-si cluster render do"
        )
    cost = total(nodes)
    if cost > ceiling:
        raise ConfigError(
            f"the cluster's {len(nodes)} nodes cost ${cost:,.2f} an hour, over "
            f"budget.dollars_per_hour {ceiling:g}"
        )


def affordable(config: RunConfig, nodes: Sequence[Node], *, embedder: bool) -> dict[str, int]:
    """Replicas of each section that ``budget.dollars_per_hour`` has room for.

    They take the room of these nodes first (whoever uses it now), then that of further ones like
    them, the dearest that would do; what none of them could hold has no price that is known here,
    and counts as paid. Raises ConfigError where that is less than work begins with.
    """
    ceiling = config.budget.dollars_per_hour
    assert ceiling, "there is no ceiling"
    room = _Room(nodes, ceiling)
    parts = {name: list(placement(part).on_nodes()) for name, part in config.generators.items()}
    least = {name: part.min_replicas for name, part in config.generators.items()}
    most = {name: part.most_replicas for name, part in config.generators.items()}
    if embedder:
        parts["embedder"] = list(embedder_placement(config.embedder).on_nodes())
        least["embedder"], most["embedder"] = 1, config.embedder.replicas
        if not room.take(shards_on_gpus(config.dedup)):
            raise ConfigError(
                f"budget.dollars_per_hour {ceiling:g} has no room for the GPUs of dedup.shards: "
                f"the {len(nodes)} nodes there are cost ${total(nodes):,.2f} an hour"
            )
    counts = dict.fromkeys(parts, 0)
    for section, count in least.items():
        while counts[section] < count:
            if not room.take(parts[section]):
                raise ConfigError(
                    f"budget.dollars_per_hour {ceiling:g} has no room for {count} replicas of "
                    f"{section}: the {len(nodes)} nodes there are cost ${total(nodes):,.2f} an hour"
                )
            counts[section] += 1
    growing = set(parts)
    while growing:
        for section in sorted(growing):
            if counts[section] < most[section] and room.take(parts[section]):
                counts[section] += 1
            else:
                growing.remove(section)
    return counts


def with_replicas(config: RunConfig, counts: Mapping[str, int]) -> RunConfig:
    """The configuration with so many replicas of its sections at the most."""
    changed = {}
    for section, count in counts.items():
        part = getattr(config, section)
        numbers = {"replicas": min(part.replicas, count)}
        if getattr(part, "max_replicas", None):
            numbers["max_replicas"] = min(part.max_replicas, count)
        changed[section] = part.model_copy(update=numbers)
    return config.model_copy(update=changed)


class _Room(Room):
    """Nodes to be filled, and further ones like them for as long as the ceiling lets them come."""

    def __init__(self, nodes: Sequence[Node], ceiling: float) -> None:
        super().__init__(node.resources for node in nodes)
        self._kinds = nodes
        self._dollars = ceiling - total(nodes)

    def take(self, parts: Iterable[Mapping[str, float]]) -> bool:
        before = self._dollars
        if super().take(parts):
            return True
        self._dollars = before
        return False

    def _take(self, part: Mapping[str, float]) -> bool:
        if super()._take(part):
            return True
        node = self._further(part)
        if node is None:
            return True
        self._dollars -= node.dollars or 0.0
        if self._dollars < 0:
            return False
        self._free.append(dict(node.resources))
        return super()._take(part)

    def _further(self, part: Mapping[str, float]) -> Node | None:
        """The node that may come for it: no autoscaler brings GPUs where none are asked for."""
        kinds = [node for node in self._kinds if node.holds(part)]
        if not part.get("GPU"):
            kinds = [node for node in kinds if not node.resources.get("GPU")] or kinds
        return max(kinds, key=lambda node: node.dollars or 0.0, default=None)
