"""Every command of cluster/README.md, as far as it can be run or read without a cloud."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from uuid import uuid4

import pytest
import yaml

from tests.builds import replay_values
from tests.pages import ROOT, command_lines, commands, parse
from tests.provision.rendered import VALUES

README = (ROOT / "cluster" / "README.md").read_text()


LINES = command_lines(README, "sh")
CLOUD = {"gcloud", "eksctl", "helm"}
"""Programs whose commands nothing here can check."""


def test_every_command_is_one_that_a_test_looks_at():
    known = {"export", "sh", "ray", "ray-si", "aws", "docker", "kubectl", "pip"} | CLOUD
    assert {shlex.split(line)[0] for line in LINES} == known


def test_rays_own_commands_take_the_arguments_and_files_given():
    from ray.scripts.scripts import cli

    found = commands(LINES, "ray")
    assert len(found) > 8
    for words in found:
        parse(cli, words)
        for word in words:
            if word.startswith("mine/") and word.endswith(".yaml"):
                assert word == "mine/cluster.yaml"


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


NAMES = {
    "PROJECT": "my-project",
    "BUCKET": "b-1",
    "ACCOUNT": "111122223333",
    "REGISTRY": "r.io/x",
    "TAG": "1",
    "GROUP": "sg-0123456789abcdef0",
    "SUBNETS": '["subnet-0123456789abcdef0"]',
    "IMAGES": "{head: r.io/x:c-1, cpu: r.io/x:c-1, gpu: r.io/x:g-1}",
}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Folders with what each rendering command of the page writes, as written, by platform."""
    folder = tmp_path_factory.mktemp("rendered")
    for name in ("cluster", "configs"):
        (folder / name).symlink_to(ROOT / name)
    environment = os.environ | NAMES | {"PYTHONPATH": str(ROOT)}
    program = f"{shlex.quote(sys.executable)} -m ray_si"
    made = {}
    for line in dict.fromkeys(line for line in LINES if line.startswith("ray-si cluster render")):
        platform = re.findall(r"--for (\w+)", line)[0]
        line = line.replace("ray-si", program, 1).replace("--to mine", f"--to {platform}")
        done = subprocess.run(
            line, shell=True, cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        made[platform] = folder / platform
    return made


def test_every_file_that_a_command_names_is_one_that_was_rendered(rendered):
    assert rendered.keys() == {"aws", "gcp", "kubernetes"}
    sections = {"aws": "## AWS", "gcp": "## Google Cloud", "kubernetes": "## Kubernetes"}
    for platform, title in sections.items():
        section = README.split(title)[1].split("\n## ")[0]
        named = re.findall(r"mine/([\w./-]+\w)", "\n".join(command_lines(section, "sh")))
        assert named
        for name in named:
            assert (rendered[platform] / name).exists(), f"{name} of {platform}"


def test_no_command_edits_a_file_of_the_checkout():
    assert "sed" not in {shlex.split(line)[0] for line in LINES}


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not here")
def test_kubectl_reads_the_manifests(rendered, tmp_path):
    for path in sorted(rendered["kubernetes"].glob("*.yaml")):
        if path.name == "eks.yaml":  # eksctl's own
            continue
        shutil.copy(path, tmp_path / "one.yaml")
        (tmp_path / "kustomization.yaml").write_text("resources: [one.yaml]\n")
        command = ["kubectl", "kustomize", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "kind:" in done.stdout


def test_only_one_line_of_the_page_deletes_datasets():
    lines = [line for line in LINES if "s3 rb" in line or "s3 rm" in line]
    assert lines == ["aws s3 rb --force s3://$BUCKET"]
    section = README.split("## Deleting the datasets")[1].split("\n## ")[0]
    assert lines[0] in section


@pytest.mark.skipif(not shutil.which("aws"), reason="the aws command is not here")
def test_the_registry_and_the_bucket_of_the_kubernetes_section_come_and_go(s3_server, tmp_path):
    """As written, against a loopback AWS API; the password goes nowhere."""
    bucket = f"walk-{uuid4().hex[:8]}"
    environment = os.environ | s3_server | {"BUCKET": bucket, "HOME": str(tmp_path)}
    section = README[README.index("## Kubernetes") : README.index("## Jobs")]
    lines = [line for line in command_lines(section, "sh") if line.startswith("aws ")]
    assert len(lines) == 6  # the last one deletes the bucket
    for line in lines:
        command = line.partition(" | docker login")[0]
        done = subprocess.run(
            command, shell=True, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"


@pytest.mark.skipif(not shutil.which("aws"), reason="the aws command is not here")
def test_the_aws_section_from_nothing_to_a_cluster_file_and_back(s3_server, tmp_path):
    """As written, against a loopback AWS API, but for what starts machines."""
    import boto3

    bucket = f"walk-{uuid4().hex[:8]}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.items():
            patch.setenv(name, value)
        filters = [{"Name": "is-default", "Values": ["true"]}]
        vpc = boto3.client("ec2").describe_vpcs(Filters=filters)["Vpcs"][0]["VpcId"]
        s3, formation = boto3.client("s3"), boto3.client("cloudformation")
    section = README[README.index("## AWS") : README.index("## Google Cloud")]
    script = ["set -e"]
    for line in command_lines(section, "sh"):
        if line.startswith("ray "):
            continue
        line = line.replace("my-datasets-4711", bucket).replace("vpc-0123456789abcdef0", vpc)
        line = line.replace("$(curl -s https://checkip.amazonaws.com)", "203.0.113.7")
        line = line.replace("cluster/values.yaml", str(VALUES)).replace(
            "mine", str(tmp_path / "mine")
        )
        script.append(re.sub("^ray-si ", f"{sys.executable} -m ray_si ", line))
    environment = os.environ | s3_server | {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load((tmp_path / "mine" / "cluster.yaml").read_text())
    (group,) = config["available_node_types"]["head"]["node_config"]["SecurityGroupIds"]
    assert re.fullmatch(r"sg-[0-9a-f]+", group)
    assert group != "sg-00000000000000000"
    assert config["available_node_types"]["head"]["node_config"]["SubnetIds"]
    statuses = [
        stack["StackStatus"]
        for stack in formation.list_stacks()["StackSummaries"]
        if stack["StackName"] == "ray-si"
    ]
    assert set(statuses) == {"DELETE_COMPLETE"}
    assert bucket in [b["Name"] for b in s3.list_buckets()["Buckets"]], "datasets outlive it all"
    s3.delete_bucket(Bucket=bucket)


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
