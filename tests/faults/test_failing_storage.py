"""Storage that fails for a while, or for good, costs time and never a byte."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import time
from uuid import uuid4

import pytest

from ray_si.storage.objects import open_objects
from tests.builds import digests
from tests.faults.conftest import Builds, output_of
from tests.faults.flaky_s3 import FAULTS, FlakyS3

pytestmark = pytest.mark.slow


def test_a_build_on_s3_whose_calls_often_fail(undisturbed, s3_server, s3_environment, tmp_path):
    builds = Builds(None, tmp_path)  # a Ray of its own, whose workers meet the same trouble
    location = f"s3://runs/{uuid4().hex}"
    with FlakyS3(s3_server["AWS_ENDPOINT_URL"], seed=1, share=0.2) as proxy:
        s3_environment(proxy.url)
        builds.finish(location)
        s3_environment(s3_server["AWS_ENDPOINT_URL"])
    assert len(proxy.befell) >= len(FAULTS) - 1, "nearly each kind of fault should have happened"
    objects = open_objects(location)
    found = {
        key.removeprefix("data/"): hashlib.sha256(objects.get(key)).hexdigest()
        for key in objects.list("data/")
    }
    assert found == undisturbed


def test_an_interrupted_driver_does_not_wait_for_storage_that_hangs(
    s3_server, s3_environment, tmp_path
):
    builds = Builds(None, tmp_path)
    location = f"s3://runs/{uuid4().hex}"
    with FlakyS3(s3_server["AWS_ENDPOINT_URL"], share=0, faults=("timeout",), hold_s=600) as proxy:
        s3_environment(proxy.url)
        process = builds.start(location)
        s3_environment(s3_server["AWS_ENDPOINT_URL"])
        while next(open_objects(location).list("bootstrap/"), None) is None:
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        proxy.fail(share=1)
        time.sleep(5)  # by now something waits for it
        process.send_signal(signal.SIGINT)
        output = output_of(process, 45)
    assert process.returncode == 130, output


@pytest.fixture
def disk(tmp_path):
    """A disk of 300 kB, and a function that mounts it anew with other options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode

    if mount("size=300k"):
        pytest.skip("mounting a small disk takes root")
    yield folder, lambda options: mount(f"remount,{options}")
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize(
    ("trouble", "cure", "status", "message"),
    [
        ("size=150k", "size=9m", 1, "No space left on device; free some space"),
        ("ro", "rw,size=9m", 2, "Read-only file system"),
    ],
)
def test_a_full_or_read_only_disk_is_named_and_the_run_goes_on_once_it_is_mended(
    builds, undisturbed, disk, trouble, cure, status, message
):
    folder, remount = disk
    process = builds.start(folder / "run")
    while not list((folder / "run").glob("bootstrap/*/block-*.parquet")):
        assert process.poll() is None, process.communicate()
    remount(trouble)
    output = output_of(process)
    assert process.returncode == status, output
    assert message in output
    assert "Traceback" not in output
    remount(cure)
    builds.finish(folder / "run")
    assert digests(folder / "run") == undisturbed
