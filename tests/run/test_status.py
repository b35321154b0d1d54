"""Where a run stands, said from few objects, and exactly where no driver left its word."""

from __future__ import annotations

import json

import pytest

from ray_si.run import checkpoint, instance_parts
from ray_si.run.instance_parts import InstanceParts
from ray_si.run.run import Run
from ray_si.run.status import spent, status, written_so_far
from ray_si.run.tokens import Tokens
from tests.run.counting import counted
from tests.run.finished import finished_run
from tests.run.test_checkpoint import build
from tests.run.test_instance_parts import stored

ROUNDS = 40


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Forty rounds of two, and 35 of their 40 blocks, of which one part is written."""
    monkeypatch.setattr(instance_parts, "PART_BLOCKS", 10)
    run = build(tmp_path / "run", [2] * ROUNDS)
    with run.held():
        parts = InstanceParts(run, 2)
        for block in range(35):
            if block != 17:
                parts.add(stored(run, block, kept=3))
    return Run.open(run.location)


def read_keys(location):
    run = counted(location)
    said = status(run)
    return said, [key for key in run.objects.keys if key != "run.json"]


def live(run, **values):
    written = {"instructions": 60, "instances": 200, "prompt_tokens": 7, "completion_tokens": 8}
    said = {"phase": "instances", "ended": False, "written": written | {"contaminated": {}}}
    run.objects.put("live.json", json.dumps(said | values).encode())


def test_what_stands_is_counted_where_no_driver_left_its_word(run):
    said, keys = read_keys(run.location)
    assert (said["rounds"], said["accepted"], said["candidates"]) == (ROUNDS, 80, 80)
    assert (said["instructions_done"], said["instances"]) == (68, 3 * 68)
    assert "live" not in said
    blocks = [key for key in keys if "instances/block-" in key]
    assert len(blocks) == 34 - 10 - 10  # those of written parts are not read


def test_what_a_driver_left_spares_reading_any_block(run):
    live(run)
    said, keys = read_keys(run.location)
    assert (said["phase"], said["instructions_done"], said["instances"]) == ("instances", 60, 200)
    assert not [key for key in keys if key.startswith("instances/block-")]
    assert len([key for key in keys if key.startswith(checkpoint.FOLDER)]) == 2
    assert not [key for key in keys if "/accepted-" in key or "/pool-" in key]
    assert said["live"]["phase"] == "instances"
    assert not {"written", "ended"} & said["live"].keys()


def test_what_stands_is_counted_where_a_driver_that_ended_did_not_know(run):
    expected = status(run)
    live(run, phase="bootstrap", ended=True, written=None)
    assert status(run) == expected
    assert expected["instances"] == 3 * 68


def test_a_build_that_ended_is_not_shown_as_running(run):
    live(run, ended=True)
    said = status(run)
    assert "live" not in said
    assert said["instances"] == 200


def test_budgets_go_by_what_stands_and_not_by_what_a_driver_said(run):
    live(run)
    assert spent(run)["instances"] == written_so_far(run, 80).tokens == Tokens(4 * 68, 5 * 68)


def test_of_a_finished_run_its_stats_say_it_all(tmp_path):
    finished_run(tmp_path / "run")
    said, keys = read_keys(tmp_path / "run")
    assert (said["phase"], said["rounds"], said["accepted"]) == ("done", 1, 60)
    assert keys == ["stats.json"]
    assert said["spent"]["completion_tokens"] == 61


def test_of_a_run_finished_by_an_earlier_version_it_is_counted(tmp_path):
    run = finished_run(tmp_path / "run")
    expected = status(run)
    stats = json.loads(run.objects.get("stats.json"))
    del stats["spent"]
    run.objects.put("stats.json", json.dumps(stats).encode())
    said = status(run)
    assert said == expected | {"spent": said["spent"]}
    assert said["spent"]["completion_tokens"] == expected["spent"]["completion_tokens"]
