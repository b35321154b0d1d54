"""What is told of a build while it runs."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress

import pytest

from ray_si.build.builder import build
from ray_si.build.watch import Watcher
from ray_si.config import Budget, RunConfig
from ray_si.config.file import parse_config
from ray_si.errors import BudgetError, NoProgressError
from ray_si.pipeline.progress import Progress, Reporter
from ray_si.pipeline.token_budget import TokenBudget
from ray_si.run.instance_parts import Counts
from ray_si.run.run import Run
from ray_si.serving.background import Alarm
from ray_si.serving.usage import SlotSeconds, Usage


@pytest.fixture
def run(tmp_path):
    """A run under its lease."""
    run = Run.prepare(str(tmp_path / "run"), {"config": {}, "identity": {}}, "fingerprint")
    with run.held():
        yield run


def watcher_of(run, reporter, written=Counts):
    return Watcher(RunConfig(), None, reporter, run, written, Alarm())


def test_seconds_go_to_what_this_build_accepted_and_not_to_what_it_found(run):
    reporter = Reporter(lambda progress: None)
    watcher = watcher_of(run, reporter)
    reporter.report(Progress("bootstrap", 500, 1000))
    assert watcher.live(ended=False)["seconds_per_accepted"] is None
    reporter.began = time.monotonic() - 60
    reporter.report(Progress("bootstrap", 520, 1000))
    reporter.report(Progress("instances", 0, 520))
    assert 3 <= watcher.live(ended=False)["seconds_per_accepted"] < 3.5


@pytest.mark.parametrize(
    ("phase", "share", "bound_by"), [("bootstrap", 1.0, "generate"), ("instances", 0.3, None)]
)
def test_of_two_generators_the_one_that_the_phase_asks_is_seen_to_be_full(
    run, phase, share, bound_by
):
    config = parse_config(
        {name: {"engine": "replay", "model": None} for name in ("generator", "instance_generator")}
    )
    reporter = Reporter(lambda progress: None)
    watcher = Watcher(config, None, reporter, run, Counts, Alarm())
    busy = SlotSeconds(generator=1024.0, instance_generator=0.3 * 1024)
    reporter.see(
        Usage(busy_s=busy, open_s=SlotSeconds(generator=1024.0, instance_generator=1024.0)), None
    )
    reporter.report(Progress(phase, 0, 10))
    live = watcher.live(ended=False)
    assert live["stages"] == {"generate": share}
    assert live["bound_by"] == bound_by
    assert live["utilisation"] == live["utilisation_overall"] == 0.65


def test_what_is_written_is_left_out_until_all_that_stands_is_known(run):
    reporter = Reporter(lambda progress: None)
    assert "written" not in watcher_of(run, reporter, lambda: None).live(ended=True)
    assert watcher_of(run, reporter).live(ended=True)["written"]["instances"] == 0


@pytest.mark.parametrize(
    ("error", "keeps"),
    [
        (None, False),
        (BudgetError(), False),
        (NoProgressError(), False),
        (KeyboardInterrupt(), True),
    ],
)
def test_only_a_build_that_was_cut_off_leaves_the_time_it_used_to_the_next(run, error, keeps):
    reporter, budget = Reporter(lambda progress: None), TokenBudget(Budget(hours=8), {}, {})
    with (
        suppress(BudgetError, NoProgressError, KeyboardInterrupt),
        Watcher(RunConfig(), None, reporter, run, Counts, Alarm(), budget),
    ):
        if error is not None:
            raise error
    assert run.live()["ended"]
    assert ("building_s" in run.live()) is keeps


def test_dollars_are_told_where_they_are_known(run):
    reporter = Reporter(lambda progress: None)
    watcher = watcher_of(run, reporter)
    reporter.see(Usage(), None)
    assert "dollars" not in watcher.live(ended=False)
    reporter.see(Usage(), 0.123456)
    reporter.report(Progress("bootstrap", 0, 10))
    assert watcher.live(ended=False)["dollars"] == 0.1235


@pytest.mark.parametrize(
    ("phase", "told"),
    [("bootstrap", {"accepted": 3, "target": 9, "candidates": 5}), ("instances", {"instances": 7})],
)
def test_failures_of_replicas_are_told_in_each_phase(run, phase, told):
    class Gauge:
        def __init__(self, name):
            self.name = name

        def set(self, value, tags):
            found[self.name] = value

    found = {}
    names = ("accepted", "target", "candidates", "instances", "replica_failures")
    progress = Progress(phase, 3, 9, candidates=5, instances=7, usage=Usage(deaths=2))
    watcher_of(run, Reporter(lambda progress: None))._set({n: Gauge(n) for n in names}, progress)
    assert found == {"replica_failures": 2, **told}


def test_a_listener_that_raises_ends_the_build_from_another_thread_too(
    tmp_path, replay_config, ray_session
):
    def listen(progress):
        if progress.usage.running and threading.current_thread() is not threading.main_thread():
            raise BrokenPipeError("nobody reads the display any more")

    replay_config["generator"]["replay"] = {"latency_s": 2.0}
    with pytest.raises(BrokenPipeError, match="nobody reads"):
        build(parse_config(replay_config), str(tmp_path / "run"), listen=listen)
    live = json.loads((tmp_path / "run/live.json").read_bytes())
    assert live["ended"]
    assert not live["done"]


def test_queued_are_those_on_replicas_without_a_slot_and_those_before_them():
    assert Usage(slots=8, running=11, waiting=4).queued == 7
    assert Usage(slots=8, running=3, waiting=4).queued == 4


def test_the_stage_that_is_full_is_told_while_instructions_are_written(run):
    reporter = Reporter(lambda progress: None)
    watcher = watcher_of(run, reporter)
    reporter.stages.watch("embed", lambda: (1000 * time.monotonic(),))  # more than all of the time
    reporter.report(Progress("bootstrap", 0, 10))
    assert watcher.live(ended=False)["bound_by"] is None  # nothing to go by yet
    live = watcher.live(ended=False)
    assert live["stages"] == {"decide": 0.0, "embed": 1.0}
    assert live["bound_by"] == "embed"
    reporter.report(Progress("instances", 0, 10))
    assert watcher.live(ended=False)["bound_by"] is None
