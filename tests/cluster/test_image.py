"""The image: linted, and what the linter does not know."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ray_si.provision.values import CUDA
from tests.clusters import ROOT
from tests.provision.rendered import documents

tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on

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
        assert chain[-1] == "${BASE}"
        assert "base" in chain
    base = r"^ARG BASE=python:3\.11\.\d+-slim-bookworm@sha256:[0-9a-f]{64}$"
    assert re.search(base, TEXT, re.M)
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


def pins(name):
    lines = (ROOT / name).read_text().splitlines()
    return dict(re.findall(r"^([\w.-]+)==([\w.+]+)", "\n".join(lines), re.M))


LOCKS = {
    "constraints.txt": ("cluster/requirements.txt", "cluster/requirements-cuda.txt"),
    "constraints-vllm.txt": ("cluster/requirements-vllm.txt",),
}
"""Constraints of a project's checkout -> the locks that were resolved under them."""


def locked(names):
    return {package: version for name in names for package, version in pins(name).items()}


@pytest.mark.parametrize("constraints", LOCKS)
def test_locks_keep_to_the_constraints_and_pin_everything(constraints):
    """Of packages that they have: a lock is for Python 3.11 and Linux."""
    names = LOCKS[constraints]
    for name in names:
        for line in (ROOT / name).read_text().splitlines():
            assert re.fullmatch(r"[\w.-]+==\S+( ; .+)?", line), line
    lock = locked(names)
    text = (ROOT / constraints).read_text()
    for line in re.findall(r"^\w.*$", text, re.M):
        requirement = Requirement(line)
        applies = requirement.marker is None or requirement.marker.evaluate(
            {"python_version": "3.11"}
        )
        if applies and (version := lock.get(canonicalize_name(requirement.name))):
            assert requirement.specifier.contains(version), line


@pytest.mark.parametrize("constraints", LOCKS)
def test_locks_have_what_the_project_depends_on_and_the_extras_of_endpoints(constraints):
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    lock = locked(LOCKS[constraints])
    extras = ["bundled", "openai", "export", "hub"]
    extras += ["train"] if constraints == "constraints.txt" else ["vllm"]
    wanted = [*project["dependencies"]]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    for line in wanted:
        requirement = Requirement(line)
        assert requirement.specifier.contains(lock[canonicalize_name(requirement.name)]), line


def test_head_and_workers_have_the_same_ray_and_the_cuda_that_drivers_are_chosen_for():
    head, vllm = map(locked, LOCKS.values())
    assert head["ray"] == vllm["ray"]
    assert head["torch"] == vllm["torch"]
    for lock in (head, vllm):
        assert lock["nvidia-cuda-runtime"].startswith(f"{CUDA}.")


def test_the_image_with_vllm_has_a_compiler_and_no_sampler_that_needs_nvcc():
    (stage,) = re.findall(r"^FROM base AS dependencies-vllm\n(.*?)\n\n", TEXT, re.M | re.S)
    assert "VLLM_USE_FLASHINFER_SAMPLER=0" in stage
    assert re.search(r"apt-get install .* g\+\+ ", TEXT)
    (launcher,) = documents("aws", "cluster.yaml", "engine=vllm")
    assert "--env VLLM_USE_FLASHINFER_SAMPLER=0" in launcher["docker"]["run_options"]
    for target in ("cpu", "gpu"):
        (stage,) = re.findall(
            rf"^FROM dependencies-{target} AS {target}\n(.*?)\n\n", TEXT, re.M | re.S
        )
        assert "vllm" not in stage
