"""A driver killed with SIGKILL leaves nothing for long; who submits again within it goes on."""

from __future__ import annotations

import json
import signal
import time

import pytest
import yaml

from ray_si.serving.applications import shared_name
from tests.builds import digests
from tests.faults.conftest import Builds, output_of

pytestmark = pytest.mark.slow


@pytest.fixture
def forgetful(cluster, tmp_path):
    """Builds whose replicas end a few seconds after their driver."""
    builds = Builds(cluster, tmp_path)
    values = yaml.safe_load(builds.config.read_text())
    values["generator"]["replay"] = {"latency_s": 0.3}
    values["budget"] = {"unattended_minutes": 0.1}
    builds.config.write_text(yaml.safe_dump(values))
    return builds


def kill_after_some_blocks(builds, run):
    process = builds.start(run, json.dumps({"blocks": 3}))
    output = output_of(process)
    assert process.returncode == -signal.SIGKILL, output


def replicas(address, run):
    """Ids of the run's living replicas, and of its custodian."""
    from ray._private.internal_api import get_state_from_address

    name = shared_name(str(run))
    actors = get_state_from_address(address).actor_table(None)
    return {
        id_
        for id_, actor in actors.items()
        if actor["State"] == "ALIVE" and name in str(actor["Name"])
    }


def test_replicas_are_gone_within_the_set_time(forgetful, cluster, tmp_path):
    run = tmp_path / "run"
    kill_after_some_blocks(forgetful, run)
    killed = time.monotonic()
    assert replicas(cluster, run)
    while replicas(cluster, run):
        assert time.monotonic() - killed < 30, "six seconds, and Serve's own time"
        time.sleep(0.2)


def test_a_build_within_it_goes_on_with_the_replicas_and_writes_the_same(
    forgetful, cluster, undisturbed, tmp_path
):
    values = yaml.safe_load(forgetful.config.read_text())
    forgetful.config.write_text(yaml.safe_dump(values | {"budget": {"unattended_minutes": 5}}))
    run = tmp_path / "run"
    kill_after_some_blocks(forgetful, run)
    left = replicas(cluster, run)
    again = forgetful.start(run)
    output = output_of(again)
    assert again.returncode == 0, output
    assert left
    assert "going on with the replicas of the driver before" in output
    assert digests(run) == undisturbed
    end = time.monotonic() + 20
    while replicas(cluster, run):
        assert time.monotonic() < end
        time.sleep(0.2)
