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

MONITORING = ROOT / "cluster" / "monitoring"
GRAFANA = ROOT / "cluster" / "grafana"


def services():
    return yaml.safe_load((MONITORING / "compose.yaml").read_text())["services"]


def test_both_listen_on_the_loopback_and_run_as_a_user():
    prometheus, grafana = services()["prometheus"], services()["grafana"]
    assert "--web.listen-address=127.0.0.1:9090" in prometheus["command"]
    assert grafana["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    for service in (prometheus, grafana):
        assert "ports" not in service
        assert not service["user"].startswith(("0", "root"))
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])


def test_what_is_mounted_is_there_and_refers_to_each_other():
    for service in services().values():
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (MONITORING / source).exists()
    source = yaml.safe_load((MONITORING / "provisioning/datasources/prometheus.yaml").read_text())
    (prometheus,) = source["datasources"]
    provider = yaml.safe_load((MONITORING / "provisioning/dashboards/ray_si.yaml").read_text())
    folder = provider["providers"][0]["options"]["path"]
    assert any(f":{folder}:ro" in volume for volume in services()["grafana"]["volumes"])
    for path in GRAFANA.glob("*.json"):
        text = path.read_text()
        assert json.loads(text)["title"]
        used = set(re.findall(r'"uid": "([\w-]*prometheus[\w-]*)"', text))
        assert used <= {prometheus["uid"]}, path


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
