"""The launchers' configurations: Ray's validator, CloudFormation's, and what Ray makes of them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest
import yaml

from tests.clusters import ROOT

CLUSTER = ROOT / "cluster"
LAUNCHERS = ["aws", "gcp"]


def load(name):
    return yaml.safe_load((CLUSTER / f"{name}.yaml").read_text())


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

    def create(template, **parameters):
        formation.create_stack(
            StackName=template,
            TemplateBody=(CLUSTER / f"{template}.yaml").read_text(),
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
    for path in (CLUSTER / "kuberay").glob("ray*.yaml"):
        assert f'rayVersion: "{pins["ray"]}"' in path.read_text()


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
    demand = ResourceRequestUtil.group_by_count(
        [ResourceRequestUtil.make({"GPU": 1, "CPU": 1}) for _ in range(3)]
    )

    def asked(availability):
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

    assert asked({}) == {"gpu_spot": 3}
    assert asked({"gpu_spot": 0.0}) == {"gpu_on_demand": 3}


class _Silent:
    """An event logger that keeps nothing."""

    def log_cluster_scheduling_update(self, *_, **__):
        pass


@pytest.mark.parametrize("template", ["aws-account", "google-role"])
def test_stacks_are_what_cloudformation_takes(template):
    pytest.importorskip("cfnlint")
    command = [str(Path(sys.executable).with_name("cfn-lint")), str(CLUSTER / f"{template}.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_ray_up_uses_the_stacks_role_and_group_and_opens_nothing(account):
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.util import prepare_config

    account("aws-account", Bucket="ours", Vpc=vpc(), AdminCidr="203.0.113.7/32")
    config = load("aws")
    config["auth"]["ssh_private_key"] = "/dev/null"
    for node_type in config["available_node_types"].values():
        node_type["node_config"]["KeyName"] = "mine"
    made = bootstrap_aws(prepare_config(config))
    ec2 = boto3.client("ec2")
    for node_type in made["available_node_types"].values():
        node = node_type["node_config"]
        assert node["IamInstanceProfile"] == {"Name": "ray-si"}
        assert node["MetadataOptions"]["HttpTokens"] == "required"
        (group,) = ec2.describe_security_groups(GroupIds=node["SecurityGroupIds"])["SecurityGroups"]
        assert group["GroupName"] == "ray-si"
        ranges = [r["CidrIp"] for p in group["IpPermissions"] for r in p["IpRanges"]]
        assert ranges == ["203.0.113.7/32"]
    role = boto3.client("iam").get_instance_profile(InstanceProfileName="ray-si")
    assert [r["RoleName"] for r in role["InstanceProfile"]["Roles"]] == ["ray-si"]


def test_a_node_on_google_cloud_gets_credentials_of_the_role_without_a_key(
    account, monkeypatch, tmp_path
):
    """boto3 runs the script itself; the metadata server is the one part that is only imitated."""
    asked = []

    class Metadata(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers["Metadata-Flavor"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"header.identity.signature")

        def log_message(self, *_):
            pass

    account("google-role", Bucket="theirs", ServiceAccount="123456789")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    script = (CLUSTER / "google_identity.ini").read_text()
    script = script.replace("/home/ray/ray_si/cluster", str(CLUSTER)).replace(
        "ACCOUNT", "123456789012"
    )
    script = script.replace("= python ", f"= {sys.executable} ")
    path = tmp_path / "config"
    path.write_text(script)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(path))
    monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.server_port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    try:
        credentials = boto3.session.Session().get_credentials()
        key = credentials.get_frozen_credentials()
    finally:
        server.shutdown()
        server.server_close()
    assert credentials.method == "custom-process"
    assert key.access_key.startswith("ASIA")
    assert key.token
    assert [flavor for _, flavor in asked] == ["Google"]
    assert asked[0][0].endswith("/default/identity?audience=ray-si")
