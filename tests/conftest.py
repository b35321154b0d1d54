"""What several test modules share."""

from __future__ import annotations

import logging
import os
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from filelock import FileLock
from hypothesis import settings

from tests import loopback
from tests.builds import PLANNED, replay_values
from tests.clusters import Submission, free_port, start_head

# No deadline: a first call may compile. The same examples every time, since a run of the tests says
# something of the code, not of its luck; `pytest --hypothesis-profile=explore` looks for new ones.
settings.register_profile("default", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("default")

FIRST = ("faults", "cluster", "experiments", "integration", "build", "audit", "engines", "cli")
"""Folders with the tests that take longest."""


@pytest.hookimpl(tryfirst=True)  # before xdist, which reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of several processes one has all tests that share a Ray, and the others none.

    What takes long comes first, so that they end at about the same time.
    """
    tests = Path(__file__).parent

    def place(item: pytest.Item) -> tuple[bool, int]:
        folder = item.path.relative_to(tests).parts[0]
        on_ray = "ray_session" in item.fixturenames
        return not on_ray, FIRST.index(folder) if folder in FIRST else len(FIRST)

    items.sort(key=place)
    for item in items:
        group = "ray" if "ray_session" in item.fixturenames else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


REFERENCE = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def reference() -> Path:
    """The published reference data, where this checkout has it beside it."""
    if not REFERENCE.is_dir():
        pytest.skip("the reference data is not here")
    return REFERENCE


@pytest.fixture(scope="session")
def s3_server():
    """Environment variables of a real S3 server on this machine, the bucket "runs" on it.

    It takes one request at a time: S3 checks the condition of a write and writes in one step, moto
    in two.
    """
    import boto3
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    moto, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def application(environ, start_response):
        with lock:
            return list(moto(environ, start_response))

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, application, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    variables = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as environment:
        for name, value in variables.items():
            environment.setenv(name, value)
        boto3.session.Session().client("s3").create_bucket(Bucket="runs")
    yield variables
    server.shutdown()


@pytest.fixture
def s3_environment(s3_server, monkeypatch):
    """Sets the environment for that server; a function that points it at another endpoint."""
    from ray_si.storage.s3 import _client

    def point_at(url):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        _client.cache_clear()

    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    _client.cache_clear()
    yield point_at
    _client.cache_clear()


@pytest.fixture
def s3(s3_server, monkeypatch):
    """A client of that server, which has an empty bucket named "data"; the environment is set."""
    import boto3

    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="data")
    yield client
    for item in client.list_objects_v2(Bucket="data").get("Contents", []):
        client.delete_object(Bucket="data", Key=item["Key"])
    client.delete_bucket(Bucket="data")


@pytest.fixture(scope="session")
def endpoint_process():
    """An OpenAI-compatible endpoint on this machine, its key in $RAY_SI_TEST_KEY."""
    from tests.endpoint import KEY, Endpoint

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_SI_TEST_KEY", KEY)
        endpoint = Endpoint()
        yield endpoint
        endpoint.stop()


@pytest.fixture
def endpoint(endpoint_process):
    """That endpoint, as it should be."""
    endpoint_process.set()
    return endpoint_process


@pytest.fixture(scope="session")
def ray_session(s3_server, endpoint_process):
    """A Ray on this machine whose workers find that server."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - else they wait for other tests
    # workers wait for the next test with their imports, where Ray would end all but num_cpus
    os.environ["RAY_num_workers_soft_limit"] = "12"  # noqa: SIM112
    os.environ["REPORTER_UPDATE_INTERVAL_MS"] = "60000"  # nobody reads what a node's agent reports
    import ray

    with pytest.MonkeyPatch.context() as environment:
        for name, value in s3_server.items():
            environment.setenv(name, value)
        # it looks for every worker's files ten times a second, to print what nobody is to see
        environment.setattr("ray._private.node.Node.start_log_monitor", lambda self: None)
        ray.init(
            "local",
            num_cpus=4,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def ray_address(ray_session) -> str:
    """Where other processes find that Ray; it outlives them."""
    import ray

    return ray.get_runtime_context().gcs_address


@pytest.fixture
def replay_config():
    return replay_values()


@pytest.fixture
def planned_config(tmp_path) -> Path:
    """The configuration of `PLANNED` as a file."""
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(PLANNED))
    return path


def built_once(values: dict, name: str, tmp_path_factory: pytest.TempPathFactory):
    """The run of a configuration, and the result of its build; one for all processes of the tests.

    Who comes second finds it finished. It was built without a cluster, which changes no byte
    (tests/integration/test_build_on_ray.py).
    """
    from ray_si.build.builder import build
    from ray_si.config.file import parse_config

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with FileLock(folder / f"{name}.lock"), loopback.installed():
        return folder / name, build(parse_config(values), str(folder / name))


@pytest.fixture(scope="module")
def without_cluster() -> Iterator[None]:
    """Builds of this module do without a cluster; every generator is the replay."""
    with loopback.installed():
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished run of `replay_values`, to be left as it is, and the result of its build."""
    return built_once(replay_values(), "finished", tmp_path_factory)


@pytest.fixture(scope="session")
def finished_with_cosine(tmp_path_factory):
    """A finished run with both gates, tight enough to refuse some candidates by each."""
    values = replay_values() | {"dedup": {"cosine": 0.6, "most_similar": 3}}
    return built_once(values, "finished-with-cosine", tmp_path_factory)


@pytest.fixture(scope="session")
def ray_environment(s3_server) -> Iterator[dict[str, str]]:
    """The environment of nodes that find the session's S3 server, and this Python as "python".

    Without Ray's tokens, which a Ray started earlier in this process turns on from then.
    """
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = s3_server | {"PATH": path, "RAY_USAGE_STATS_ENABLED": "0", "COLUMNS": "200"}
    variables["RAY_AUTH_MODE"] = "disabled"
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("RAY_ADDRESS", raising=False)
        for name, value in variables.items():
            environment.setenv(name, value)
        yield dict(os.environ)


@pytest.fixture(scope="session")
def head(ray_environment) -> Iterator[str]:
    """Dashboard address of a Ray that outlives its jobs."""
    port = free_port()
    cluster = start_head(port)
    yield f"http://127.0.0.1:{port}"
    cluster.shutdown()


@pytest.fixture
def submit(ray_environment) -> Iterator:
    """Starts a `Submission`."""
    started = []

    def start(*arguments: object) -> Submission:
        started.append(Submission(*arguments, environment=ray_environment))
        return started[-1]

    yield start
    for submission in started:
        submission.process.kill()
        submission.process.communicate()


@pytest.fixture
def slow_config(tmp_path) -> Path:
    """A small run on the replay, slow enough to be interrupted."""
    values = replay_values()
    values["generator"]["replay"] = {"latency_s": 1.0, "latency_sigma": 0.5}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(params=["folder", "s3"])
def location(request, tmp_path):
    """A place where nothing is yet, in a folder or on a real S3 server."""
    if request.param == "folder":
        return str(tmp_path / "store")
    request.getfixturevalue("s3_environment")
    return f"s3://runs/{uuid.uuid4().hex}/run"
