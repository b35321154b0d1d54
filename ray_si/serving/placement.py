"""What a replica or shard is given of the cluster: one place for GPUs, bundles and demands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_si.config import Generator, RunConfig
from ray_si.config.sections.dedup import Dedup, EmbedderSection
from ray_si.engines import bundled
from ray_si.errors import ConfigError
from ray_si.storage.base import absolute

_KIND = "accelerator_type:"
"""What Ray puts before a kind of GPU in the name of its resource."""

_SOME = 0.001
"""Of that resource, as Ray itself asks for it."""

_GRAIN = 5e-5
"""Half of the least of a resource that Ray counts; differences of floats are off by less."""


@dataclass(frozen=True)
class Placement:
    """Of one replica.

    ``workers`` are GPUs that vLLM's workers take, in groups of ``group`` that belong on one node;
    with none, the replica's own process has the ``gpus``.
    """

    cpus: float
    gpus: float
    accelerator: str | None = None
    workers: int = 0
    group: int = 0

    def deployment_options(self) -> dict[str, Any]:
        """For Serve. With workers, a placement group of a bundle for each GPU, as vLLM wants it.

        The replica itself is in the first bundle, of which it takes the cores. One group of workers
        stays on one node; several are packed as closely as there is room.
        """
        if not self.workers:
            actor: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": self.gpus}
            if self.accelerator:
                actor["accelerator_type"] = self.accelerator
            return {"ray_actor_options": actor}
        bundle = {"GPU": 1.0} | self._kind
        return {
            "ray_actor_options": {"num_cpus": self.cpus},
            "placement_group_bundles": [bundle | {"CPU": self.cpus}]
            + [bundle] * (self.workers - 1),
            "placement_group_strategy": "STRICT_PACK" if self.workers == self.group else "PACK",
        }

    def probe_options(self) -> dict[str, Any]:
        """For a Ray task that lands where a replica would, or where one of its workers would."""
        gpus = 1.0 if self.workers else self.gpus
        kind = {"accelerator_type": self.accelerator} if self.accelerator else {}
        return {"num_cpus": self.cpus, "num_gpus": gpus, **kind}

    def on_nodes(self) -> Iterator[dict[str, float]]:
        """Resources that have to be on one node each, for the replica to have room."""
        if not self.workers:
            yield {"CPU": self.cpus, "GPU": self.gpus} | self._kind
            return
        for first in range(0, self.workers, self.group):
            yield {"CPU": 0.0 if first else self.cpus, "GPU": float(self.group)} | self._kind

    @property
    def _kind(self) -> dict[str, float]:
        return {_KIND + self.accelerator: _SOME} if self.accelerator else {}


def placement(generator: Generator) -> Placement:
    """What a replica of this generator takes."""
    sizes = generator.vllm
    spread = generator.engine == "vllm" and sizes.gpus > 1
    return Placement(
        generator.cpus,
        generator.gpus,
        generator.accelerator,
        workers=sizes.gpus if spread else 0,
        group=sizes.tensor_parallel_size if spread else 0,
    )


def embedder_placement(embedder: EmbedderSection) -> Placement:
    """What a replica of the embedder takes."""
    return Placement(embedder.cpus, embedder.gpus)


def shards_on_gpus(dedup: Dedup) -> list[dict[str, float]]:
    """What the gate's shards take of a node each; none where they take no GPU."""
    return [{"CPU": 0.0, "GPU": dedup.gpus}] * dedup.shards if dedup.gpus else []


def fits(free: Mapping[str, float], part: Mapping[str, float]) -> bool:
    """Whether there is room for these resources in what a node has left."""
    return all(free.get(name, 0.0) >= value - _GRAIN for name, value in part.items())


class Room:
    """Nodes (resources by name) to be filled, each part on the first that has room for it."""

    def __init__(self, nodes: Iterable[Mapping[str, float]]) -> None:
        self._free = [dict(node) for node in nodes]

    def take(self, parts: Iterable[Mapping[str, float]]) -> bool:
        """Room for all the parts; nothing is taken where there is not enough."""
        before = [dict(free) for free in self._free]
        if all(self._take(part) for part in parts):
            return True
        self._free = before
        return False

    def _take(self, part: Mapping[str, float]) -> bool:
        free = next((free for free in self._free if fits(free, part)), None)
        if free is None:
            return False
        for name, value in part.items():
            if value:
                free[name] -= value
        return True


def engine_arguments(generator: Generator) -> tuple[str, str | None, dict[str, Any]]:
    """Engine, model and options as `ray_si.engines.registry.create` takes them on a replica."""
    options = generator.engine_options()
    for name in ("recording", "lora"):
        if name in options:
            options[name] = for_workers(options[name])
    return generator.engine, for_workers(generator.model), options


def for_workers(path: str | None) -> str | None:
    """A path that exists here, absolute, since workers have folders of their own; else as it is."""
    if path is None or path in bundled.MODELS or not Path(path).exists():
        return path
    return absolute(path)


def check_models(config: RunConfig) -> None:
    """Refuse models and adapters in folders that only this machine has; the driver is elsewhere."""
    models: dict[str, str | None] = {"embedder.model": config.embedder.model}
    for section, part in config.generators.items():
        models |= {f"{section}.model": part.model, f"{section}.vllm.lora": part.vllm.lora}
    for key, model in models.items():
        if model is None or model in bundled.MODELS or Path(model).is_absolute():
            continue
        if Path(model).exists() or model.startswith((".", "~")):
            raise ConfigError(
                f"{key}: {model} is a folder on this machine; name a hub model, or an "
                "absolute path that every node of the cluster has"
            )


def embedding_device(gpus: float) -> str | None:
    """The torch device of an embedder with this share of a GPU; None is torch's own choice.

    Ray leaves a node's GPUs visible to whoever reserved none of them, and all would take the first.
    """
    return None if gpus else "cpu"


def in_words(resources: dict[str, float]) -> str:
    """Resources of one node as a message has them."""
    return " and ".join(
        name.removeprefix(_KIND) if name.startswith(_KIND) else f"{value:g} {name}"
        for name, value in resources.items()
        if value
    )
