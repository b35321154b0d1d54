"""Values out of range, and secrets where references belong, are one line that names the key."""

from __future__ import annotations

import re

import pytest

from ray_si.errors import ConfigError
from ray_si.provision.render import load_values
from ray_si.provision.values import CUDA, DRIVER
from tests.clusters import ROOT
from tests.provision.rendered import ARN, VALUES


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("bucket=My_Bucket", "bucket: String should match"),
        ("bucket=null", "bucket: Input should be a valid string"),
        ("groups={}", "groups: Dictionary should have at least 1 item"),
        ("groups.l4.most=-1", "groups.l4.most: Input should be greater than or equal to 0"),
        ("groups.l4.most=yes", "true and false"),
        ("groups.l4.gpu=1", "there is no key groups.l4.gpu"),
        ("groups.l4.accelerator=null", "gpus and accelerator go together"),
        ("groups.head={most: 1, cpus: 1, memory_gib: 4}", "head is a name of its own"),
        ("head.memory_gib=2", "head.memory_gib: Input should be greater than or equal to 8"),
        ("dollars_per_hour=0", "dollars_per_hour: Input should be greater than 0"),
        ("engine=tgi", "engine: Input should be 'transformers', 'vllm' or 'openai'"),
        ("images={head: ray-si:latest, cpu: a:1, gpu: a:1}", "a tag that is not latest"),
        ("images={head: ray-si, cpu: a:1, gpu: a:1}", "name a digest"),
        ("job.retries=-1", "job.retries"),
        ("job.deadline_hours=0", "job.deadline_hours"),
        ("kubernetes.queue=No Queue", "kubernetes.queue"),
        ("aws.security_group=ray-si", "aws.security_group"),
        ("secrets.HF_TOKEN=hf_abcdefghijklmnopqrstuvwxyz", "where the secret is, and never the"),
        ("secrets.hf-token=a/b", "is no name of an environment variable"),
        ("gcp.image=common-cu128-ubuntu-2204-nvidia-570", "has driver 570, and CUDA 13"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(override, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load_values(VALUES, [override])
    assert "\n" not in str(caught.value)


def test_images_are_named_by_digest_or_tag():
    digest = f"r.io/x/ray-si@sha256:{'0' * 64}"
    images = load_values(VALUES, [f"images={{head: '{digest}', cpu: r.io:5000/x:1, gpu: x:1}}"])
    assert images.images
    assert images.images.head == digest


def test_secrets_are_taken_by_reference():
    for reference in ("hugging-face/token", ARN):
        assert load_values(VALUES, [f"secrets.HF_TOKEN={reference}"]).secrets


def test_the_machine_images_driver_runs_the_cuda_of_the_pinned_torch():
    """CUDA 13's release notes: driver 580 or newer. torch from 2.11 on is built for CUDA 13."""
    (torch,) = re.findall(r"^torch==2\.(\d+)", (ROOT / "constraints.txt").read_text(), re.M)
    assert (int(torch) >= 11) == (CUDA == 13)
    (driver,) = re.findall(r"nvidia-(\d+)", load_values(VALUES, []).gcp.image)
    assert int(driver) >= DRIVER == 580
