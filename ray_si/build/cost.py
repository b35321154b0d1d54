"""What a cluster costs while a build runs on it, by the prices that its nodes tell."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray

from ray_si.config.nodes import PRICE


@dataclass
class ClusterCost:
    """Nodes with a price, what they cost an hour now, and what they cost since this was made."""

    nodes: int = 0
    dollars_per_hour: float = 0.0
    dollars: float = 0.0
    _since: float = field(default_factory=time.monotonic)

    def look(self) -> None:
        """Take the nodes as they are; the time until now was paid at the former rate."""
        self.note([node.get("Labels", {}) for node in ray.nodes() if node["Alive"]])

    def note(self, labels: list[dict[str, str]], now: float | None = None) -> None:
        """Take the labels of the nodes that there are at a moment (`time.monotonic`)."""
        now = time.monotonic() if now is None else now
        self.dollars += self.dollars_per_hour * (now - self._since) / 3600
        self._since = now
        prices = []
        for each in labels:
            with suppress(ValueError):  # somebody else's label
                prices += [float(each[PRICE])] if PRICE in each else []
        self.nodes, self.dollars_per_hour = len(prices), sum(prices)

    def as_dict(self) -> dict[str, Any]:
        """For a status; empty where no node has told a price."""
        if not self.nodes and not self.dollars:
            return {}
        return {
            "nodes": self.nodes,
            "dollars_per_hour": round(self.dollars_per_hour, 2),
            "dollars": round(self.dollars, 2),
        }
