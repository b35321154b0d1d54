"""Every command of cluster/README.md, as far as it can be run or read without a cloud."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from uuid import uuid4

import pytest
import yaml

from tests.builds import replay_values
from tests.pages import ROOT, command_lines, commands, parse

README = (ROOT / "cluster" / "README.md").read_text()


LINES = command_lines(README, "sh")
CLOUD = {"gcloud", "eksctl", "helm"}
"""Programs whose commands nothing here can check."""


def test_every_command_is_one_that_a_test_looks_at():
    known = {"export", "sed", "ray", "ray-si", "aws", "docker", "kubectl", "pip"} | CLOUD
    assert {shlex.split(line)[0] for line in LINES} == known


def test_rays_own_commands_take_the_arguments_and_files_given():
    from ray.scripts.scripts import cli

    found = commands(LINES, "ray")
    assert len(found) > 8
    for words in found:
        parse(cli, words)
        for word in words:
            if word.startswith("cluster/") and word.endswith(".yaml"):
                assert (ROOT / word).is_file()


def test_our_own_commands_take_the_arguments_given():
    import typer

    from ray_si.cli import app

    found = commands(LINES, "ray-si")
    assert len(found) >= 5
    for words in found:
        parse(typer.main.get_command(app), words)


def test_files_that_commands_name_are_there():
    for line in LINES:
        for word in re.findall(r"(?:cluster|configs|jobs)/[\w./-]+\w", line):
            assert (ROOT / word).exists(), f"{word} in: {line}"


def test_docker_builds_name_targets_that_there_are():
    text = (ROOT / "cluster" / "Dockerfile").read_text()
    for words in commands(LINES, "docker", "build"):
        target = words[words.index("--target") + 1]
        assert re.search(rf"^FROM \S+ AS {target}$", text, re.M)


def test_filling_in_names_leaves_no_placeholder_and_valid_files(tmp_path):
    shutil.copytree(ROOT / "cluster", tmp_path / "cluster")
    names = {"PROJECT": "p-1", "BUCKET": "b-1", "ACCOUNT": "111122223333", "REGISTRY": "r.io/x"}
    found = [line for line in LINES if line.startswith("sed ")]
    assert len(found) == 3
    for line in found:
        subprocess.run(line, shell=True, cwd=tmp_path, env=os.environ | names, check=True)
        for word in shlex.split(line)[3:]:
            text = (tmp_path / word).read_text()
            body = "\n".join(x for x in text.splitlines() if not x.lstrip().startswith("#"))
            assert not re.search("|".join(names), body), word
            if word.endswith(".yaml"):
                assert list(yaml.safe_load_all(text))


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not here")
def test_kubectl_reads_the_manifests(tmp_path):
    files = {w for words in commands(LINES, "kubectl") for w in words if w.endswith(".yaml")}
    for name in sorted(file for file in files if (ROOT / file).is_file() and "kuberay" in file):
        shutil.copy(ROOT / name, tmp_path / "one.yaml")
        (tmp_path / "kustomization.yaml").write_text("resources: [one.yaml]\n")
        command = ["kubectl", "kustomize", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "kind:" in done.stdout


@pytest.mark.skipif(not shutil.which("aws"), reason="the aws command is not here")
def test_the_registry_and_the_bucket_of_the_kubernetes_section_come_and_go(s3_server, tmp_path):
    """As written, against a loopback AWS API; the password goes nowhere."""
    bucket = f"walk-{uuid4().hex[:8]}"
    environment = os.environ | s3_server | {"BUCKET": bucket, "HOME": str(tmp_path)}
    section = README[README.index("## Kubernetes") : README.index("## Jobs")]
    lines = [line for line in command_lines(section, "sh") if line.startswith("aws ")]
    assert len(lines) == 5
    for line in lines:
        command = line.partition(" | docker login")[0]
        done = subprocess.run(
            command, shell=True, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"


@pytest.mark.skipif(not shutil.which("aws"), reason="the aws command is not here")
def test_the_aws_commands_make_and_remove_what_they_say(s3_server, tmp_path):
    """As written, against a loopback AWS API."""
    import boto3

    bucket = f"walk-{uuid4().hex[:8]}"
    environment = os.environ | s3_server | {"BUCKET": bucket, "HOME": str(tmp_path)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.items():
            patch.setenv(name, value)
        vpcs = boto3.client("ec2").describe_vpcs()["Vpcs"]
        s3, formation = boto3.client("s3"), boto3.client("cloudformation")
    environment["VPC"] = vpcs[0]["VpcId"]
    section = README[README.index("## AWS") : README.index("## Google Cloud")]
    lines = [line for line in command_lines(section, "sh") if line.startswith("aws ")]
    assert len(lines) == 3
    for line in lines:
        line = line.replace("$(curl -s https://checkip.amazonaws.com)", "203.0.113.7")
        done = subprocess.run(
            line, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        if "deploy" in line:
            assert bucket in [b["Name"] for b in s3.list_buckets()["Buckets"]]
    assert bucket not in [b["Name"] for b in s3.list_buckets()["Buckets"]]
    statuses = [stack["StackStatus"] for stack in formation.list_stacks()["StackSummaries"]]
    assert set(statuses) == {"DELETE_COMPLETE"}


@pytest.mark.slow
def test_the_jobs_section_from_submission_to_training_rows(
    head, ray_environment, s3_environment, tmp_path
):
    """As written, but for the address and a configuration that needs no GPU."""
    shutil.copytree(ROOT / "ray_si", tmp_path / "ray_si")
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "gpu-1.yaml").write_text(yaml.safe_dump(replay_values()))
    section = README[README.index("## Jobs") : README.index("## What goes wrong")]
    prefix = f"runs/{uuid4().hex}"
    for line in command_lines(section, "sh"):
        line = line.replace("http://127.0.0.1:8265", head).replace("$BUCKET", prefix)
        done = subprocess.run(
            line,
            shell=True,
            cwd=tmp_path,
            env=ray_environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    (rows,) = (tmp_path / "train_data").glob("messages*.jsonl")
    assert len(rows.read_text().splitlines()) > 50
