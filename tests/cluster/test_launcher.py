"""The launchers' files: Ray's validator, CloudFormation's, and what Ray makes of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
import yaml

from tests.clusters import ROOT
from tests.provision.rendered import files

LAUNCHERS = ["aws", "gcp"]


def load(name, *overrides):
    return yaml.safe_load(files(name, *overrides)["cluster.yaml"])


@pytest.fixture(params=LAUNCHERS)
def launcher(request):
    return load(request.param)


@pytest.fixture
def account(s3_server, monkeypatch):
    """Makes stacks in an account of a loopback AWS API that has a default network."""
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    formation, made = boto3.client("cloudformation"), []

    def create(platform, template, **parameters):
        formation.create_stack(
            StackName=template,
            TemplateBody=files(platform)[f"{template}.yaml"],
            Capabilities=["CAPABILITY_NAMED_IAM"],
            Parameters=[
                {"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()
            ],
        )
        made.append((template, parameters["Bucket"]))
        (stack,) = formation.describe_stacks(StackName=template)["Stacks"]
        assert stack["StackStatus"] == "CREATE_COMPLETE"

    yield create
    for template, bucket in made:
        formation.delete_stack(StackName=template)
        names = [item["Name"] for item in boto3.client("s3").list_buckets()["Buckets"]]
        if bucket in names:
            boto3.client("s3").delete_bucket(Bucket=bucket)


def vpc():
    filters = [{"Name": "is-default", "Values": ["true"]}]
    (found,) = boto3.client("ec2").describe_vpcs(Filters=filters)["Vpcs"]
    return found["VpcId"]


def test_rays_own_validator_takes_them(launcher):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(launcher))


def test_rays_own_validator_finds_a_misspelt_key(launcher):
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(launcher | {"max_worker": 3}))


def test_dashboard_and_job_api_listen_on_the_heads_loopback(launcher):
    (start,) = [line for line in launcher["head_start_ray_commands"] if "ray start" in line]
    assert "--dashboard-host=127.0.0.1" in start
    assert "0.0.0.0" not in json.dumps(launcher)


def test_ray_start_takes_the_options_that_they_give(launcher):
    from ray.scripts.scripts import start

    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        (line,) = [line for line in launcher[key] if "ray start" in line]
        start.make_context("start", line.removeprefix("ray start ").split())


def test_nodes_run_the_ray_that_the_constraints_pin(launcher):
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line
    )
    for key in ("head_image", "worker_image"):
        assert f":{pins['ray']}-py311" in launcher["docker"][key]
    assert f'rayVersion: "{pins["ray"]}"' in files("kubernetes")["raycluster.yaml"]


def test_spot_is_tried_first_and_on_demand_while_it_is_not_to_be_had(launcher):
    from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil

    types = {
        name: NodeTypeConfig(
            name=name,
            min_worker_nodes=0,
            max_worker_nodes=values.get("max_workers", 0),
            priority=values.get("priority", 0),
            resources=values["resources"],
        )
        for name, values in launcher["available_node_types"].items()
    }

    def asked(availability, each=None):
        each = each or {"GPU": 1, "CPU": 1, "accelerator_type:L4": 0.001}
        demand = ResourceRequestUtil.group_by_count(
            [ResourceRequestUtil.make(each) for _ in range(3)]
        )
        reply = ResourceDemandScheduler(_Silent()).schedule(
            SchedulingRequest(
                node_type_configs=types,
                max_num_nodes=launcher["max_workers"],
                resource_requests=demand,
                disable_launch_config_check=True,
                recoverable_resource_availabilities=availability,
            )
        )
        return {request.instance_type: request.count for request in reply.to_launch}

    assert asked({}) == {"l4_spot": 3}
    assert asked({"l4_spot": 0.0}) == {"l4_on_demand": 3}
    assert asked({}, {"CPU": 1}) == {"cpu_on_demand": 1}, "no GPU is rented for cores"


class _Silent:
    """An event logger that keeps nothing."""

    def log_cluster_scheduling_update(self, *_, **__):
        pass


@pytest.mark.parametrize(("platform", "template"), [("aws", "account"), ("gcp", "role")])
def test_stacks_are_what_cloudformation_takes(platform, template, tmp_path):
    pytest.importorskip("cfnlint")
    path = tmp_path / f"{template}.yaml"
    path.write_text(files(platform)[path.name])
    assert not re.search(r"(^|[ \[])[*&]\w", path.read_text(), re.M), "it takes no aliases"
    command = [str(Path(sys.executable).with_name("cfn-lint")), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_ray_up_uses_the_stacks_roles_and_its_group_by_id_and_opens_nothing(account):
    """With a second network, in which Ray would make a group of its own, open to the world."""
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.util import prepare_config

    ec2 = boto3.client("ec2")
    other = ec2.create_vpc(CidrBlock="10.99.0.0/16")["Vpc"]["VpcId"]
    ec2.create_subnet(VpcId=other, CidrBlock="10.99.0.0/20")
    network = vpc()
    account("aws", "account", Bucket="ours", Vpc=network, AdminCidr="203.0.113.7/32")
    group_id = boto3.client("cloudformation").describe_stack_resource(
        StackName="account", LogicalResourceId="Group"
    )["StackResourceDetail"]["PhysicalResourceId"]
    filters = [{"Name": "vpc-id", "Values": [network]}]
    subnets = [item["SubnetId"] for item in ec2.describe_subnets(Filters=filters)["Subnets"]]
    overrides = [f"aws.security_group={group_id}", f"aws.subnets={json.dumps(subnets)}"]
    config = load("aws", *overrides)
    config["auth"]["ssh_private_key"] = "/dev/null"
    for node_type in config["available_node_types"].values():
        node_type["node_config"]["KeyName"] = "mine"
    groups = len(ec2.describe_security_groups()["SecurityGroups"])
    made = bootstrap_aws(prepare_config(config))
    for name, node_type in made["available_node_types"].items():
        node = node_type["node_config"]
        role = "ray-si-head" if name == "head" else "ray-si-worker"
        assert node["IamInstanceProfile"] == {"Name": role}
        assert node["MetadataOptions"]["HttpTokens"] == "required"
        assert node["SecurityGroupIds"] == [group_id]
        assert set(node["SubnetIds"]) <= set(subnets)
        profile = boto3.client("iam").get_instance_profile(InstanceProfileName=role)
        assert [r["RoleName"] for r in profile["InstanceProfile"]["Roles"]] == [role]
    assert len(ec2.describe_security_groups()["SecurityGroups"]) == groups
    (group,) = ec2.describe_security_groups(GroupIds=[group_id])["SecurityGroups"]
    ranges = [r["CidrIp"] for p in group["IpPermissions"] for r in p["IpRanges"]]
    assert ranges == ["203.0.113.7/32"]
