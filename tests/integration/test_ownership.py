"""Several builds at once, leases that are lost, failures in the background: one outcome each."""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import Future
from contextlib import nullcontext
from functools import partial

import pytest
from ray import serve

from ray_si.audit.verify import verify
from ray_si.build.builder import build
from ray_si.build.checks import WAIT_VARIABLE
from ray_si.config.file import parse_config
from ray_si.errors import ConfigError, LeaseLostError, RunError
from ray_si.run.run import Run
from ray_si.serving.applications import Serving, shared_name
from ray_si.serving.background import in_thread
from ray_si.serving.custodian import is_of
from ray_si.storage import lease as lease_module
from tests import loopback
from tests.builds import digests

pytestmark = pytest.mark.usefixtures("ray_session")

LONG_S = 240
"""Seconds after which a build here is taken to hang."""


class Building:
    """A build in a thread; ``seen`` are the notes and phases it has reported."""

    def __init__(self, values, location, **options) -> None:
        self.seen: list[str] = []
        self.result: Future = in_thread(self._build, values, location, options)

    def _build(self, values, location, options):
        return build(parse_config(values), str(location), listen=self._listen, **options)

    def _listen(self, progress) -> None:
        self.seen += [progress.phase, progress.note]

    def wait_for(self, sign: str) -> None:
        end = time.monotonic() + LONG_S
        while sign not in self.seen:
            assert not self.result.done(), self.result.result()
            assert time.monotonic() < end, f"no {sign} within {LONG_S} s"
            time.sleep(0.01)

    def error(self) -> BaseException | None:
        return self.result.exception(LONG_S)


def sound(location) -> bool:
    return all(check.ok for check in verify(str(location)))


def test_two_builds_of_one_configuration_in_two_folders_do_not_meet(
    finished, tmp_path, replay_config
):
    first = Building(replay_config, tmp_path / "first")
    first.wait_for("loading the models")
    second = Building(replay_config, tmp_path / "second")
    assert [first.error(), second.error()] == [None, None]
    assert digests(tmp_path / "first") == digests(tmp_path / "second") == digests(finished[0])


def test_of_builds_in_one_fresh_folder_all_but_one_are_refused_before_they_deploy(
    finished, tmp_path, replay_config
):
    location, another = tmp_path / "run", replay_config | {"seed": 1}
    builds = [Building(values, location) for values in (replay_config, replay_config, another)]
    refused = [building for building in builds if isinstance(building.error(), RunError)]
    assert len(refused) == 2, [building.error() for building in builds]
    for building in refused:
        assert "is being written by process" in str(building.error())
        assert "loading the models" not in building.seen
    (winner,) = set(builds) - set(refused)
    assert winner.error() is None
    assert sound(location)
    if winner is not builds[-1]:
        assert digests(location) == digests(finished[0])


def test_a_refused_driver_removes_no_application_and_the_next_one_those_of_a_killed_driver(
    tmp_path, replay_config, monkeypatch
):
    """Else its replicas would keep their places for ever, on a cluster that outlives drivers."""
    location = tmp_path / "run"
    replay_config["generator"]["replay"] = {"latency_s": 0.5}
    building = Building(replay_config, location)
    building.wait_for("bootstrap")
    before = _applications_of(location)
    assert before
    with pytest.raises(RunError, match="is being written by process"):
        build(parse_config(replay_config), str(location))
    assert _applications_of(location) == before
    with monkeypatch.context() as patch:
        patch.setattr(Serving, "_delete", lambda self: None)  # as if killed
        assert building.error() is None
    assert _applications_of(location) == before
    for name in ("stats.json", "instances/manifest.json"):
        (location / name).unlink()
    build(parse_config(replay_config), str(location))
    end = time.monotonic() + 60
    while left := before & _applications_of(location):
        assert time.monotonic() < end, left
        time.sleep(0.5)


def _applications_of(location):
    name = shared_name(str(location))
    return {app for app in serve.status().applications if is_of(name, app) is not None}


def test_a_driver_that_loses_its_lease_stops_at_once(tmp_path, replay_config, monkeypatch):
    monkeypatch.setattr(lease_module, "TTL_S", 3.0)
    replay_config["generator"]["replay"] = {"latency_s": 3600.0}
    building = Building(replay_config, tmp_path / "run")
    building.wait_for("bootstrap")
    (lease,) = (tmp_path / "run" / "lease").iterdir()
    shutil.copy(lease, lease.with_name("00009.json"))
    began = time.monotonic()
    assert isinstance(building.error(), LeaseLostError)
    assert time.monotonic() - began < 60


class StopBuildError(Exception):
    """Raised by a listener."""


def test_a_failure_of_instances_written_ahead_ends_the_bootstrap(tmp_path, replay_config):
    location = tmp_path / "run"
    replay_config["instance_generator"] = replay_config["generator"] | {"replicas": 1}
    replay_config["generator"]["replay"] = {"latency_s": 3.0}
    config = parse_config(replay_config)

    def stop(progress):
        if progress.phase == "bootstrap":
            raise StopBuildError

    with loopback.installed(), pytest.raises(StopBuildError):  # only to have it begun
        build(config, str(location), listen=stop)
    (location / "instances").mkdir()
    (location / "instances" / "block-00000.parquet").write_bytes(b"damaged")
    with pytest.raises(RunError, match=r"block-00000\.parquet cannot be read"):
        build(config, str(location))
    accepted = sum(manifest["accepted"] for manifest in Run.open(str(location)).rounds())
    assert 0 < accepted < replay_config["target_instructions"]


def test_what_a_late_writer_left_in_a_finished_run_goes_with_the_next_build(finished, tmp_path):
    location = tmp_path / "run"
    shutil.copytree(finished[0], location)
    rounds = len(list(location.glob("bootstrap/round-*")))
    late = [
        f"bootstrap/round-{rounds:05d}/block-00000.parquet",
        f"bootstrap/round-{rounds:05d}/manifest.json",
        f"bootstrap/round-{rounds:05d}/accepted-00001.parquet",
        "bootstrap/round-00000/block-00000-00007.parquet",
        "instances/block-00000-00007.parquet",
        "data/train-00000-of-00099.parquet",
        "live.json",
        "bootstrap/round-00000/.tmp-cut-short",
    ]
    for name in late:
        (location / name).parent.mkdir(exist_ok=True)
        (location / name).write_bytes(b"{}")
    (location / "notes.txt").write_text("the user's own")
    assert not sound(location)
    config = parse_config(json.loads((location / "run.json").read_text())["config"])
    assert build(config, str(location)).stats == finished[1].stats
    assert not [name for name in late if (location / name).exists()]
    (location / "notes.txt").unlink()
    assert sound(location)
    assert digests(location) == digests(finished[0])


def test_where_a_model_is_refused_nothing_is_left_and_the_lease_is_given_back(
    tmp_path, replay_config, monkeypatch
):
    monkeypatch.setenv(WAIT_VARIABLE, "0")  # for nodes that might join
    refused = replay_config | {"generator": replay_config["generator"] | {"cpus": 9000}}
    with pytest.raises(ConfigError, match="asks for 9000 CPU"):
        build(parse_config(refused), str(tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("tokens", "seed", "cluster"),
    [(6_000, 0, nullcontext), (5_000, 1, partial(loopback.installed, latency_s=0.05))],
    ids=["on Ray", "without a cluster"],
)
def test_a_budget_with_rounds_ahead_ends_whenever_the_target_is_reached(
    tmp_path, replay_config, tokens, seed, cluster
):
    """A later round that was granted part, or waits, is given up then, with what it reserved."""
    replay_config |= {"target_instructions": 60, "budget": {"tokens": tokens}, "seed": seed}
    replay_config["generator"]["replay"] = {"latency_s": 0.3}
    replay_config["bootstrap"] |= {"prompts_per_round": 16, "block_size": 2, "lookahead": 2}
    with cluster():
        error = Building(replay_config, tmp_path / "run").error()
    assert error is None or "are spent" in str(error)
    assert sound(tmp_path / "run")
