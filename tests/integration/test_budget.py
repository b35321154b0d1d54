"""A budget stops a run cleanly; a higher one takes it to the same end."""

from __future__ import annotations

import shutil

import pytest

from ray_si.audit.verify import verify
from ray_si.build.builder import build
from ray_si.config.file import parse_config
from ray_si.errors import BudgetError
from ray_si.run.run import Run
from ray_si.run.status import spent, status as status_of
from tests.builds import digests

pytestmark = pytest.mark.usefixtures("without_cluster")


def _total(location):
    phases = spent(Run.open(str(location))).values()
    return sum(tokens.prompt + tokens.completion for tokens in phases)


def _build(values, location, limit, **arguments):
    config = parse_config(values | {"budget": {"tokens": limit}})
    return build(config, str(location), **arguments)


def test_a_run_stops_within_its_budget_and_goes_on_with_more(finished, tmp_path, replay_config):
    reference, _ = finished
    whole, location = _total(reference), tmp_path / "run"
    bootstrap = sum(
        manifest["prompt_tokens"] + manifest["completion_tokens"]
        for manifest in Run.open(str(reference)).rounds()
    )
    in_bootstrap, in_instances = int(bootstrap * 0.6), int(whole * 0.7)

    with pytest.raises(BudgetError, match="of 100 instructions are accepted and kept; raise"):
        _build(replay_config, location, in_bootstrap)
    stopped = _total(location)
    assert 0.5 * in_bootstrap < stopped < 1.1 * in_bootstrap
    assert status_of(Run.open(str(location)))["phase"] == "bootstrap"

    with pytest.raises(BudgetError, match="what is finished is kept"):  # and no Ray is started
        _build(replay_config, location, int(stopped))
    assert _total(location) == stopped

    with pytest.raises(BudgetError, match="instructions have their instances, which are kept"):
        _build(replay_config, location, in_instances)
    stopped = _total(location)
    assert 0.8 * in_instances < stopped < 1.1 * in_instances
    run = Run.open(str(location))
    assert status_of(run)["phase"] == "instances"
    assert all(check.ok for check in verify(str(location)))

    _build(replay_config, location, 10**9)
    assert _total(location) == whole
    assert digests(location) == digests(reference)


def test_a_run_that_spent_its_budget_to_the_last_token_is_finished_by_a_resume(
    finished, tmp_path, replay_config
):
    """Its driver was killed behind the last block; where one is missing, the budget refuses."""
    reference, _ = finished
    location = tmp_path / "run"
    shutil.copytree(reference, location)
    shutil.rmtree(location / "data")
    for name in ("stats.json", "instances/manifest.json"):
        (location / name).unlink()
    last = max(location.glob("instances/block-*"))
    stored = last.read_bytes()
    last.unlink()
    told = []
    with pytest.raises(BudgetError, match="what is finished is kept"):
        _build(replay_config, location, _total(location), listen=told.append)
    assert not told  # neither Ray nor models are started
    last.write_bytes(stored)
    _build(replay_config, location, _total(location))
    assert digests(location) == digests(reference)


def test_with_finish_the_rest_goes_into_instances(tmp_path, replay_config):
    location = tmp_path / "run"
    with pytest.raises(BudgetError):
        _build(replay_config, location, 4_500)
    accepted = status_of(Run.open(str(location)))["accepted"]
    result = _build(replay_config, location, 60_000, finish=True)
    assert result.stats["accepted"] == accepted > 0
