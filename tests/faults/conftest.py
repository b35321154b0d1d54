"""A Ray that outlives its drivers, and what an undisturbed run gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.builds import digests, replay_values

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def cluster(ray_address):
    """Address of a Ray that is no driver's own, so that it outlives each of them."""
    return ray_address


class Builds:
    """Runs builds of one configuration in processes of their own."""

    def __init__(self, address: str | None, folder: Path) -> None:
        self._address = address
        self._started: list[subprocess.Popen[str]] = []
        self.config = folder / "config.yaml"
        values = replay_values()
        values["generator"]["replay"] = {"latency_s": 0.05, "latency_sigma": 0.5}
        values["generator"]["replicas"] = 2
        self.config.write_text(yaml.safe_dump(values))

    def start(self, run: Path | str, fault: str = "{}") -> subprocess.Popen[str]:
        """A build of that run; see `tests.faults.driver` for faults."""
        command = [sys.executable, "-m", "tests.faults.driver", fault, "build", str(self.config)]
        command += ["--out", str(run)] + (["--address", self._address] if self._address else [])
        process = subprocess.Popen(
            command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._started.append(process)
        return process

    def finish(self, run: Path | str) -> None:
        """Build undisturbed, to the end."""
        process = self.start(run)
        output = output_of(process)
        assert process.returncode == 0, output

    def kill(self) -> None:
        """Whatever still runs, or is stopped."""
        for process in self._started:
            process.kill()


def output_of(process: subprocess.Popen[str], timeout_s: float = 400.0) -> str:
    """What a process has written by its end, for which this waits so long."""
    try:
        return process.communicate(timeout=timeout_s)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        pytest.fail(f"a process did not end within {timeout_s:g} s:\n{output}")


@pytest.fixture(scope="session")
def builds(cluster, tmp_path_factory):
    builds = Builds(cluster, tmp_path_factory.mktemp("faults"))
    yield builds
    builds.kill()


@pytest.fixture(scope="session")
def undisturbed(finished):
    """Digests of the shards of a run that nothing happened to; latency changes none of them."""
    return digests(finished[0])
