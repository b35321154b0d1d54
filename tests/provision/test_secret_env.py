"""Nodes read secrets by reference; one that is not there stops the node's start."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.fixture
def arn(s3_server, monkeypatch):
    """Of a secret with quotes and spaces in it, at a loopback AWS API."""
    import boto3

    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("secretsmanager")
    made = client.create_secret(Name="hugging-face", SecretString="hf 'quoted' $HOME\n")
    yield made["ARN"]
    client.delete_secret(SecretId=made["ARN"], ForceDeleteWithoutRecovery=True)


def shell(*references):
    """As a launcher's start command has it; what the command after it sees."""
    module = f"{sys.executable} -m ray_si.provision.secret_env"
    command = f'exports=$({module} {" ".join(references)}) && eval "$exports" && echo "<$TOKEN>"'
    return subprocess.run(
        ["bash", "-c", command], env=os.environ.copy(), capture_output=True, text=True, check=False
    )


def test_a_secret_reaches_the_environment_as_it_is(arn):
    done = shell(f"TOKEN={arn}")
    assert done.stdout == "<hf 'quoted' $HOME>\n", done.stderr


def test_a_secret_that_is_not_there_is_one_line_and_stops_the_command(arn):
    done = shell(f"TOKEN={arn.replace('hugging-face', 'absent')}")
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.startswith("the secret of TOKEN cannot be read: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_binary_secret_is_one_line(arn):
    import boto3

    boto3.client("secretsmanager").put_secret_value(SecretId=arn, SecretBinary=b"x")
    done = shell(f"TOKEN={arn}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "the secret of TOKEN is binary: it has to be text\n"
