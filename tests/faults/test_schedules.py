"""Whatever the schedule: each build ends or says why not, and what it leaves is sound."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pyarrow.parquet as pq
import pytest
import yaml
from ray import serve

from ray_si.audit.verify import verify
from ray_si.build.builder import build
from ray_si.config.file import parse_config
from ray_si.engines.base import Completion, Request, SamplingParams
from ray_si.errors import GenerationError, RaySIError
from ray_si.serving import client as client_module
from ray_si.serving.background import in_thread, wait_for_all
from ray_si.storage import lease
from tests import loopback
from tests.builds import digests, replay_values
from tests.faults.conftest import ROOT
from tests.faults.schedules import Draws, InjectedError, disturb_awaits, disturb_store
from tests.serving.test_client import Chance

END_S = 240
"""Seconds within which a driver must have ended, on a machine that others use too."""

MANY = 300
"""Schedules without a cluster, in the long form."""

SCHEDULES = 15
"""Those on a cluster; each lives through some drivers."""

LATENCY = {"latency_s": 0.1, "latency_sigma": 1.0}


def configurations() -> dict[str, dict]:
    """Values of small builds, each with what waits for one another in it."""
    base = replay_values()
    base["generator"] |= {"replicas": 2, "replay": LATENCY, "cpus": 0.25}
    bootstrap = base["bootstrap"]
    other = base["generator"] | {"replicas": 1, "replay": {"latency_s": 0.2}}
    ahead = bootstrap | {"prompts_per_round": 16, "block_size": 2, "lookahead": 2}
    steered = bootstrap | {"demonstration_sampling": "diverse"}
    return {
        "budget": base
        | {"bootstrap": ahead, "budget": {"tokens": 7_000}, "target_instructions": 60},
        "ahead": base | {"bootstrap": ahead},
        "steered": base | {"bootstrap": steered, "dedup": {"cosine": 0.9}},
        "shards": base | {"dedup": {"cosine": 0.9, "shards": 3}},
        "enough": base
        | {
            "bootstrap": bootstrap | {"lookahead": 1},
            "instances": {"block_size": 4, "method": "steps", "max_per_instruction": 1},
            "select": {"during": {"by": "checks and length < 15", "rows": 40}},
            "target_instructions": 1000,
        },
        "generators": base | {"instance_generator": other, "instances": {"block_size": 4}},
    }


def without_actors() -> dict[str, dict]:
    """Those that need nothing of a cluster but what `loopback` stands in for."""
    return {name: values for name, values in configurations().items() if name != "shards"}


def sound(location) -> bool:
    wrong = [finding for check in verify(str(location)) for finding in check.findings]
    assert not wrong, wrong
    return True


def has_errors(run) -> bool:
    """Whether requests failed for good, so that rows may be others."""
    return any(
        "error" in pq.read_table(path, columns=["finish_reason"])["finish_reason"].to_pylist()
        for path in run.glob("*/**/block-*.parquet")
    )


# Without a cluster, so that many schedules can be tried -----------------------------------------


@pytest.fixture(scope="module")
def undisturbed_builds(tmp_path_factory):
    """By configuration, what an undisturbed build without a cluster has accepted, and its shards'
    digests."""
    with pytest.MonkeyPatch.context() as patch:
        loopback.install(patch.setattr, hashes=True)
        builds = {}
        for name, values in without_actors().items():
            run = tmp_path_factory.mktemp("undisturbed") / name
            stats = build(parse_config(values | {"budget": {}}), str(run)).stats
            builds[name] = stats["accepted"], digests(run)
    return builds


def test_builds_without_a_cluster_give_the_bytes_of_builds_on_one(finished, tmp_path, monkeypatch):
    loopback.install(monkeypatch.setattr, latency_s=0.005)
    build(parse_config(replay_values()), str(tmp_path / "run"))
    assert digests(tmp_path / "run") == digests(finished[0])


def run_driver(values, location, finish) -> None:
    build(parse_config(values), str(location), finish=finish)


def drive(values, location, rng) -> Counter:
    """Two or three drivers, which meet or supersede one another; how each of them ended."""
    drivers, events = [], Counter()
    for _ in range(rng.choice([1, 2, 3])):
        if drivers and rng.random() < 0.6:
            lease._held.clear()  # as if the process that holds it had died
            events["superseded"] += 1
        if finish := rng.random() < 0.1:
            events["finish"] += 1
        drivers.append(in_thread(run_driver, values, location, finish))
        time.sleep(rng.random() ** 2 * 3)
    for driver in drivers:
        error = driver.exception(END_S)
        assert error is None or isinstance(error, RaySIError | InjectedError), error
        events["ended" if error is None else type(error).__name__] += 1
    wait_for_all(END_S)
    return events


def disturb(patch, seed, rng) -> bool:
    """Pauses and failures of calls, of the store and at awaits; whether requests may fail."""
    share, broken = rng.choice([0, 0.01, 0.05]), rng.choice([0, 0, 0.0005])
    loopback.install(patch, seed, latency_s=0.02, share=share, hashes=True)
    disturb_store(Draws(f"{seed}/store", 0.05, rng.choice([0, 0, 0.002, 0.01])), patch)
    disturb_awaits(Draws(f"{seed}/awaits", 0.02, broken), patch)
    patch(lease, "TTL_S", 0.6)
    return bool(share or broken)


def try_schedule(seed, folder, undisturbed_builds) -> Counter:
    """One run under one schedule; raises AssertionError where anything is not as it should be."""
    rng = random.Random(seed)
    name, values = rng.choice(list(without_actors().items()))
    if "budget" in values:
        values = values | {"budget": {"tokens": rng.randint(4_000, 12_000)}}
    run = folder / f"{seed}-{name}"
    with pytest.MonkeyPatch.context() as patch:
        may_fail = disturb(patch.setattr, seed, rng)
        events = drive(values, run, rng)
    with pytest.MonkeyPatch.context() as patch:
        loopback.install(patch.setattr, hashes=True)
        lease._held.clear()
        stats = build(parse_config(values | {"budget": {}}), str(run)).stats
    assert sound(run)
    accepted, digests_of_shards = undisturbed_builds[name]
    # longer where rows that failed did not count in their time
    may_differ = events["finish"] or (name == "enough" and may_fail)
    if has_errors(run) or (may_differ and stats["accepted"] != accepted):
        events["other rows than undisturbed"] += 1
    else:
        assert digests(run) == digests_of_shards
        events["equal to undisturbed"] += 1
    return events


@pytest.mark.parametrize("seed", range(6))
def test_a_few_schedules_end_in_one_outcome_each(tmp_path, undisturbed_builds, seed):
    assert try_schedule(seed, tmp_path, undisturbed_builds)


@pytest.mark.slow
def test_many_schedules_end_in_one_outcome_each(tmp_path, undisturbed_builds, record_property):
    total: Counter = Counter()
    for seed in range(6, 6 + MANY):
        total += try_schedule(seed, tmp_path, undisturbed_builds)
    print(MANY, "schedules:", dict(sorted(total.items())))
    for event, count in sorted(total.items()):
        record_property(event, count)


@pytest.mark.parametrize("seed", range(12))
def test_a_client_whose_awaits_pause_and_fail_answers_or_fails_every_request(monkeypatch, seed):
    """Without a cluster, so that many schedules can be tried."""
    disturb_awaits(Draws(f"{seed}", pause=0.1, fail=0.004), monkeypatch.setattr)
    handle = Chance(seed)
    monkeypatch.setattr(serve, "get_app_handle", lambda app: handle)
    monkeypatch.setattr(client_module, "_is_up", lambda app: True)
    monkeypatch.setattr(client_module, "_PAUSE_S", 0.001)
    monkeypatch.setattr(client_module, "_STRAY_S", 0.02)

    async def run():
        client = client_module.Client("app", 8, (0,))
        async with client.watched():
            requests = [Request(f"fine {i}", SamplingParams(), seed=0) for i in range(60)]
            asked = map(client.ask, requests)
            return await asyncio.gather(*asked, return_exceptions=True)

    for outcome in asyncio.run(asyncio.wait_for(run(), 60)):
        assert isinstance(outcome, Completion | GenerationError | InjectedError), outcome


# On a cluster ----------------------------------------------------------------------------------


class Driver:
    """A build in a process of its own, under a schedule."""

    def __init__(self, cluster, config, run, seed, *, pause=0.0, fail=0.0) -> None:
        plan = {"seed": seed, "pause": pause, "fail": fail, "address": cluster}
        plan |= {"ttl_s": 3.0, "dump_s": END_S - 20}
        command = [sys.executable, "-m", "tests.faults.schedules", json.dumps(plan)]
        command += ["build", str(config), "--out", str(run), "--address", cluster]
        self.process = subprocess.Popen(
            command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def outcome(self) -> int:
        """Its exit status; a driver that does not end is killed and fails the test."""
        try:
            output, _ = self.process.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            output, _ = self.process.communicate()
            pytest.fail(f"no end within {END_S} s:\n{output[-12_000:]}")
        assert self.process.returncode in (0, 1, 2, -signal.SIGKILL), output[-8_000:]
        return self.process.returncode


@pytest.fixture(scope="session")
def expected(cluster, tmp_path_factory):
    """Digests of the shards of an undisturbed build, by configuration."""
    digest_of = {}

    def digests_of(name, config):
        if name not in digest_of:
            run = tmp_path_factory.mktemp("expected") / name
            assert Driver(cluster, config, run, 0).outcome() == 0
            digest_of[name] = digests(run)
        return digest_of[name]

    return digests_of


def live_through(cluster, config, run, rng) -> Counter:
    """Drivers under schedules, killed, stopped and joined by others; how each of them ended."""
    ends: Counter = Counter()
    for _ in range(3):
        seed = rng.randrange(10**6)
        driver = Driver(cluster, config, run, seed, pause=0.15, fail=rng.choice([0, 0.002, 0.01]))
        time.sleep(rng.uniform(4, 20))
        event = rng.choice(["alone", "joined", "killed", "superseded"])
        ends[event] += 1
        if event == "joined":
            second = Driver(cluster, config, run, seed + 1, pause=0.1)
            ends[f"second driver: exit {second.outcome()}"] += 1
        elif event == "killed":
            driver.process.kill()
        elif event == "superseded":
            supersede(cluster, config, run, driver, ends)
        ends[f"exit {driver.outcome()}"] += 1
    return ends


def supersede(cluster, config, run, driver, ends) -> None:
    """Stop a driver until another has taken its run over, then let both go on."""
    driver.process.send_signal(signal.SIGSTOP)
    for path in run.glob("lease/0*.json"):
        record = json.loads(path.read_text()) | {"machine": "one that cannot be seen"}
        path.write_text(json.dumps(record))
    second = Driver(cluster, config, run, 0)
    time.sleep(12)
    driver.process.send_signal(signal.SIGCONT)
    ends[f"successor: exit {second.outcome()}"] += 1


@pytest.mark.slow
@pytest.mark.parametrize("number", range(SCHEDULES))
def test_whatever_the_schedule_drivers_end_and_leave_a_sound_run(
    cluster, expected, tmp_path, record_property, number
):
    rng, (name, values) = random.Random(number), list(configurations().items())[number % 6]
    config, run = tmp_path / "config.yaml", tmp_path / name
    config.write_text(yaml.safe_dump(values))
    ends = live_through(cluster, config, run, rng)
    config.write_text(yaml.safe_dump(values | {"budget": {}}))  # else it may stop for that
    assert Driver(cluster, config, run, 0).outcome() == 0
    assert sound(run)
    if has_errors(run):
        ends["a request failed for good"] += 1
    else:
        assert digests(run) == expected(name, config)
        ends["equal to an undisturbed run"] += 1
    print(number, name, dict(ends), flush=True)
    for event, count in sorted(ends.items()):
        record_property(event, count)
