"""One file of values makes the files of three platforms, the same groups in each."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest
import yaml

from ray_si.config.nodes import PRICE
from ray_si.provision.render import RAY
from ray_si.provision.values import Values
from tests.clusters import ROOT
from tests.command import invoke
from tests.provision.rendered import ARN, EXPECTED, LARGE, VALUES, documents, files

PLATFORMS = list(EXPECTED)
LAUNCHERS = ["aws", "gcp"]


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_command_writes_what_is_rendered_and_says_what_it_may_cost(platform, tmp_path):
    overrides = [word for item in EXPECTED[platform] for word in ("--set", item)]
    command = "cluster", "render", VALUES, "--for", platform, "--to", tmp_path, *overrides
    for _ in range(2):  # again writes the same
        done = invoke(*command)
        assert done.returncode == 0, done.stderr
        for name, text in files(platform).items():
            assert (tmp_path / name).read_text() == text
            assert str(tmp_path / name) in done.stdout
    assert re.search(r"at the most \$\d+\.\d\d an hour, for 10 workers and a head", done.stdout)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    overrides = [word for item in EXPECTED["aws"] for word in ("--set", item)]
    command = "cluster", "render", VALUES, "--for", "aws", "--to", tmp_path / "file", *overrides
    done = invoke(*command)
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("overrides", [[], LARGE], ids=["small", "large"])
def test_every_file_is_filled_in_and_reads_as_what_it_is(platform, overrides):
    for name, text in files(platform, *overrides).items():
        assert "{{" not in text or name.endswith(".json") or "legendFormat" in text
        assert "{%" not in text
        assert text.endswith("\n")
        if name.endswith((".yaml", ".yml")) and name not in ("account.yaml", "role.yaml"):
            assert list(yaml.safe_load_all(text))


def test_nodes_run_the_ray_that_the_constraints_pin():
    for name in ("constraints.txt", "constraints-vllm.txt"):
        assert re.search(rf"^ray=={re.escape(RAY)}$", (ROOT / name).read_text(), re.M)


def test_the_file_of_values_has_every_key_but_those_a_user_adds():
    given = yaml.safe_load(VALUES.read_text())
    assert given.keys() | {"images"} == Values.model_fields.keys()


def groups_of_kubernetes(*overrides):
    (cluster,) = documents("kubernetes", "raycluster.yaml", *overrides)
    return {
        group["groupName"]: {
            "most": group["maxReplicas"],
            "gpus": int(limits.get("nvidia.com/gpu", 0)),
            "kind": next(iter(group.get("resources", {})), None),
            "price": group["labels"][PRICE],
        }
        for group in cluster["spec"]["workerGroupSpecs"]
        for limits in [group["template"]["spec"]["containers"][0]["resources"]["limits"]]
    }


def groups_of_launcher(platform, *overrides):
    (config,) = documents(platform, "cluster.yaml", *overrides)
    found = {}
    for name, kind in config["available_node_types"].items():
        if name != "head":
            group = re.sub("_(spot|on_demand)$", "", name)
            kinds = [key for key in kind["resources"] if key.startswith("accelerator_type:")]
            values = {
                "most": kind["max_workers"],
                "gpus": kind["resources"].get("GPU", 0),
                "kind": next(iter(kinds), None),
                "price": kind["labels"][PRICE],
            }
            assert found.setdefault(group, values) == values
    return found


def test_three_platforms_have_the_same_groups_with_one_four_and_eight_gpus():
    groups = groups_of_kubernetes(*LARGE)
    assert {name: group["gpus"] for name, group in groups.items()} == {
        "cpu": 0,
        "l4": 1,
        "l4x4": 4,
        "h100x8": 8,
    }
    for platform in LAUNCHERS:
        assert groups_of_launcher(platform, *LARGE) == groups


def test_an_accelerator_is_told_before_there_is_a_node_of_it():
    """Else `generator.accelerator` would never scale from zero."""
    for groups in (groups_of_kubernetes(), *map(groups_of_launcher, LAUNCHERS)):
        assert groups["l4"]["kind"] == "accelerator_type:L4"
        assert groups["cpu"]["kind"] is None


def test_kuberays_autoscaler_reads_kind_and_price_of_a_group_from_the_manifest():
    from ray.autoscaler._private.kuberay.autoscaling_config import (
        _derive_autoscaling_config_from_ray_cr as derive,
    )

    (cluster,) = documents("kubernetes", "raycluster.yaml")
    cluster["metadata"]["namespace"] = "ray-si"
    types = derive(cluster)["available_node_types"]
    assert types["l4"]["resources"] | {"memory": 0} == {
        "CPU": 6,
        "GPU": 1,
        "memory": 0,
        "accelerator_type:L4": 1,
    }
    assert types["l4"]["labels"][PRICE] == "0.98"
    assert "GPU" not in types["cpu"]["resources"]


@pytest.mark.parametrize("platform", LAUNCHERS)
def test_launchers_install_what_the_engine_needs_where_it_runs(platform):
    def commands(engine, name):
        (config,) = documents(platform, "cluster.yaml", f"engine={engine}")
        if name == "head":
            return " ".join(config["head_setup_commands"])
        return " ".join(config["available_node_types"][name]["worker_setup_commands"])

    assert "-c /home/ray/ray_si/constraints-vllm.txt vllm " in commands("vllm", "l4_spot")
    assert "vllm" not in commands("vllm", "head")
    assert "vllm" not in commands("vllm", "cpu_on_demand")
    for name in ("head", "cpu_on_demand", "l4_on_demand"):
        assert "ray_si[bundled,openai]" in commands("openai", name)
        assert "constraints.txt" in commands("transformers", name)


@pytest.mark.parametrize("platform", LAUNCHERS)
def test_with_images_of_ones_own_nodes_install_nothing(platform):
    (images,) = EXPECTED["kubernetes"]
    (config,) = documents(platform, "cluster.yaml", images)
    assert "file_mounts" not in config
    assert "pip install --quiet -c" not in yaml.safe_dump(config)
    assert config["docker"]["head_image"] == "r.io/x/ray-si:cpu-1"
    assert config["docker"]["worker_image"] == "r.io/x/ray-si:gpu-1"
    types = config["available_node_types"]
    assert types["cpu_on_demand"]["docker"]["worker_image"] == "r.io/x/ray-si:cpu-1"


@pytest.mark.parametrize("platform", LAUNCHERS)
def test_every_node_reads_its_secrets_before_ray_starts_and_no_file_has_one(platform):
    (config,) = documents(platform, "cluster.yaml", f"secrets.HF_TOKEN={ARN}")
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        _, start = config[key]
        assert start.startswith(f"exports=$(python -m ray_si.provision.secret_env HF_TOKEN={ARN})")
        assert ' && eval "$exports" && ray start ' in start


def test_pods_of_head_and_workers_read_secrets_by_reference():
    (cluster,) = documents("kubernetes", "raycluster.yaml", "secrets.HF_TOKEN=hugging-face/token")
    spec = cluster["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        (entry,) = [item for item in container["env"] if item["name"] == "HF_TOKEN"]
        assert entry["valueFrom"] == {"secretKeyRef": {"name": "hugging-face", "key": "token"}}


@pytest.mark.parametrize("claim", [None, "models"])
def test_models_are_kept_where_hf_home_is(claim):
    overrides = [f"kubernetes.cache_claim={claim}"] if claim else []
    (cluster,) = documents("kubernetes", "raycluster.yaml", *overrides)
    for group in cluster["spec"]["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        environment = {item["name"]: item.get("value") for item in container["env"]}
        (mount,) = [m for m in container["volumeMounts"] if m["name"] == "cache"]
        assert environment["HF_HOME"].startswith(mount["mountPath"])
        (volume,) = [v for v in pod["volumes"] if v["name"] == "cache"]
        expected = {"persistentVolumeClaim": {"claimName": claim}} if claim else {"emptyDir": {}}
        assert volume == {"name": "cache", **expected}
    for platform in LAUNCHERS:
        (config,) = documents(platform, "cluster.yaml")
        options = " ".join(config["docker"]["run_options"])
        (folder,) = re.findall(r"--volume (\S+):/home/ray/cache", options)
        assert "--env HF_HOME=/home/ray/cache/" in options
        assert f"sudo mkdir -p -m 1777 {folder}" in config["initialization_commands"]


def test_a_queue_of_kueue_is_a_label_of_cluster_and_job():
    job = [f"job.config={ROOT / 'configs/gpu-1.yaml'}", "kubernetes.queue=team"]
    for name in ("raycluster.yaml", "rayjob.yaml"):
        metadata = documents("kubernetes", name, *job)[-1]["metadata"]
        assert metadata["labels"] == {"kueue.x-k8s.io/queue-name": "team"}
        assert metadata["annotations"] == {"kueue.x-k8s.io/elastic-job": "true"}


def test_a_job_has_deadlines_few_tries_and_an_end_that_is_not_repeated():
    job = [f"job.config={ROOT / 'configs/gpu-1.yaml'}", "job.deadline_hours=1.5", "job.retries=1"]
    run, manifest = documents("kubernetes", "rayjob.yaml", *job)
    spec = manifest["spec"]
    assert spec["activeDeadlineSeconds"] == 5400
    assert spec["preRunningDeadlineSeconds"] == 3600
    assert spec["backoffLimit"] == 1
    assert spec["entrypoint"].endswith("--out s3://my-datasets-4711/first --no-repeat --retries 3")
    from ray_si.config.file import load_config, parse_config

    given = load_config(ROOT / "configs/gpu-1.yaml")
    assert parse_config(yaml.safe_load(run["data"]["run.yaml"])) == given


def test_a_token_is_asked_for_where_the_values_say_so():
    (cluster,) = documents("kubernetes", "raycluster.yaml", "kubernetes.token=true")
    assert cluster["spec"]["authOptions"] == {"mode": "token"}
    (cluster,) = documents("kubernetes", "raycluster.yaml")
    assert "authOptions" not in cluster["spec"]


def test_what_is_missing_on_the_cluster_is_a_line_each(tmp_path):
    """With a kubectl that finds nothing but the namespace."""
    overrides = ["secrets.HF_TOKEN=hugging-face/token", "kubernetes.queue=team"]
    (tmp_path / "check.sh").write_text(files("kubernetes", *overrides)["check.sh"])
    kubectl = tmp_path / "kubectl"
    kubectl.write_text('#!/bin/sh\n[ "$2" = namespace ]\n')
    kubectl.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        [shutil.which("sh") or "sh", tmp_path / "check.sh"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("missing: ") for line in lines)
    assert "secret hugging-face --namespace ray-si" in done.stderr
    kubectl.write_text("#!/bin/sh\n")
    assert subprocess.run(["sh", tmp_path / "check.sh"], env=environment).returncode == 0
