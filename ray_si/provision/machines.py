"""Machines of the clouds by what is asked of them."""

from __future__ import annotations

from typing import Literal, NamedTuple

Cloud = Literal["aws", "gcp"]


class Machine(NamedTuple):
    """A machine as its cloud sells it: its type there, cores, and memory in GiB."""

    name: str
    cpus: int
    memory_gib: int


MACHINES: dict[Cloud, dict[tuple[str | None, int], Machine]] = {
    "aws": {
        ("L4", 1): Machine("g6.2xlarge", 8, 32),
        ("L4", 4): Machine("g6.12xlarge", 48, 192),
        ("L4", 8): Machine("g6.48xlarge", 192, 768),
        ("H100", 1): Machine("p5.4xlarge", 16, 256),
        ("H100", 8): Machine("p5.48xlarge", 192, 2048),
    },
    "gcp": {
        ("L4", 1): Machine("g2-standard-8", 8, 32),
        ("L4", 4): Machine("g2-standard-48", 48, 192),
        ("L4", 8): Machine("g2-standard-96", 96, 384),
        ("H100", 1): Machine("a3-highgpu-1g", 26, 234),
        ("H100", 4): Machine("a3-highgpu-4g", 104, 936),
        ("H100", 8): Machine("a3-highgpu-8g", 208, 1872),
    },
}
"""By kind of GPU, as Ray names it, and how many there are."""

WITHOUT_GPU: dict[Cloud, tuple[Machine, ...]] = {
    "aws": (
        Machine("m7i.2xlarge", 8, 32),
        Machine("r7i.2xlarge", 8, 64),
        Machine("m7i.4xlarge", 16, 64),
        Machine("r7i.4xlarge", 16, 128),
        Machine("r7i.8xlarge", 32, 256),
        Machine("r7i.16xlarge", 64, 512),
    ),
    "gcp": (
        Machine("n2-standard-8", 8, 32),
        Machine("n2-highmem-8", 8, 64),
        Machine("n2-standard-16", 16, 64),
        Machine("n2-highmem-16", 16, 128),
        Machine("n2-highmem-32", 32, 256),
        Machine("n2-highmem-64", 64, 512),
    ),
}
"""From small to large."""


def machine_for(
    cloud: Cloud, accelerator: str | None, gpus: int, cpus: int, memory_gib: int
) -> str | None:
    """The smallest machine that has this; None where the tables know of none."""
    candidates = WITHOUT_GPU[cloud]
    if gpus:
        machine = MACHINES[cloud].get((accelerator, gpus))
        candidates = (machine,) if machine else ()
    fitting = (m.name for m in candidates if m.cpus >= cpus and m.memory_gib >= memory_gib)
    return next(fitting, None)
