"""What a cluster is made of: the values from which its files are rendered."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from ray_si.config.sections.base import Section

Platform = Literal["aws", "gcp", "kubernetes"]

Name = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$")]
"""As Kubernetes, EC2 and Google Cloud all take it."""

_BUCKET = r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"
_IMAGE = re.compile(r".+(:(?!latest$)[\w][\w.-]*|@sha256:[0-9a-f]{64})")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")

SECRET = {
    "kubernetes": re.compile(r"(?P<secret>[a-z0-9]([a-z0-9.-]*[a-z0-9])?)/(?P<key>[\w.-]+)"),
    "arn": re.compile(r"arn:aws[\w-]*:secretsmanager:[\w-]+:\d{12}:secret:[\w/+=.@-]+"),
}
"""References to secrets: SECRET/KEY of the namespace, or an ARN of AWS Secrets Manager."""


class Head(Section):
    """The node with the driver and the gate, and never a model."""

    cpus: int = Field(8, ge=2)
    """Cores."""
    memory_gib: int = Field(64, ge=8)
    """Memory; what a target needs of it is in docs/capacity.md."""
    machine: str | None = None
    """Type of its machine; none takes the smallest that has this."""
    dollars_per_hour: float = Field(0.0, ge=0)
    """What it costs."""


class Group(Section):
    """Nodes of one kind, which come as work asks for them and go when they are idle."""

    most: int = Field(ge=0, le=1000)
    """Nodes at the most."""
    cpus: int = Field(ge=1)
    """Cores that Ray may use of a node; on Kubernetes, leave the node one or two."""
    memory_gib: int = Field(ge=4)
    """Memory that Ray may use of a node; on Kubernetes, leave the node a tenth."""
    gpus: int = Field(0, ge=0, le=16)
    """GPUs of a node."""
    accelerator: str | None = None
    """Kind of its GPUs as Ray names it (L4, A100, H100), for ``generator.accelerator``."""
    spot: bool = True
    """Spot machines first, on demand while there are none."""
    machine: str | None = None
    """Type of its machine; none takes the one that the tables have for these GPUs."""
    dollars_per_hour: float = Field(0.0, ge=0)
    """What a node costs on demand."""

    @model_validator(mode="after")
    def _consistent(self) -> Group:
        if bool(self.gpus) != bool(self.accelerator):
            raise ValueError("gpus and accelerator go together: how many, and of which kind")
        return self


class Images(Section):
    """Images of your own, by digest or tag; see cluster/README.md."""

    head: str
    """Of the head: ray-si:cpu."""
    cpu: str
    """Of nodes without GPUs: ray-si:cpu."""
    gpu: str
    """Of nodes with GPUs: ray-si:gpu, or ray-si:vllm for that engine."""

    @field_validator("*")
    @classmethod
    def _fixed(cls, image: str) -> str:
        if not _IMAGE.fullmatch(image):
            raise ValueError(f"{image}: name a digest (@sha256:...) or a tag that is not latest")
        return image


class Job(Section):
    """One build with a cluster of its own, on Kubernetes."""

    config: str | None = None
    """Path of the run's configuration, which becomes a ConfigMap; none renders no job."""
    run: str = Field("first", pattern=r"^[\w][\w./-]*$")
    """Where the run goes: below s3://bucket/."""
    retries: int = Field(2, ge=0, le=20)
    """Clusters that may follow one that was lost; what repeating cannot mend is not repeated."""
    deadline_hours: float = Field(72.0, gt=0)
    """After so long the job and its cluster end, whatever it does; it can be resumed."""
    start_hours: float = Field(1.0, gt=0)
    """After so long without a running driver the job and its cluster end."""


class AWS(Section):
    """Where on AWS the launcher's nodes run; the stack of account.yaml says it."""

    security_group: str | None = Field(None, pattern=r"^sg-[0-9a-f]{8,17}$")
    """Id of the security group."""
    subnets: tuple[Annotated[str, StringConstraints(pattern=r"^subnet-[0-9a-f]{8,17}$")], ...] = ()
    """Ids of the subnets, all in the security group's network."""


class GCP(Section):
    """Where on Google Cloud the launcher's nodes run."""

    project: str | None = Field(None, pattern=r"^[a-z][a-z0-9-]{4,28}[a-z0-9]$")
    """Project."""
    zone: str = Field("us-central1-a", pattern=r"^[a-z]+-[a-z]+\d+-[a-z]$")
    """Zone."""
    account: str | None = Field(None, pattern=r"^\d{12}$")
    """AWS account with the bucket and the role that nodes take."""
    image: str = "common-cu129-ubuntu-2204-nvidia-580"
    """Family of machine images of deeplearning-platform-release, with NVIDIA's driver."""

    @field_validator("image")
    @classmethod
    def _new_enough(cls, image: str) -> str:
        driver = re.search(r"nvidia-(\d+)", image)
        if driver and int(driver[1]) < DRIVER:
            raise ValueError(
                f"{image} has driver {driver[1]}, and CUDA {CUDA}, which torch and vLLM are built "
                f"for, needs {DRIVER} or newer"
            )
        return image

    @property
    def region(self) -> str:
        """Of the zone."""
        return self.zone.rpartition("-")[0]


CUDA, DRIVER = 13, 580
"""CUDA of the pinned torch and vLLM, and the oldest driver that runs it (CUDA's release notes)."""


class Kubernetes(Section):
    """What only a cluster on Kubernetes has."""

    queue: Name | None = None
    """Local queue of Kueue that admits it; none does without Kueue."""
    cache_claim: Name | None = None
    """Claim of a volume that all pods may write (ReadWriteMany), for models; none: each node's
    own disk."""
    node_pools: bool = True
    """Write pools of nodes for EKS's auto mode."""
    monitoring_labels: dict[str, str] = Field({"release": "monitoring"})
    """Labels by which the prometheus-operator finds monitors and rules."""
    token: bool = False
    """Have the dashboard and its job API ask for a token, which KubeRay makes a secret of."""


class Values(Section):
    """A cluster."""

    name: Name = "ray-si"
    """Of the cluster, and of its namespace."""
    bucket: str = Field(pattern=_BUCKET)
    """Bucket of the datasets, in S3."""
    region: str = Field("us-east-1", pattern=r"^[a-z]{2}(-[a-z]+)+-\d$")
    """Of the bucket; on AWS the nodes' too."""
    engine: Literal["transformers", "vllm", "openai"] = "transformers"
    """What nodes are set up for; an image of your own has it."""
    extras: tuple[str, ...] = ("bundled",)
    """Extras of ray_si that nodes install, besides the engine's."""
    images: Images | None = None
    """Images of your own; none has the launchers' nodes install ray_si as they come."""
    dollars_per_hour: float = Field(gt=0)
    """The most that all nodes together may cost: what could cost more is not rendered."""
    head: Head = Head()
    groups: dict[Name, Group] = Field(min_length=1)
    """Kinds of workers by name."""
    secrets: dict[str, str] = Field({})
    """Environment variable -> where its secret is: SECRET/KEY on Kubernetes, elsewhere an ARN of
    AWS Secrets Manager."""
    job: Job = Job()
    aws: AWS = AWS()
    gcp: GCP = GCP()
    kubernetes: Kubernetes = Kubernetes()

    @field_validator("groups")
    @classmethod
    def _not_the_head(cls, groups: dict[str, Group]) -> dict[str, Group]:
        if "head" in groups:
            raise ValueError("head is a name of its own: call the group something else")
        return groups

    @field_validator("secrets")
    @classmethod
    def _by_reference(cls, secrets: dict[str, str]) -> dict[str, str]:
        for variable, reference in secrets.items():
            if not _VARIABLE.fullmatch(variable):
                raise ValueError(f"{variable} is no name of an environment variable")
            if not any(pattern.fullmatch(reference) for pattern in SECRET.values()):
                raise ValueError(
                    f"{variable}: write where the secret is, and never the secret: SECRET/KEY on "
                    "Kubernetes, or its ARN in AWS Secrets Manager"
                )
        return secrets

    @property
    def used_groups(self) -> dict[str, Group]:
        """Those that may have a node."""
        return {name: group for name, group in self.groups.items() if group.most}

    @property
    def most_nodes(self) -> int:
        """Workers of all groups, at the most."""
        return sum(group.most for group in self.groups.values())

    @property
    def most_dollars_per_hour(self) -> float:
        """What all nodes together cost at the most, all of them on demand."""
        workers = sum(group.most * group.dollars_per_hour for group in self.groups.values())
        return self.head.dollars_per_hour + workers

    @property
    def all_extras(self) -> str:
        """Of ray_si on the nodes, as pip takes them."""
        return ",".join(dict.fromkeys([*self.extras, *["openai"] * (self.engine == "openai")]))


def beside(path: str, values_path: str | Path) -> Path:
    """A path as it is, or from beside the file of values, where it is only there."""
    near = Path(values_path).parent / path
    return near if not Path(path).exists() and near.exists() else Path(path)
