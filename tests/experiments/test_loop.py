"""From seed tasks to both evaluations, on the bundled model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ray_si.audit.verify import verify
from ray_si.build.builder import build
from ray_si.errors import RunError
from ray_si.experiments import loop as loop_module
from ray_si.experiments.loop import load_loop, run_loop
from ray_si.run.run import Run
from ray_si.run.seeds import load_seeds
from ray_si.training.hold_out import split_seeds

CONFIG = Path(__file__).parents[2] / "configs" / "loop.yaml"
SMALL = [
    "target_instructions=12",
    "training.max_steps=2",
    "training.batch_size=4",
    "training.rows_at_once=4",
    "evaluation.max_tokens=8",
    "evaluation.resamples=200",
    "evaluation.rated=5",
]


class BegunError(Exception):
    """The first part of a loop was begun."""


@pytest.fixture
def begin(monkeypatch):
    """A function: begins a loop in a folder, up to its build."""

    def build_apart(*_, **__):
        raise BegunError

    monkeypatch.setattr(loop_module, "build_apart", build_apart)
    monkeypatch.setattr(loop_module, "_check_model", lambda training: None)
    return lambda to: run_loop(load_loop(str(CONFIG), SMALL), str(to))


def write(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        (["README.md"], "not a loop"),
        (["build/lib/a.py", "src/a.py"], "not a loop"),
        (["build/run.json", "README.md"], "not a loop"),
        (["evaluation/report.json", "README.md"], "not a loop"),
        (["run.json", "README.md", "stats.json"], "lies inside a run"),
        (["../run.json"], "lies inside a run"),
    ],
)
def test_a_loop_keeps_away_from_what_is_no_loop(begin, tmp_path, names, fault):
    write(tmp_path / "to", *names)
    with pytest.raises(RunError, match=fault):
        begin(tmp_path / "to")


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["build/lease/00001.json"],
        ["build/run.json", "training/training.json", "notes.txt"],
        ["build/run.json", "evaluation/report.json", "README.md"],  # cut before loop.json
        ["build/run.json", "loop.json", "README.md"],  # to be evaluated anew
    ],
)
def test_a_loop_goes_on_wherever_one_was_begun(begin, tmp_path, names):
    write(tmp_path / "to", *names)
    with pytest.raises(BegunError):
        begin(tmp_path / "to")


@pytest.mark.slow
def test_a_loop_builds_trains_and_evaluates_and_its_model_builds_again(ray_session, tmp_path):
    config = load_loop(str(CONFIG), SMALL)
    to = tmp_path / "loop"
    parts = []
    card = run_loop(config, str(to), listen=lambda part, progress: parts.append(part))
    assert list(dict.fromkeys(parts)) == ["build", "training", "evaluation"]

    given, held_out = split_seeds(load_seeds("bundled")[0])
    run = Run.open(str(to / "build"))
    assert run.read("seeds.parquet")["id"].to_pylist() == [seed.id for seed in given]
    assert card["seeds"]["held_out"] == [seed.id for seed in held_out]
    (kept_out,) = run.evaluation_sets()
    assert {seed.instruction for seed in held_out} <= set(kept_out.texts)
    assert all(check.ok for check in verify(str(to / "build")))
    assert card["build"]["accepted"] == 12
    assert card["training"]["steps"] == 2
    report = card["evaluation"]
    assert list(report["models"]) == ["before", "after"]
    assert (report["tasks"], report["left_out"]) == (len(held_out), {})
    assert report["models"]["before"]["weights"] != report["models"]["after"]["weights"]
    text = (to / "README.md").read_text()
    for name in ("before", "after"):
        mean = report["models"][name]["overall"]["rouge_l"]["mean"]
        assert f"| {name} | {mean:.1f} [" in text
    assert json.loads((to / "loop.json").read_text()) == card
    model = str(to / "training" / "model")
    generator = config.build.generator.model_copy(update={"model": model})
    again = config.build.model_copy(update={"generator": generator, "target_instructions": 5})
    assert build(again, str(tmp_path / "second")).stats["accepted"] == 5
    (table,) = Run.open(str(tmp_path / "second")).accepted(["model"])
    assert set(table["model"].to_pylist()) == {model}

    before = {path: path.stat().st_mtime_ns for path in (to / "build").rglob("*")}
    assert run_loop(config, str(to)) == card
    assert {path: path.stat().st_mtime_ns for path in (to / "build").rglob("*")} == before
