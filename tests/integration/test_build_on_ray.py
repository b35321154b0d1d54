"""Whole builds on a real Ray give the bytes of one without a cluster, through what may happen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ray_si.build.builder import build
from ray_si.config.file import parse_config
from ray_si.errors import BudgetError, ConfigError, EngineError, NoProgressError, SeedError
from ray_si.pipeline.prompting import Prompting
from ray_si.run.run import Run
from ray_si.run.seeds import load_seeds
from ray_si.run.status import status as status_of
from tests import loopback
from tests.builds import TARGET, digests, rays_processes

pytestmark = pytest.mark.usefixtures("ray_session")


def _accepted(location: Path) -> list[dict]:
    return [row for table in Run.open(str(location)).accepted() for row in table.to_pylist()]


def test_replicas_that_take_every_core_and_slots_for_three_tasks_give_the_same_bytes(
    finished, tmp_path, replay_config
):
    location, _ = finished
    replay_config["generator"] |= {"replicas": 2, "cpus": 2, "max_batch": 1100}
    build(parse_config(replay_config), str(tmp_path / "run"))
    for pattern in ("data/*", "README.md", "report.html"):
        assert digests(tmp_path / "run", pattern) == digests(location, pattern)


def test_a_dead_replica_loses_nothing(finished, tmp_path, replay_config):
    location, _ = finished
    run = tmp_path / "run"
    replay_config["generator"] |= {"replicas": 2, "replay": {"latency_s": 0.4}}
    killed = []

    def kill_one_replica(progress):
        if killed or not list(run.glob("bootstrap/*/block-*.parquet")):
            return
        for process in rays_processes("ray::ServeReplica"):
            if "GeneratorReplica" in " ".join(process.cmdline()):
                process.kill()
                killed.append(process.pid)
                return

    build(parse_config(replay_config), str(run), listen=kill_one_replica)
    assert killed
    assert digests(run) == digests(location)


def test_a_run_without_progress_stops_and_relative_paths_mean_the_same_on_workers(
    tmp_path, replay_config, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # the workers keep the folder that Ray was started in
    Path("answers.jsonl").write_text(json.dumps({"prompt": "never asked", "completion": "x"}))
    replay_config["generator"]["replay"] = {"recording": "answers.jsonl"}
    replay_config["bootstrap"] |= {"stall_rounds": 2}
    with pytest.raises(NoProgressError, match="engine_error") as caught:
        build(parse_config(replay_config), "run")
    assert f"0 of {TARGET}" in str(caught.value)
    assert len(list(tmp_path.glob("run/bootstrap/round-*/block-*.parquet"))) >= 4
    assert status_of(Run.open(str(tmp_path / "run")))["rejected"] == {"engine_error": 16}


def test_a_stop_string_that_never_comes_is_said_and_nothing_ends_as_a_run(tmp_path, replay_config):
    recording = tmp_path / "answers.jsonl"
    replay_config["generator"]["replay"] = {"recording": str(recording)}
    replay_config["bootstrap"] |= {"stall_rounds": 1, "on_stall": "finish"}
    config = parse_config(replay_config)
    rows = Prompting(config, load_seeds("bundled")[0]).rows(0)
    answer = {"completion": " and so on" * 50, "finish_reason": "length"}
    recording.write_text(
        "\n".join(json.dumps({"prompt": json.loads(row["prompt"])} | answer) for row in rows)
    )
    notes = []
    with loopback.installed(), pytest.raises(NoProgressError, match="stopped: the last 1 rounds"):
        build(config, str(tmp_path / "run"), listen=lambda progress: notes.append(progress.note))
    with loopback.installed(), pytest.raises(NoProgressError, match=r"accepted to go on with$"):
        build(config, str(tmp_path / "run"))
    assert any("8 of 8 completions ran into max_tokens without a stop" in note for note in notes)


def test_models_that_do_not_start_leave_no_run_behind(tmp_path, replay_config, monkeypatch):
    """Why they do not comes from a replica, see tests/serving/test_applications.py."""

    def fail(serving):
        assert (tmp_path / "run" / "lease").is_dir()
        raise EngineError("a model could not be started on its replica")

    monkeypatch.setattr(loopback.LoopbackServing, "__enter__", fail)
    with loopback.installed(), pytest.raises(EngineError, match="could not be started"):
        build(parse_config(replay_config), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_running_build_says_how_busy_its_replicas_are(tmp_path, replay_config):
    run = tmp_path / "run"
    replay_config["generator"] |= {"max_batch": 4, "replay": {"latency_s": 0.3}}
    replay_config["generator"]["prices"] = {"prompt": 2.0, "completion": 3.0}
    replay_config["target_instructions"] = 30
    seen, shown = [], []

    def listen(progress):
        if progress.usage.replicas:
            seen.append(progress)
        if (run / "live.json").exists():
            shown.append(status_of(Run.open(str(run))))

    result = build(parse_config(replay_config), str(run), listen=listen)
    assert max(progress.usage.running for progress in seen) == 4
    assert 0.1 < max(progress.utilisation or 0 for progress in seen) <= 1
    last = seen[-1].usage
    written = result.stats["bootstrap_tokens"] + result.stats["instance_tokens"]
    assert 0 < last.completion_tokens.total() <= written + 1000  # of a round begun ahead
    live = [status["live"] for status in shown if "live" in status]
    assert {"bootstrap"} <= {each["phase"] for each in live}
    assert max(each["slots"] for each in live) == 4
    costs = [(each["prompt_tokens"], each["completion_tokens"], each["dollars"]) for each in live]
    for prompt, completion, dollars in costs:
        exact = (2 * sum(prompt.values()) + 3 * sum(completion.values())) / 1e6
        assert dollars == pytest.approx(exact, abs=1e-4)
    assert seen[-1].dollars > 0
    assert "live" not in status_of(Run.open(str(run)))
    assert not (run / "live.json").exists()


def test_another_model_may_write_the_instances(finished, tmp_path, replay_config):
    location, _ = finished
    recording = tmp_path / "answers.jsonl"
    recording.write_text(json.dumps({"prompt": "never asked", "completion": "x"}) + "\n")
    replay_config["instance_generator"] = {
        "engine": "replay",
        "model": "second",
        "cpus": 0.5,
        "replay": {"recording": str(recording)},
    }
    result = build(parse_config(replay_config), str(tmp_path / "run"))
    assert result.stats["instances_rejected"] == {"engine_error": TARGET}
    mine, theirs = _accepted(tmp_path / "run"), _accepted(location)
    assert [row["instruction"] for row in mine] == [row["instruction"] for row in theirs]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"seeds": "absent.jsonl"}, SeedError, "no seed tasks"),
        ({"generator": {"model": "./absent"}}, EngineError, "no model folder"),
        ({"embedder": {"model": "./absent"}, "dedup": {}}, EngineError, "no model folder"),
        ({"bootstrap": {"demonstrations": 900}}, ConfigError, "only"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    tmp_path, replay_config, change, error, message
):
    with pytest.raises(error, match=message):
        build(parse_config(replay_config | change), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_when_its_hours_are_over_a_build_finishes_what_is_on_its_way(
    finished, tmp_path, replay_config
):
    reference, _ = finished
    location = tmp_path / "run"
    replay_config["instances"] = {"block_size": 4}
    slow = {"replay": {"latency_s": 0.25}, "max_batch": 2, "replicas": 1}
    values = replay_config | {"generator": replay_config["generator"] | slow}
    config = parse_config(values | {"budget": {"hours": 6 / 3600}})
    with pytest.raises(BudgetError, match=r"hours, as budget\.hours has it"):
        build(config, str(location))
    stored = _stored_blocks(location)
    with loopback.installed():
        build(parse_config(replay_config), str(location))
    assert stored < _stored_blocks(location)
    assert digests(location) == digests(reference)


def _stored_blocks(location):
    return len(list(location.glob("**/block-*.parquet")))
