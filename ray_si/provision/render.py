"""Templates and values to the files that make a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ray_si.config import RunConfig
from ray_si.config.file import load_config, parse_section, read_values
from ray_si.config.nodes import PRICE
from ray_si.errors import ConfigError
from ray_si.provision.checks import check_platform, check_run, machine_of
from ray_si.provision.values import SECRET, Group, Platform, Values, beside
from ray_si.serving.placement import check_models

RAY = "2.60.0"
"""Version of Ray on the nodes, as in constraints.txt."""

_MARKET = "ray.io/market-type"
"""Ray's own label of spot machines; the gate's shards keep off them."""

_HERE = Path(__file__).parent
_TEMPLATES = _HERE / "templates"

_MONITORING = (
    "compose.yaml",
    "prometheus.yml",
    "alerts.yml",
    "provisioning/dashboards/ray_si.yaml",
    "provisioning/datasources/prometheus.yaml",
)

_SHM = 0.35
"""Of a pod's memory: room for Ray's object store, which has three tenths."""


def load_values(path: str | Path, overrides: list[str]) -> Values:
    """Read a file of values and apply dotted overrides; ConfigError naming the key."""
    return parse_section(Values, read_values(path, overrides), str(path))


def render(values: Values, platform: Platform, source: str | Path = ".") -> dict[str, str]:
    """Name -> text of each file. Raises ConfigError where the values cannot make a cluster there.

    The run's configuration, ``job.config``, is looked for beside ``source``, the file of values.
    """
    check_platform(values, platform)
    run_config = ""
    if values.job.config:
        path = beside(values.job.config, source)
        config = load_config(path)
        check_run(values, config)
        run_config = _as_text(config)
    if platform == "kubernetes":
        return _kubernetes(values, run_config)
    return _launcher(values, platform)


def _as_text(config: RunConfig) -> str:
    """A run's configuration as it was given; ConfigError where it names files that pods lack."""
    check_models(config)
    local = [name for name in config.decontaminate if "://" not in name]
    local += [config.seeds] * (config.seeds != "bundled")
    for generator in config.generators.values():
        if generator.engine == "replay" and generator.replay.recording:
            local.append(generator.replay.recording)
    if local:
        raise ConfigError(
            f"job.config: {', '.join(local)} is not where pods are; ray-si submit sends files"
        )
    return yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True), sort_keys=False)


def write(files: dict[str, str], folder: Path) -> None:
    """Write files below a folder; those of an earlier rendering are replaced."""
    for name, text in files.items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}") from error


def _kubernetes(values: Values, run_config: str) -> dict[str, str]:
    references = {
        variable: match.groupdict()
        for variable, reference in values.secrets.items()
        if (match := SECRET["kubernetes"].fullmatch(reference))
    }
    claim = values.kubernetes.cache_claim
    pools = values.kubernetes.node_pools
    given = _common(values) | {
        "run_config": run_config,
        "secrets_of_namespace": list(references.items()),
        "secret_names": sorted({secret["secret"] for secret in references.values()}),
        "cache_volume": {
            "name": "cache",
            **({"persistentVolumeClaim": {"claimName": claim}} if claim else {"emptyDir": {}}),
        },
        "dashboards": _dashboards(),
        "machines": {
            name: machine_of(values, "kubernetes", name)
            for name, group in values.used_groups.items()
            if group.gpus and pools
        },
        "pod_resources": _pod_resources,
        "shm": lambda memory_gib: max(1, round(_SHM * memory_gib)),
    }
    names = ["base.yaml", "raycluster.yaml", "redis.yaml", "monitoring.yaml", "check.sh"]
    if pools:
        names += ["eks.yaml", "nodes.yaml"]
    files = {name: _text(f"kubernetes/{name}", given | {"with_run": False}) for name in names}
    if run_config:
        files["rayjob.yaml"] = _text("kubernetes/rayjob.yaml", given | {"with_run": True})
    return files


def _launcher(values: Values, platform: Platform) -> dict[str, str]:
    types = [
        _node_type(values, platform, name, spot=spot)
        for name, group in values.used_groups.items()
        for spot in ((True, False) if group.spot else (False,))
    ]
    exports = ""
    if values.secrets:
        references = " ".join(f"{name}={arn}" for name, arn in values.secrets.items())
        exports = (
            f'exports=$(python -m ray_si.provision.secret_env {references}) && eval "$exports" && '
        )
    given = _common(values) | {
        "types": types,
        "worker_machines": sorted({kind["machine"] for kind in types}),
        "head_machine": machine_of(values, platform, "head"),
        "head_commands": _identity(values, platform) + _install(values, "transformers"),
        "cache_folder": "/opt/dlami/nvme/ray-si" if platform == "aws" else "/var/cache/ray-si",
        "exports": exports,
        "secret_arns": sorted(values.secrets.values()),
    }
    if platform == "gcp":
        given["head_commands"] += [
            "pip install --quiet google-api-python-client==2.190.0 cryptography"
        ]
    names = {"aws": ("account.yaml", "cluster.yaml")}.get(
        platform, ("role.yaml", "look.yaml", "end.yaml", "cluster.yaml")
    )
    files = {name: _text(f"{platform}/{name}", given) for name in names}
    files |= {f"monitoring/{name}": _text(f"monitoring/{name}", given) for name in _MONITORING}
    dashboards = _dashboards()
    return files | {f"monitoring/grafana/{name}.json": text for name, text in dashboards.items()}


def _common(values: Values) -> dict[str, Any]:
    """What templates of every platform are given: the values themselves, and what follows."""
    fields = {name: getattr(values, name) for name in Values.model_fields}
    return fields | {
        "groups": values.used_groups,
        "ray": RAY,
        "most_nodes": values.most_nodes,
        "head_labels": {PRICE: f"{values.head.dollars_per_hour:g}"},
        "labels_of": _labels,
    }


def _labels(group: Group, *, spot: bool | None = None) -> dict[str, str]:
    labels = {PRICE: f"{group.dollars_per_hour:g}"}
    return labels if spot is None else labels | {_MARKET: "spot" if spot else "on-demand"}


def _node_type(values: Values, platform: Platform, name: str, *, spot: bool) -> dict[str, Any]:
    """A launcher's type of node: a group's spot machines, or those on demand."""
    group = values.groups[name]
    resources = {"CPU": group.cpus}
    if group.gpus:
        resources |= {"GPU": group.gpus, f"accelerator_type:{group.accelerator}": 1}
    scheduling: list[dict[str, str]] = []
    if spot:
        scheduling = [{"provisioningModel": "SPOT"}, {"instanceTerminationAction": "DELETE"}]
    if group.gpus or spot:
        scheduling.append({"onHostMaintenance": "TERMINATE"})
    image = values.images and (values.images.gpu if group.gpus else values.images.cpu)
    if not image and not group.gpus:
        image = f"rayproject/ray:{RAY}-py311-cpu"
    return {
        "name": f"{name.replace('-', '_')}_{'spot' if spot else 'on_demand'}",
        "group": group,
        "spot": spot,
        "priority": 1 if spot else 0,
        "machine": machine_of(values, platform, name),
        "resources": resources,
        "labels": _labels(group, spot=spot),
        "image": image,
        "commands": _identity(values, platform)
        + _install(values, values.engine if group.gpus else "transformers"),
        "scheduling": scheduling,
    }


def _install(values: Values, engine: str) -> list[str]:
    """Commands that set a node up; none with images of one's own."""
    if values.images:
        return []
    constraints, package = (
        ("constraints-vllm.txt", "vllm ")
        if engine == "vllm"
        else (
            "constraints.txt",
            "",
        )
    )
    return [
        f"pip install --quiet -c /home/ray/ray_si/{constraints} {package}"
        f"'/home/ray/ray_si[{values.all_extras}]'"
    ]


def _identity(values: Values, platform: Platform) -> list[str]:
    """How nodes on Google Cloud get the AWS role that has the bucket."""
    if platform != "gcp":
        return []
    role = f"arn:aws:iam::{values.gcp.account}:role/{values.name}-google"
    lines = (
        "[default]",
        f"region = {values.region}",
        f"credential_process = python -m ray_si.provision.google_identity {role}",
    )
    return [
        "mkdir -p ~/.aws && printf '%s\\n' "
        + " ".join(f"'{x}'" for x in lines)
        + " > ~/.aws/config"
    ]


def _pod_resources(group: Group) -> dict[str, str]:
    gpus = {"nvidia.com/gpu": str(group.gpus)} if group.gpus else {}
    return {"cpu": str(group.cpus), "memory": f"{group.memory_gib}Gi"} | gpus


def _dashboards() -> dict[str, str]:
    return {
        path.stem.replace("_", "-"): path.read_text(encoding="utf-8")
        for path in sorted((_HERE / "grafana").glob("*.json"))
    }


def _text(template: str, given: dict[str, Any]) -> str:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["json"] = json.dumps
    return environment.get_template(template).render(given)
