"""Prometheus and Grafana: where they listen, and dashboards of metrics that there are."""

from __future__ import annotations

import json
import re
import time

import pytest
import requests
import yaml
from ray.job_submission import JobSubmissionClient

from tests.clusters import ROOT
from tests.provision.rendered import documents, files

GRAFANA = ROOT / "ray_si" / "provision" / "grafana"


def monitoring(platform="aws"):
    """Name -> text of what is rendered for a head of the launcher."""
    rendered = files(platform).items()
    return {
        name.removeprefix("monitoring/"): text
        for name, text in rendered
        if name.startswith("monitoring/")
    }


def services():
    return yaml.safe_load(monitoring()["compose.yaml"])["services"]


def test_both_listen_on_the_loopback_and_run_as_a_user():
    prometheus, grafana = services()["prometheus"], services()["grafana"]
    assert "--web.listen-address=127.0.0.1:9090" in prometheus["command"]
    assert grafana["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    for service in (prometheus, grafana):
        assert "ports" not in service
        assert not service["user"].startswith(("0", "root"))
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])


def test_what_is_mounted_is_there_and_refers_to_each_other():
    written = monitoring()
    for service in services().values():
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            if source.startswith("./"):
                name = source.removeprefix("./")
                assert any(key == name or key.startswith(f"{name}/") for key in written), source
    source = yaml.safe_load(written["provisioning/datasources/prometheus.yaml"])
    (prometheus,) = source["datasources"]
    provider = yaml.safe_load(written["provisioning/dashboards/ray_si.yaml"])
    folder = provider["providers"][0]["options"]["path"]
    assert any(f":{folder}:ro" in volume for volume in services()["grafana"]["volumes"])
    for path in GRAFANA.glob("*.json"):
        text = path.read_text()
        assert json.loads(text)["title"]
        used = set(re.findall(r'"uid": "([\w-]*prometheus[\w-]*)"', text))
        assert used <= {prometheus["uid"]}, path


def panels(path):
    return [
        target["expr"]
        for panel in json.loads(path.read_text())["panels"]
        for target in panel.get("targets", [])
    ]


@pytest.mark.parametrize("name", ["ray", "ray_si"])
def test_dashboards_are_of_the_cluster_that_is_chosen(name):
    path = GRAFANA / f"{name}.json"
    (variable,) = json.loads(path.read_text())["templating"]["list"]
    assert variable["name"] == "cluster"
    assert "ray_io_cluster" in variable["query"]
    for expression in panels(path):
        for metric in re.findall(r"\bray_[a-z_]+\b(?!=)(?:\{[^}]*\})?", expression):
            if not metric.startswith("ray_io_cluster"):
                assert 'ray_io_cluster=~"$cluster"' in metric, expression


def test_every_scrape_tells_which_cluster_it_is_of():
    (config,) = yaml.safe_load(monitoring()["prometheus.yml"])["scrape_configs"]
    assert {"target_label": "ray_io_cluster", "replacement": "ray-si"} in config["relabel_configs"]
    monitor = next(
        m for m in documents("kubernetes", "monitoring.yaml") if m["kind"] == "PodMonitor"
    )
    for endpoint in monitor["spec"]["podMetricsEndpoints"]:
        (relabeling,) = endpoint["relabelings"]
        assert relabeling["targetLabel"] == "ray_io_cluster"


def test_kubernetes_gets_monitor_alerts_and_dashboards_for_grafanas_sidecar():
    manifests = documents("kubernetes", "monitoring.yaml", "kubernetes.monitoring_labels={a: b}")
    kinds = [manifest["kind"] for manifest in manifests]
    assert kinds == ["PodMonitor", "PrometheusRule", "ConfigMap", "ConfigMap"]
    for manifest in manifests[:2]:
        assert manifest["metadata"]["labels"] == {"a": "b"}
    for manifest in manifests[2:]:
        assert manifest["metadata"]["labels"] == {"grafana_dashboard": "1"}
        (text,) = manifest["data"].values()
        assert json.loads(text)["panels"]


def test_alerts_are_of_metrics_that_the_code_sets_and_the_same_everywhere():
    (group,) = yaml.safe_load(monitoring()["alerts.yml"])["groups"]
    rule = documents("kubernetes", "monitoring.yaml")[1]
    assert rule["spec"]["groups"] == [group]
    assert {alert["alert"] for alert in group["rules"]} == {
        "NothingAccepted",
        "ReplicasRestart",
        "BudgetNearlySpent",
    }
    used = set(re.findall(r"ray_(si_\w+)", " ".join(alert["expr"] for alert in group["rules"])))
    sources = [ROOT / "ray_si" / name for name in ("serving/replicas.py", "build/watch.py")]
    code = "".join(path.read_text() for path in sources)
    for name in used:
        assert f'"{name}"' in code or f'"{name.removeprefix("si_")}"' in code, name


def test_an_alert_needs_no_metric_that_a_phase_does_not_set():
    """A sum of two vectors is empty where either is; the phases set one of these each."""
    (group,) = yaml.safe_load(monitoring()["alerts.yml"])["groups"]
    for alert in group["rules"]:
        assert not re.search(r"[)\]]\s*\+", alert["expr"]), alert["alert"]
    (quiet,) = [alert["expr"] for alert in group["rules"] if alert["alert"] == "NothingAccepted"]
    assert "ray_si_slots offset 30m" in quiet  # a build that began just now is none


@pytest.mark.slow
def test_metrics_of_the_node_dashboard_are_those_that_ray_has(head):
    """On a head, which has no GPU: the others are looked for. A job brings an actor to count."""
    client = JobSubmissionClient(head)
    job = client.submit_job(entrypoint="sleep 120")
    text = (GRAFANA / "ray.json").read_text()
    wanted = set(re.findall(r"\bray_[a-z_]+\b", text)) - {"ray_node_gpus_utilization"}
    found: set[str] = set()
    for _ in range(40):
        node = requests.get(f"{head}/nodes?view=summary", timeout=10).json()
        for item in node["data"]["summary"]:
            port = item["raylet"].get("metricsExportPort")
            address = item["raylet"].get("nodeManagerAddress")
            page = requests.get(f"http://{address}:{port}/metrics", timeout=10).text
            found |= set(re.findall(r"^(ray_[a-z_]+)", page, re.M))
        if wanted <= found:
            client.stop_job(job)
            return
        time.sleep(1)
    raise AssertionError(f"not there: {wanted - found}")
