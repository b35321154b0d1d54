"""A node on Google Cloud gets credentials of an AWS role without a key."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest
import yaml

from tests.provision.rendered import files

ROLE = "arn:aws:iam::111122223333:role/ray-si-google"


@pytest.fixture
def aws(s3_server, monkeypatch):
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)


def test_boto3_has_the_nodes_script_trade_its_identity(aws, monkeypatch, tmp_path):
    """As the launcher sets a node up; the metadata server is the one part that is imitated."""
    asked = []

    class Metadata(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers["Metadata-Flavor"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"header.identity.signature")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    config = yaml.safe_load(files("gcp")["cluster.yaml"])
    command = config["head_setup_commands"][0]
    for kind in list(config["available_node_types"].values())[1:]:
        assert kind["worker_setup_commands"][0] == command
    subprocess.run(["bash", "-c", command], env={"HOME": str(tmp_path), "PATH": "/bin"}, check=True)
    path = tmp_path / ".aws" / "config"
    text = path.read_text()
    assert ROLE in text
    path.write_text(text.replace("= python ", f"= {sys.executable} "))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(path))
    monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.server_port}")
    try:
        credentials = boto3.session.Session().get_credentials()
        key = credentials.get_frozen_credentials()
    finally:
        server.shutdown()
        server.server_close()
    assert credentials.method == "custom-process"
    assert re.match("ASIA", key.access_key)
    assert key.token
    assert [flavor for _, flavor in asked] == ["Google"]
    assert asked[0][0].endswith("/default/identity?audience=ray-si")
