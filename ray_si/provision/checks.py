"""What can be told of a cluster before anything of it is rented."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ray_si.config import RunConfig
from ray_si.errors import ConfigError
from ray_si.provision.machines import Cloud, machine_for
from ray_si.provision.values import SECRET, Group, Platform, Values
from ray_si.serving.placement import Room, embedder_placement, in_words, placement, shards_on_gpus

_BYTES_AN_INSTRUCTION = 103
"""Of the driver's memory (docs/capacity.md)."""

_BYTES_IN_THE_GATE = 184
"""On top where the gate has one shard, which the driver searches itself."""

_BYTES_OF_AN_EMBEDDING, _BYTES_OF_A_VECTOR = 493, 1536
"""And with a cosine gate: codes of the exact index, or the vectors that FAISS's indexes hold."""

_BASE_GIB = 4.0
"""Of the driver and Ray's own processes on the head, without any instruction."""

_SHARE = 0.7
"""Of the head's memory; Ray's object store has the rest."""


def check_platform(values: Values, platform: Platform) -> None:
    """Raise ConfigError unless the values have what this platform needs, within their ceiling."""
    _check_place(values, platform)
    kind = "kubernetes" if platform == "kubernetes" else "arn"
    for variable, reference in values.secrets.items():
        if not SECRET[kind].fullmatch(reference):
            form = "SECRET/KEY" if kind == "kubernetes" else "an ARN of AWS Secrets Manager"
            raise ConfigError(f"secrets.{variable}: on {platform} this is {form}")
    most = most_dollars_per_hour(values, platform)
    if most > values.dollars_per_hour:
        raise ConfigError(
            f"all nodes together may cost ${most:,.2f} an hour, over dollars_per_hour "
            f"{values.dollars_per_hour:g}: lower most of a group"
        )


def _check_place(values: Values, platform: Platform) -> None:
    if platform == "kubernetes":
        if values.images is None:
            raise ConfigError("images: pods install nothing, so name images (cluster/README.md)")
        return
    needed: dict[str, object] = {"project": values.gcp.project, "account": values.gcp.account}
    if platform == "aws":
        needed = {"security_group": values.aws.security_group, "subnets": values.aws.subnets}
    for key, value in needed.items():
        if not value:
            raise ConfigError(f"{platform}.{key} is needed (cluster/README.md says where it is)")


def most_dollars_per_hour(values: Values, platform: Platform) -> float:
    """What the cluster may cost at the most, all nodes on demand.

    On Kubernetes every group has its own limit. The launchers have two types of node for a group
    with spot machines, each with that limit, and one limit for all nodes together.
    """
    if platform == "kubernetes":
        return values.most_dollars_per_hour
    total, left = values.head.dollars_per_hour, values.most_nodes
    for group in sorted(values.groups.values(), key=lambda group: -group.dollars_per_hour):
        count = min(left, group.most * (2 if group.spot else 1))
        total += count * group.dollars_per_hour
        left -= count
    return total


def machine_of(values: Values, platform: Platform, name: str) -> str:
    """The type of the machines of a group, or of the "head"; ConfigError where none is known."""
    cloud: Cloud = "gcp" if platform == "gcp" else "aws"
    part = values.head if name == "head" else values.groups[name]
    gpus, accelerator = (part.gpus, part.accelerator) if isinstance(part, Group) else (0, None)
    machine = part.machine or machine_for(cloud, accelerator, gpus, part.cpus, part.memory_gib)
    if machine is None:
        what = f"{gpus} {accelerator} and " if gpus else ""
        key = "head" if name == "head" else f"groups.{name}"
        raise ConfigError(
            f"{key}.machine: no machine of {cloud} is known with {what}{part.cpus} cores and "
            f"{part.memory_gib} GiB; name one"
        )
    return machine


def check_run(values: Values, config: RunConfig) -> None:
    """Raise ConfigError unless the cluster, all there, has room for the run, and its secrets."""
    for section, generator in config.generators.items():
        if generator.engine not in (values.engine, "replay"):
            raise ConfigError(
                f"{section}.engine is {generator.engine}, and the nodes are set up for "
                f"{values.engine}: set engine"
            )
        variable = generator.openai.api_key_env
        if generator.engine == "openai" and variable and variable not in values.secrets:
            raise ConfigError(
                f"secrets: {section}.openai.api_key_env is {variable}, and no secret has that name"
            )
        _check_alone(
            values, section, generator.most_replicas, list(placement(generator).on_nodes())
        )
    _check_together(values, config)
    _check_head(values, config)


def _check_alone(
    values: Values, section: str, count: int, parts: list[dict[str, float]], kind: str = "replica"
) -> None:
    """Whether groups have nodes for so many replicas of a section, each of these parts."""
    largest = parts[0]  # the one with the replica's own cores
    room = sum(group.most * _times(largest, group) for group in values.groups.values())
    if not room:
        raise ConfigError(
            f"{section}: a {kind} takes {in_words(largest)} on one node, and no group has that"
        )
    if count * len(parts) > room:
        raise ConfigError(
            f"{section}: {count} {kind}s take {count * len(parts)} times "
            f"{in_words(largest)} on one node, and all groups together have that {room} times: "
            f"raise most, or lower {kind}s"
        )


def _check_together(values: Values, config: RunConfig) -> None:
    """Whether each section has room for its first replicas, whatever starts before them.

    Replicas of all sections are asked for at once, after the GPUs of the gate's shards, and those
    that come first stay.
    """
    parts = {name: list(placement(part).on_nodes()) for name, part in config.generators.items()}
    starting = {name: part.replicas for name, part in config.generators.items()}
    least = {name: part.min_replicas for name, part in config.generators.items()}
    if config.dedup.cosine is not None:
        parts["embedder"] = list(embedder_placement(config.embedder).on_nodes())
        starting["embedder"], least["embedder"] = config.embedder.replicas, 1
        _check_alone(values, "embedder", 1, parts["embedder"])
    if shards := shards_on_gpus(config.dedup):
        _check_alone(values, "dedup", len(shards), shards[:1], "shard")
    groups = sorted(values.used_groups.values(), key=lambda group: group.gpus)
    nodes = [_resources(group) for group in groups for _ in range(group.most)]
    for section, count in least.items():
        others = {name: number for name, number in starting.items() if name != section}
        before = [parts[name] for name, number in others.items() for _ in range(number)]
        before.sort(key=_demanding, reverse=True)
        room = Room(nodes)
        for replica in [[shard] for shard in shards] + before:
            room.take(replica)
        own = [parts[section]] * count
        if not all(room.take(replica) for replica in own):
            named = [f"{number} of {name}" for name, number in others.items()]
            named += [f"{len(shards)} shards of dedup"] * bool(shards)
            everything = shards + [part for replica in before + own for part in replica]
            raise ConfigError(
                f"{section}: {count} of {starting[section]} replicas must start beside "
                f"{' and '.join(named)}; all that takes {_total(everything)}, node by node, and "
                f"all groups together have {_total(nodes)}: raise most, or lower replicas"
            )


def _demanding(replica: Sequence[Mapping[str, float]]) -> tuple[int, float, float]:
    """Larger for what fewer nodes have room for: a kind of GPU, then many GPUs, then cores."""
    largest = replica[0]
    return len(largest), largest["GPU"], largest["CPU"]


def _total(parts: Sequence[Mapping[str, float]]) -> str:
    """Cores and GPUs of all, in words."""
    return " and ".join(f"{sum(part[name] for part in parts):g} {name}" for name in ("CPU", "GPU"))


def _resources(group: Group) -> dict[str, float]:
    """What Ray has of a node of the group, by name."""
    node = {"CPU": float(group.cpus), "GPU": float(group.gpus)}
    if group.accelerator:
        node[f"accelerator_type:{group.accelerator}"] = 1.0
    return node


def _times(resources: Mapping[str, float], group: Group) -> int:
    """How often a node of the group has these resources."""
    node = _resources(group)
    needed = {name: value for name, value in resources.items() if value}
    return int(min((node.get(name, 0.0) / value for name, value in needed.items()), default=1))


def _check_head(values: Values, config: RunConfig) -> None:
    """Whether the head has the memory that the target needs."""
    each = _BYTES_AN_INSTRUCTION
    if config.dedup.shards == 1 and not config.dedup.gpus:
        each += _BYTES_IN_THE_GATE
        if config.dedup.cosine is not None:
            is_exact = config.dedup.embedding_index == "exact"
            each += _BYTES_OF_AN_EMBEDDING if is_exact else _BYTES_OF_A_VECTOR
    need = (_BASE_GIB + config.target_instructions * each / 2**30) / _SHARE
    if need > values.head.memory_gib:
        raise ConfigError(
            f"head.memory_gib: {config.target_instructions:,} instructions take {need:.0f} GiB on "
            f"the head, which has {values.head.memory_gib}: give it more, or set dedup.shards"
        )
