"""The verbs downstream of the shards, as a user meets them."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from ray_si.cli.training import _by_name
from ray_si.config.file import load_config
from ray_si.errors import ConfigError, EngineError, SeedError
from ray_si.experiments.loop import load_loop, run_loop
from ray_si.run.seeds import load_seeds
from tests.command import assert_one_line_error, invoke

ROOT = Path(__file__).parents[2]
REPLAY = "generator: {engine: replay, model: null}\n"


def test_help_shows_examples():
    for verb in ("finetune", "loop"):
        text = invoke(verb, "--help").stdout
        assert f"ray-si {verb}" in text.split("Example")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["finetune", "absent", "--model", "m", "--to", "to"], "absent is not a run"),
        (
            ["finetune", "absent", "--model", "m", "--to", "to", "--set", "lora.rnk=4"],
            "did you mean lora.rank?",
        ),
        (["evaluate", "--model", "m", "--tasks", "absent", "--to", "to"], "there are no tasks"),
        (["ratings", "absent", "file.json"], "holds no finished evaluation"),
        (["loop", "absent.yaml", "--to", "to"], "absent.yaml: No such file"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(tmp_path, arguments, message):
    assert_one_line_error(invoke(*arguments, cwd=tmp_path), message)
    assert list(tmp_path.iterdir()) == []


def test_models_are_named_by_what_stands_before_the_sign_or_by_themselves():
    assert _by_name(["a=x", "b/c"]) == {"a": "x", "b/c": "b/c"}
    assert _by_name(["out/lr=1/m", "a=b/c=1"]) == {"out/lr=1/m": "out/lr=1/m", "a": "b/c=1"}
    with pytest.raises(ConfigError, match="write NAME=MODEL"):
        _by_name(["a="])
    with pytest.raises(ConfigError, match="another model of this name"):
        _by_name(["a=x", "a=y"])


def test_the_job_hands_its_arguments_to_the_verb(monkeypatch, capsys):
    arguments = ["absent-run", "--model", "m", "--to", "to"]
    monkeypatch.setattr(sys, "argv", ["run.py", "finetune", *arguments])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "jobs" / "run.py"), run_name="__main__")
    assert caught.value.code == 2
    assert "absent-run is not a run" in capsys.readouterr().err


def test_a_loops_configuration_is_a_runs_with_two_more_sections(tmp_path):
    path = ROOT / "configs" / "loop.yaml"
    config = load_loop(str(path), ["training.epochs=3", "evaluation.generator.replicas=2"])
    assert config.training.epochs == 3
    assert config.training.model == config.build.generator.model == "smollm2-135m-instruct"
    hosting = config.evaluation.generator
    assert (hosting.threads, hosting.replicas) == (config.build.generator.threads, 2)
    plain = ROOT / "configs" / "quickstart.yaml"
    assert load_loop(str(plain)).build == load_config(plain)


def test_a_loop_tunes_and_asks_the_model_that_it_was_built_with(tmp_path):
    path = tmp_path / "loop.yaml"
    path.write_text(
        "generator: {model: a/b, revision: v2, trust_remote_code: true, prompt_style: chat,"
        " chat_template_kwargs: {enable_thinking: false}}\n"
    )
    config = load_loop(str(path))
    for loaded in (config.training, config.evaluation.generator):
        assert (loaded.model, loaded.revision, loaded.trust_remote_code) == ("a/b", "v2", True)
    assert config.evaluation.generator.chat_template_kwargs == {"enable_thinking": False}
    for named, expected in (
        (["training.model=a/b"], ("v2", True)),
        (["training.model=c/d"], (None, False)),
        (["training.model=c/d", "training.revision=v1"], ("v1", False)),
    ):
        config = load_loop(str(path), named)
        for loaded in (config.training, config.evaluation.generator):
            assert (loaded.revision, loaded.trust_remote_code) == expected
    path.write_text("generator: {engine: vllm, model: a/b, vllm: {lora: adapter}}\n")
    assert load_loop(str(path)).evaluation.generator.vllm.lora is None


def test_mistakes_in_a_loops_configuration_name_the_section_and_key(tmp_path):
    path = tmp_path / "loop.yaml"
    path.write_text(REPLAY)
    with pytest.raises(ConfigError, match=r"replay, so training\.model is needed"):
        load_loop(str(path))
    with pytest.raises(ConfigError, match=r"training: there is no key epoch \(did you mean epochs"):
        load_loop(str(path), ["training.model=m", "training.epoch=1"])
    with pytest.raises(ConfigError, match=r"evaluation: max_tokens"):
        load_loop(str(path), ["training.model=m", "evaluation.max_tokens=0"])
    with pytest.raises(ConfigError, match="training is not a section"):
        load_loop(str(path), ["training=3"])
    with pytest.raises(ConfigError, match=r"evaluation\.generator is not a section"):
        load_loop(str(path), ["evaluation.generator=vllm"])


def test_a_loop_that_cannot_end_does_not_begin(tmp_path):
    path = tmp_path / "loop.yaml"
    path.write_text(REPLAY)
    config = load_loop(str(path), ["training.model=smollm2-135m-instruct"])
    to = tmp_path / "to"
    with pytest.raises(ConfigError, match="a loop needs a folder"):
        run_loop(config, "s3://bucket/loop")
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    unreadable = load_loop(str(path), [f"training.model={model}"])
    with pytest.raises(EngineError, match="could not be loaded"):
        run_loop(unreadable, str(to))
    seeds = tmp_path / "seeds.jsonl"
    all_seeds, _ = load_seeds("bundled")
    rows = [
        {
            "id": seed.id,
            "name": seed.name,
            "instruction": seed.instruction,
            "instances": [{"input": i.input, "output": i.output} for i in seed.instances],
            "is_classification": seed.is_classification,
        }
        for seed in all_seeds[:1]
    ]
    seeds.write_text("\n".join(map(json.dumps, rows)))
    config = load_loop(str(path), ["training.model=smollm2-135m-instruct", f"seeds={seeds}"])
    with pytest.raises(SeedError, match="too few seed tasks to hold some out"):
        run_loop(config, str(to))
    assert not to.exists()
