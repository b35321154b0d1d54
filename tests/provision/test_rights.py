"""What head and workers may do in a cloud account, and what not."""

from __future__ import annotations

import pytest
import yaml

from tests.provision.policies import ACCOUNT, REGION, is_allowed, load_template, statements
from tests.provision.rendered import ARN, files

MACHINE = f"arn:aws:ec2:{REGION}:{ACCOUNT}:instance/i-0123456789abcdef0"
OURS = {"ec2__ResourceTag___ray-cluster-name": "ray-si"}
OTHERS = {"ec2__ResourceTag___ray-cluster-name": "database"}
STARTED = {"aws__RequestTag___ray-cluster-name": "ray-si", "ec2__InstanceType": "g6.2xlarge"}


@pytest.fixture(scope="module")
def template():
    return load_template(files("aws", f"secrets.HF_TOKEN={ARN}")["account.yaml"])


@pytest.fixture(scope="module")
def head(template):
    return statements(template, "HeadRole")


@pytest.fixture(scope="module")
def worker(template):
    return statements(template, "WorkerRole")


def test_workers_may_use_the_bucket_and_its_secrets_and_nothing_else(worker):
    bucket = "arn:aws:s3:::my-datasets-4711"
    assert is_allowed(worker, "s3:PutObject", f"{bucket}/first/run.json")
    assert is_allowed(worker, "s3:ListBucket", bucket)
    assert is_allowed(worker, "secretsmanager:GetSecretValue", ARN)
    assert not is_allowed(worker, "s3:GetObject", "arn:aws:s3:::somebody-elses/x")
    assert not is_allowed(worker, "s3:DeleteBucket", bucket)
    assert not is_allowed(worker, "secretsmanager:GetSecretValue", ARN.replace("hf", "db"))
    for action in ("TerminateInstances", "StopInstances", "CreateTags", "RunInstances"):
        assert not is_allowed(worker, f"ec2:{action}", MACHINE, **OURS, **STARTED)
    assert not is_allowed(worker, "iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/ray-si-worker")


def test_a_head_ends_machines_of_its_own_cluster_only(head):
    assert is_allowed(head, "ec2:TerminateInstances", MACHINE, **OURS)
    assert not is_allowed(head, "ec2:TerminateInstances", MACHINE, **OTHERS)
    assert not is_allowed(head, "ec2:TerminateInstances", MACHINE)
    assert not is_allowed(head, "ec2:StopInstances", MACHINE, **OURS)


def test_a_head_tags_only_what_it_makes(head):
    at_creation = {"ec2__CreateAction": "RunInstances"}
    assert is_allowed(head, "ec2:CreateTags", MACHINE, **at_creation)
    assert not is_allowed(head, "ec2:CreateTags", MACHINE)
    assert not is_allowed(head, "ec2:CreateTags", MACHINE, **OTHERS)
    notes = {"aws__TagKeys": ["ray-node-status", "ray-runtime-config"]}
    assert is_allowed(head, "ec2:CreateTags", MACHINE, **OURS, **notes)
    assert not is_allowed(head, "ec2:CreateTags", MACHINE, **OTHERS, **notes)
    assert not is_allowed(head, "ec2:CreateTags", MACHINE, **OURS, aws__TagKeys=["cost-centre"])


def test_a_head_starts_machines_of_the_groups_types_in_its_region_only(head):
    assert is_allowed(head, "ec2:RunInstances", MACHINE, **STARTED)
    large = STARTED | {"ec2__InstanceType": "p5.48xlarge"}
    assert not is_allowed(head, "ec2:RunInstances", MACHINE, **large)
    untagged = {"ec2__InstanceType": "g6.2xlarge"}
    assert not is_allowed(head, "ec2:RunInstances", MACHINE, **untagged)
    elsewhere = MACHINE.replace(REGION, "eu-west-1")
    assert not is_allowed(head, "ec2:RunInstances", elsewhere, **STARTED)
    for kind in ("subnet/subnet-1", "volume/vol-1", "network-interface/eni-1", "key-pair/k"):
        assert is_allowed(head, "ec2:RunInstances", f"arn:aws:ec2:{REGION}:{ACCOUNT}:{kind}")
    group = f"arn:aws:ec2:{REGION}:{ACCOUNT}:security-group/"
    assert is_allowed(head, "ec2:RunInstances", f"{group}sg-1")
    assert not is_allowed(head, "ec2:RunInstances", f"{group}sg-2")


def test_a_head_gives_workers_their_role_and_no_other(head):
    passed = {"iam__PassedToService": "ec2.amazonaws.com"}
    role = f"arn:aws:iam::{ACCOUNT}:role/"
    assert is_allowed(head, "iam:PassRole", f"{role}ray-si-worker", **passed)
    assert not is_allowed(head, "iam:PassRole", f"{role}ray-si-head", **passed)
    assert not is_allowed(head, "iam:PassRole", f"{role}admin", **passed)
    assert not is_allowed(head, "iam:PassRole", f"{role}ray-si-worker")


def test_on_google_cloud_only_the_head_ends_machines_and_by_name_alone():
    rendered = files("gcp")
    look, end = (yaml.safe_load(rendered[f"{name}.yaml"]) for name in ("look", "end"))
    assert end["includedPermissions"] == ["compute.instances.delete"]
    assert "compute.instances.delete" not in look["includedPermissions"]
    assert not [x for x in look["includedPermissions"] if "firewall" in x or "admin" in x.lower()]
    types = yaml.safe_load(rendered["cluster.yaml"])["available_node_types"]
    accounts = {
        name: kind["node_config"]["serviceAccounts"][0]["email"] for name, kind in types.items()
    }
    assert accounts.pop("head") == "ray-si-head@my-project.iam.gserviceaccount.com"
    assert set(accounts.values()) == {"ray-si-worker@my-project.iam.gserviceaccount.com"}


def test_the_role_for_google_cloud_is_taken_by_the_two_accounts_of_the_nodes_only():
    template = load_template(files("gcp")["role.yaml"])
    trust = template["Resources"]["Role"]["Properties"]["AssumeRolePolicyDocument"]
    (statement,) = trust["Statement"]
    assert statement["Condition"]["StringEquals"] == {
        "accounts.google.com:sub": {"Ref": "ServiceAccounts"},
        "accounts.google.com:oaud": "ray-si",
    }
    allowed = statements(template, "Role")
    assert is_allowed(allowed, "s3:PutObject", "arn:aws:s3:::my-datasets-4711/x")
    assert not is_allowed(allowed, "ec2:TerminateInstances", MACHINE, **OURS)
