"""What several test modules share."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("default", deadline=None)  # a first call may compile
settings.load_profile("default")

REFERENCE = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def reference() -> Path:
    """The published reference data, where this checkout has it beside it."""
    if not REFERENCE.is_dir():
        pytest.skip("the reference data is not here")
    return REFERENCE


@pytest.fixture(scope="session")
def s3_server():
    """Environment variables of a real S3 server on this machine."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    server.stop()


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
def ray_session():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(
        "local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()
