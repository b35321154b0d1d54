"""What doctor finds out, one thing at a time."""

from __future__ import annotations

import importlib.metadata

from ray_si.planning import doctor


def test_a_bucket_that_can_be_written_and_one_that_is_not_there(s3):
    assert doctor.store("s3://data/runs").is_fine
    absent = doctor.store("s3://absent-bucket/runs")
    assert absent.is_fine is False
    assert "absent-bucket" in absent.text
    assert s3.list_objects_v2(Bucket="data")["KeyCount"] == 0


def test_the_nodes_of_a_cluster_are_counted(ray_session):
    assert doctor.cluster("auto").text == "1 nodes with 4 CPU and 0 GPU"


def test_an_endpoint_whose_key_is_not_set(monkeypatch):
    monkeypatch.delenv("NOT_SET", raising=False)
    assert doctor.endpoint("http://localhost:1/v1", "NOT_SET").text == (
        "the environment variable NOT_SET holds no key"
    )


def test_an_endpoint_that_is_no_url_and_one_where_nothing_listens():
    found = doctor.endpoint("http://localhost:8000v1", None)
    assert (found.text, found.is_fine) == (
        "http://localhost:8000v1 is no URL; write http://host:8000/v1",
        False,
    )
    assert "Connection refused" in doctor.endpoint("http://127.0.0.1:1/v1", None).text


def test_no_ray_is_started_to_look_at_a_cluster(monkeypatch):
    monkeypatch.setattr("ray_si.serving.connect.connect", None)
    assert doctor.cluster("local").is_fine is None


def test_an_endpoint_and_a_page_of_a_web_server(endpoint):
    found = doctor.endpoint(endpoint.url, "RAY_SI_TEST_KEY")
    assert (found.text, found.is_fine) == (
        f"{endpoint.url} answers; models: replay-1, replay-2",
        True,
    )
    site = endpoint.url.replace("/v1", "/site")
    found = doctor.endpoint(site, "RAY_SI_TEST_KEY")
    assert (found.text, found.is_fine) == (
        f"{site}: what answers is no OpenAI-compatible server; most end in /v1",
        False,
    )


def test_this_machine_in_lines():
    subjects = [finding.subject for finding in doctor.machine()]
    assert subjects[:4] == ["versions", "machine", "GPUs", "extras"]
    assert subjects[-1] == "quick start"


def test_a_ray_si_that_runs_from_its_folder_uninstalled(monkeypatch):
    """As one in the working folder of a job does."""
    found = importlib.metadata.metadata

    def metadata(name):
        if name == "ray_si":
            raise importlib.metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(importlib.metadata, "metadata", metadata)
    (extras,) = [each for each in doctor.machine() if each.subject == "extras"]
    assert extras.text == "cannot be told: ray_si runs from its folder, it is not installed"
