"""Rendered Kubernetes manifests against schemas: Kubernetes' own, and KubeRay's from its CRDs."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.cluster.ray_kinds import KINDS, cluster_spec, kubernetes_parts
from tests.clusters import ROOT
from tests.provision.rendered import LARGE, documents, files

kubernetes_validate = pytest.importorskip("kubernetes_validate")

JOB = f"job.config={ROOT / 'configs/gpu-1.yaml'}"
KUBERNETES = "1.32"
RAY = ["raycluster.yaml", "rayjob.yaml"]


def load(name):
    return documents("kubernetes", name, JOB, *LARGE)


def load_ray(name):
    """The cluster or job of a file."""
    return load(name)[-1]


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


FREE = {
    *("rayStartParams", "labels", "limits", "requests", "matchLabels", "annotations"),
    *("nodeSelector", "resources"),
}
"""Mappings whose keys are the user's."""


@pytest.mark.parametrize("name", RAY)
def test_a_misspelt_key_anywhere_in_a_ray_manifest_is_found(name):
    manifest = load_ray(name)
    del cluster_spec(manifest)["workerGroupSpecs"][2:]  # one without GPUs, one with
    planted = 0
    text = json.dumps(manifest)  # unlike a deep copy, it takes YAML's aliases apart
    places = {tuple(key for key in path if isinstance(key, str)): path for path in paths(manifest)}
    for path in places.values():  # of several alike in a list, the last
        if path and path[-1] in FREE - {"resources"}:
            continue
        if path and path[-1] == "resources" and not {"containers", "autoscalerOptions"} & set(path):
            continue  # a group's, whose keys are the names of resources
        broken = json.loads(text)
        place = broken
        for key in path:
            place = place[key]
        place["mispelt"] = "x"
        with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
            check(broken)
        planted += 1
    assert planted >= 45


@pytest.mark.parametrize("name", RAY)
def test_pods_run_as_a_user_with_limits(name):
    spec = cluster_spec(load_ray(name))
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
            assert "livenessProbe" not in container, "the operator knows its release's better"
            assert re.search(r":[\w.-]+$", container["image"])
            assert not container["image"].endswith(":latest")


@pytest.mark.parametrize("name", RAY)
def test_workers_come_and_go_and_the_head_takes_no_replica(name):
    spec = cluster_spec(load_ray(name))
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in spec["workerGroupSpecs"]:
        assert (group["minReplicas"], group["replicas"]) == (0, 0)
        assert group["maxReplicas"] > 0
        pod = group["template"]["spec"]
        assert pod["nodeSelector"] == {"kubernetes.io/arch": "amd64"}
        has_gpus = "nvidia.com/gpu" in pod["containers"][0]["resources"]["limits"]
        assert bool(pod.get("tolerations")) == has_gpus == (group["groupName"] != "cpu")


@pytest.mark.parametrize("name", RAY)
def test_shared_memory_holds_rays_object_store_which_would_else_be_on_disk(name):
    spec = cluster_spec(load_ray(name))
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (volume,) = [v for v in pod["volumes"] if v["name"] == "shm"]
        memory = pod["containers"][0]["resources"]["limits"]["memory"]
        gibibytes = [float(x.removesuffix("Gi")) for x in (volume["emptyDir"]["sizeLimit"], memory)]
        assert 0.3 * gibibytes[1] < gibibytes[0] < gibibytes[1]  # 0.3: Ray's default


@pytest.mark.parametrize("name", RAY)
def test_pods_are_not_moved_by_those_who_tidy_nodes(name):
    spec = cluster_spec(load_ray(name))
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert group["template"]["metadata"]["annotations"] == {
            "karpenter.sh/do-not-disrupt": "true",
            "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        }


def test_what_auto_mode_leaves_out_is_there():
    manifests = load("nodes.yaml")
    by_kind = {manifest["kind"]: manifest for manifest in manifests}
    check(by_kind["StorageClass"])
    check(by_kind["ConfigMap"])
    (claim,) = [m for m in load("redis.yaml") if m["kind"] == "PersistentVolumeClaim"]
    assert "storageClassName" not in claim["spec"], "it takes the default one"
    annotations = by_kind["StorageClass"]["metadata"]["annotations"]
    assert annotations == {"storageclass.kubernetes.io/is-default-class": "true"}
    assert by_kind["ConfigMap"]["data"] == {"enable-network-policy-controller": "true"}


def test_each_group_with_gpus_has_a_pool_of_its_machines_that_it_alone_takes():
    pools = {
        m["metadata"]["name"]: m["spec"] for m in load("nodes.yaml") if m["kind"] == "NodePool"
    }
    groups = cluster_spec(load_ray("raycluster.yaml"))["workerGroupSpecs"]
    with_gpus = [group for group in groups if "tolerations" in group["template"]["spec"]]
    assert len(pools) == len(with_gpus) == 3
    for group in with_gpus:
        pool = pools[f"ray-si-{group['groupName']}"]
        requirements = {r["key"]: r["values"] for r in pool["template"]["spec"]["requirements"]}
        assert requirements["karpenter.sh/capacity-type"] == ["spot", "on-demand"]
        assert len(requirements["node.kubernetes.io/instance-type"]) == 1
        pod = group["template"]["spec"]
        affinity = pod["affinity"]["nodeAffinity"]
        (terms,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        (term,) = terms["matchExpressions"]
        assert pool["template"]["metadata"]["labels"] == {term["key"]: term["values"][0]}
        each = int(pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
        assert int(pool["limits"]["nvidia.com/gpu"]) == each * group["maxReplicas"]


@pytest.mark.skipif("RAY_SI_CRDS" not in os.environ, reason="RAY_SI_CRDS names no folder of CRDs")
def test_manifests_are_what_the_operators_own_crds_take():
    """Of every release in the folder: helm-chart/kuberay-operator/crds/*.yaml of KubeRay."""
    paths = sorted(Path(os.environ["RAY_SI_CRDS"]).glob("*.yaml"))
    schemas = [yaml.load(path.read_text(), yaml.CSafeLoader) for path in paths]
    looked = 0
    for definition in schemas:
        kind = definition["spec"]["names"]["kind"]
        (version,) = [v for v in definition["spec"]["versions"] if v["name"] == "v1"]
        schema = closed(version["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object"}
        for name in RAY:
            if (manifest := load_ray(name))["kind"] == kind:
                jsonschema.validate(manifest, schema)
                looked += 1
    assert looked >= 2


def closed(schema):
    """A CRD's schema that takes no other keys, as the API server would drop them."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: closed(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        return {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        schema.setdefault("additionalProperties", False)
    return schema


def test_two_ray_manifests_describe_the_same_cluster():
    cluster, job = (cluster_spec(load_ray(name)) for name in RAY)
    cluster = {k: v for k, v in cluster.items() if k != "gcsFaultToleranceOptions"}
    pod = job["headGroupSpec"]["template"]["spec"]
    pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] != "run"]
    mounts = pod["containers"][0]["volumeMounts"]
    pod["containers"][0]["volumeMounts"] = [m for m in mounts if m["name"] != "run"]
    assert job == cluster


def test_nothing_is_reachable_from_outside_the_namespace_but_by_name():
    for name, text in files("kubernetes", JOB).items():
        assert "LoadBalancer" not in text, name
        assert "NodePort\n" not in text, name
        assert "kind: Ingress\n" not in text, name
    (policy,) = [m for m in load("base.yaml") if m["kind"] == "NetworkPolicy"]
    assert policy["spec"]["podSelector"] == {}
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert all("ipBlock" not in peer for rule in policy["spec"]["ingress"] for peer in rule["from"])


def test_no_file_holds_a_secret():
    written = {
        path: path.read_text() for path in filter(Path.is_file, (ROOT / "cluster").rglob("*"))
    }
    for platform in ("aws", "gcp", "kubernetes"):
        written |= {Path(platform, name): text for name, text in files(platform).items()}
    for path, text in written.items():
        assert not re.search(r"^kind: Secret$", text, re.M), path
        assert not re.search(r"(AKIA|ASIA)[A-Z0-9]{16}|-----BEGIN", text), path
        assert not re.search(r"(?i)(access_key|api_key|password)[ ]*[:=][ ]*[\"']?\w{8,}", text), (
            path
        )
