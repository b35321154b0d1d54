"""Files rendered from the values that the project ships, with what a user has to add."""

from __future__ import annotations

from functools import cache
from typing import Any

import yaml

from ray_si.provision.render import load_values, render
from tests.clusters import ROOT

VALUES = ROOT / "cluster" / "values.yaml"
EXPECTED = {
    "aws": ["aws.security_group=sg-0123456789abcdef0", "aws.subnets=[subnet-0123456789abcdef0]"],
    "gcp": ["gcp.project=my-project", "gcp.account='111122223333'"],
    "kubernetes": [
        f"images={{head: {x}cpu-1, cpu: {x}cpu-1, gpu: {x}gpu-1}}" for x in ("r.io/x/ray-si:",)
    ],
}
"""By platform, what the file leaves to the user."""

ARN = "arn:aws:secretsmanager:us-east-1:111122223333:secret:hf-AbCdEf"
LARGE = ["dollars_per_hour=600", "groups.l4x4.most=2", "groups.h100x8.most=4"]
"""Overrides that give machines with four and eight GPUs room."""


@cache
def files(platform: str, *overrides: str) -> dict[str, str]:
    """Name -> text."""
    values = load_values(VALUES, [*EXPECTED[platform], *overrides])
    return render(values, platform, VALUES)


def documents(platform: str, name: str, *overrides: str) -> list[dict[str, Any]]:
    """The YAML documents of one of them."""
    return list(yaml.load_all(files(platform, *overrides)[name], yaml.CSafeLoader))
