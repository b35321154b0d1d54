"""Kubernetes manifests against schemas: Kubernetes' own, and KubeRay's fields from its CRDs."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.cluster.ray_kinds import KINDS, cluster_spec, kubernetes_parts
from tests.clusters import ROOT

kubernetes_validate = pytest.importorskip("kubernetes_validate")

FOLDER = ROOT / "cluster" / "kuberay"
KUBERNETES = "1.32"
RAY = ["raycluster.yaml", "rayjob.yaml"]


def load(name):
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def check(manifest):
    """Raise ValidationError where the API server would refuse it, or drop a field."""
    if manifest["kind"] in KINDS:
        jsonschema.validate(manifest, KINDS[manifest["kind"]])
        for part in kubernetes_parts(manifest):
            kubernetes_validate.validate(part, KUBERNETES, strict=True)
    else:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", ["base.yaml", "redis.yaml", *RAY])
def test_manifests_are_what_the_api_server_takes(name):
    for manifest in load(name):
        check(manifest)
        assert manifest["metadata"].get("namespace", manifest["metadata"]["name"]) == "ray-si"


def paths(value, prefix=()):
    """Paths to every mapping with at least one key."""
    if isinstance(value, dict):
        yield prefix
        for key, item in value.items():
            yield from paths(item, (*prefix, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from paths(item, (*prefix, index))


FREE = {"rayStartParams", "labels", "limits", "requests", "matchLabels", "annotations"}
"""Mappings whose keys are the user's."""


@pytest.mark.parametrize("name", RAY)
def test_a_misspelt_key_anywhere_in_a_ray_manifest_is_found(name):
    (manifest,) = load(name)
    planted = 0
    for path in paths(manifest):
        if path and path[-1] in FREE:
            continue
        broken = copy.deepcopy(manifest)  # also takes YAML's aliases apart
        broken = yaml.load(yaml.dump(broken, Dumper=_NoAliases), yaml.SafeLoader)
        place = broken
        for key in path:
            place = place[key]
        place["mispelt"] = "x"
        with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
            check(broken)
        planted += 1
    assert planted >= 50


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True


@pytest.mark.parametrize("name", RAY)
def test_pods_run_as_a_user_with_limits_and_probes(name):
    spec = cluster_spec(load(name)[0])
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
            assert {"readinessProbe", "livenessProbe"} <= container.keys()
            assert re.search(r":[\w.-]+$", container["image"])
            assert not container["image"].endswith(":latest")


@pytest.mark.parametrize("name", RAY)
def test_gpu_workers_come_and_go_and_the_head_takes_none(name):
    spec = cluster_spec(load(name)[0])
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (workers,) = spec["workerGroupSpecs"]
    assert (workers["minReplicas"], workers["replicas"]) == (0, 0) < (workers["maxReplicas"],) * 2
    (container,) = workers["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize("name", RAY)
def test_shared_memory_holds_rays_object_store_which_would_else_be_on_disk(name):
    spec = cluster_spec(load(name)[0])
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (volume,) = [v for v in pod["volumes"] if v["name"] == "shm"]
        memory = pod["containers"][0]["resources"]["limits"]["memory"]
        gibibytes = [float(x.removesuffix("Gi")) for x in (volume["emptyDir"]["sizeLimit"], memory)]
        assert 0.3 * gibibytes[1] < gibibytes[0] < gibibytes[1]  # 0.3: Ray's default


@pytest.mark.parametrize("name", RAY)
def test_the_head_with_the_driver_is_not_moved_by_those_who_tidy_nodes(name):
    template = cluster_spec(load(name)[0])["headGroupSpec"]["template"]
    assert template["metadata"]["annotations"] == {
        "karpenter.sh/do-not-disrupt": "true",
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    }


def test_what_auto_mode_leaves_out_is_there():
    by_kind = {manifest["kind"]: manifest for manifest in load("auto-mode.yaml")}
    check(by_kind["StorageClass"])
    check(by_kind["ConfigMap"])
    (claim,) = [m for m in load("redis.yaml") if m["kind"] == "PersistentVolumeClaim"]
    assert "storageClassName" not in claim["spec"], "it takes the default one"
    annotations = by_kind["StorageClass"]["metadata"]["annotations"]
    assert annotations == {"storageclass.kubernetes.io/is-default-class": "true"}
    assert by_kind["ConfigMap"]["data"] == {"enable-network-policy-controller": "true"}
    requirements = by_kind["NodePool"]["spec"]["template"]["spec"]["requirements"]
    capacity = {r["key"]: r["values"] for r in requirements}["karpenter.sh/capacity-type"]
    assert capacity == ["spot", "on-demand"]


def test_two_ray_manifests_describe_the_same_cluster():
    cluster, job = (cluster_spec(load(name)[0]) for name in RAY)
    cluster = {k: v for k, v in cluster.items() if k != "gcsFaultToleranceOptions"}
    pod = job["headGroupSpec"]["template"]["spec"]
    pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] != "run"]
    mounts = pod["containers"][0]["volumeMounts"]
    pod["containers"][0]["volumeMounts"] = [m for m in mounts if m["name"] != "run"]
    assert job == cluster


def test_nothing_is_reachable_from_outside_the_namespace_but_by_name():
    for path in FOLDER.glob("*.yaml"):
        text = path.read_text()
        assert "LoadBalancer" not in text
        assert "NodePort\n" not in text
        assert "kind: Ingress\n" not in text
    (policy,) = [m for m in load("base.yaml") if m["kind"] == "NetworkPolicy"]
    assert policy["spec"]["podSelector"] == {}
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert all("ipBlock" not in peer for rule in policy["spec"]["ingress"] for peer in rule["from"])


def test_no_file_holds_a_secret():
    for path in filter(Path.is_file, (ROOT / "cluster").rglob("*")):
        text = path.read_text()
        assert not re.search(r"^kind: Secret$", text, re.M), path
        assert not re.search(r"(AKIA|ASIA)[A-Z0-9]{16}|-----BEGIN", text), path
        assert not re.search(r"(?i)(access_key|api_key|password)[ ]*[:=][ ]*[\"']?\w{8,}", text), (
            path
        )
