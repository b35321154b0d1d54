"""What KubeRay's CRDs say of RayCluster and RayJob, as far as Ray's own fields go.

Names, types and what is required are those that the published CRDs of 1.6 and 1.7 have in common,
so what passes here passes on both; test_manifests.py holds the manifests against CRDs themselves,
where there are any. Stricter here: numbers have a minimum, and a few strings their values, as the
operator itself checks them. Pod templates and other parts of Kubernetes' own are left to
Kubernetes' schemas: see `kubernetes_parts`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _map(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": of}


TEXT, COUNT, FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
OTHERS = {"type": "object"}
"""Kubernetes' own; checked with its own schemas."""

_SECRET_VALUE = _object(value=TEXT, valueFrom=OTHERS)

_AUTOSCALER = _object(
    version={"enum": ["v1", "v2"]},
    upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    idleTimeoutSeconds=COUNT,
    image=TEXT,
    imagePullPolicy=TEXT,
    resources=OTHERS,
    securityContext=OTHERS,
    env={"type": "array"},
    envFrom={"type": "array"},
    volumeMounts={"type": "array"},
)
_HEAD = _object(
    ("template",),
    template=OTHERS,
    rayStartParams=_map(TEXT),
    serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]},
    headService=OTHERS,
    enableIngress=FLAG,
    resources=_map(TEXT),
    labels=_map(TEXT),
)
_WORKERS = _object(
    ("groupName", "maxReplicas", "minReplicas", "template"),
    groupName=TEXT,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    numOfHosts=COUNT,
    idleTimeoutSeconds=COUNT,
    suspend=FLAG,
    rayStartParams=_map(TEXT),
    resources=_map(TEXT),
    labels=_map(TEXT),
    template=OTHERS,
    scaleStrategy=OTHERS,
)
CLUSTER_SPEC = _object(
    ("headGroupSpec",),
    rayVersion=TEXT,
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=_AUTOSCALER,
    gcsFaultToleranceOptions=_object(
        ("redisAddress",),
        redisAddress=TEXT,
        redisUsername=_SECRET_VALUE,
        redisPassword=_SECRET_VALUE,
        externalStorageNamespace=TEXT,
    ),
    authOptions=_object(
        mode={"enum": ["disabled", "token"]}, enableK8sTokenAuth=FLAG, secretName=TEXT
    ),
    headServiceAnnotations=_map(TEXT),
    upgradeStrategy=OTHERS,
    suspend=FLAG,
    managedBy=TEXT,
    headGroupSpec=_HEAD,
    workerGroupSpecs={"type": "array", "items": _WORKERS},
)
JOB_SPEC = _object(
    (),
    entrypoint=TEXT,
    runtimeEnvYAML=TEXT,
    jobId=TEXT,
    metadata=_map(TEXT),
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    entrypointResources=TEXT,
    entrypointNumCpus={"type": "number"},
    entrypointNumGpus={"type": "number"},
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    preRunningDeadlineSeconds={"type": "integer", "minimum": 1},
    backoffLimit=COUNT,
    clusterSelector=_map(TEXT),
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=COUNT,
    suspend=FLAG,
    managedBy=TEXT,
    submitterPodTemplate=OTHERS,
    submitterConfig=_object(backoffLimit=COUNT),
    deletionStrategy=OTHERS,
    rayClusterSpec=CLUSTER_SPEC,
)
KINDS = {
    kind: _object(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": "ray.io/v1"},
        kind={"const": kind},
        metadata=_object(
            ("name",), name=TEXT, namespace=TEXT, labels=_map(TEXT), annotations=_map(TEXT)
        ),
        spec=spec,
    )
    for kind, spec in (("RayCluster", CLUSTER_SPEC), ("RayJob", JOB_SPEC))
}


def cluster_spec(manifest: dict[str, Any]) -> dict[str, Any]:
    """The cluster's specification in either kind."""
    spec: dict[str, Any] = manifest["spec"]
    return spec["rayClusterSpec"] if manifest["kind"] == "RayJob" else spec


def kubernetes_parts(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Everything in it that is Kubernetes' own, dressed as manifests that Kubernetes knows."""
    spec = cluster_spec(manifest)
    yield {"apiVersion": "v1", "kind": "ConfigMap", "metadata": manifest["metadata"]}
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        yield {
            "apiVersion": "v1",
            "kind": "PodTemplate",
            "metadata": {"name": "x"},
            "template": group["template"],
        }
    options = spec["autoscalerOptions"]
    container = {k: options[k] for k in ("resources", "securityContext", "env") if k in options}
    password = spec.get("gcsFaultToleranceOptions", {}).get("redisPassword", {})
    yield {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "x"},
        "spec": {
            "containers": [{"name": "x", "env": [{"name": "X", **password}]} | container],
        },
    }
