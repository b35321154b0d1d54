"""What is told of a build while it runs."""

from __future__ import annotations

import time

import pytest

from ray_si.build.watch import Watcher
from ray_si.config import RunConfig
from ray_si.pipeline.progress import Progress, Reporter
from ray_si.run.instance_parts import Counts
from ray_si.run.run import Run
from ray_si.serving.usage import Usage


@pytest.fixture
def run(tmp_path):
    """A run under its lease."""
    run = Run.prepare(str(tmp_path / "run"), {"config": {}, "identity": {}}, "fingerprint")
    with run.held():
        yield run


def test_seconds_go_to_what_this_build_accepted_and_not_to_what_it_found(run):
    reporter = Reporter(lambda progress: None)
    watcher = Watcher(RunConfig(), serving=None, reporter=reporter, run=run, written=Counts())
    reporter.report(Progress("bootstrap", 500, 1000))
    assert watcher.live(ended=False)["seconds_per_accepted"] is None
    reporter.began = time.monotonic() - 60
    reporter.report(Progress("bootstrap", 520, 1000))
    reporter.report(Progress("instances", 0, 520))
    assert 3 <= watcher.live(ended=False)["seconds_per_accepted"] < 3.5


def test_dollars_are_told_where_they_are_known(run):
    reporter = Reporter(lambda progress: None)
    watcher = Watcher(RunConfig(), serving=None, reporter=reporter, run=run, written=Counts())
    reporter.see(Usage(), None)
    assert "dollars" not in watcher.live(ended=False)
    reporter.see(Usage(), 0.123456)
    reporter.report(Progress("bootstrap", 0, 10))
    assert watcher.live(ended=False)["dollars"] == 0.1235


def test_queued_are_those_on_replicas_without_a_slot_and_those_before_them():
    assert Usage(slots=8, running=11, waiting=4).queued == 7
    assert Usage(slots=8, running=3, waiting=4).queued == 4


def test_the_stage_that_is_full_is_told_while_instructions_are_written(run):
    reporter = Reporter(lambda progress: None)
    watcher = Watcher(RunConfig(), serving=None, reporter=reporter, run=run, written=Counts())
    reporter.stages.watch("embed", lambda: 3600.0)  # all of the time since the build began
    reporter.report(Progress("bootstrap", 0, 10))
    live = watcher.live(ended=False)
    assert live["stages"] == {"decide": 0.0, "embed": 1.0}
    assert live["bound_by"] == "embed"
    reporter.report(Progress("instances", 0, 10))
    assert watcher.live(ended=False)["bound_by"] is None
