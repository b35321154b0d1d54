"""Preference pairs, which TRL's own trainers take as they are."""

from __future__ import annotations

import json

import datasets
import pytest

from ray_si.config.scores import scores_of
from ray_si.scores.compute import compute
from tests.command import assert_one_line_error, invoke
from tests.engines.huggingface.test_reward import made as reward_model
from tests.run.finished import finished_run
from tests.scores.test_answers import answers


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "run"
    return finished_run(folder, 30, answers=answers, rows_per_shard=7)


def lines(path):
    return [json.loads(line) for line in path.open(encoding="utf-8")]


def exported(run, to, *arguments):
    done = invoke("export", run.location, "--format", "preference", "--to", to, *arguments)
    assert done.returncode == 0, done.stderr
    return lines(to / "preference.jsonl")


def test_the_best_and_the_worst_answer_to_each_prompt_with_their_margin(run, tmp_path):
    rows = exported(run, tmp_path / "out")
    assert len(rows) == 30
    assert rows[3] == {
        "prompt": [{"role": "user", "content": "Do task number 3."}],
        "chosen": [{"role": "assistant", "content": "A whole answer 3."}],
        "rejected": [{"role": "assistant", "content": "Short 3."}],
        "margin": 1.0,
    }


def test_pairs_may_go_by_any_score_of_all_answers(run, tmp_path):
    section = scores_of({"brevity": {"kind": "function", "path": "tests.scores.brevity:brevity"}})
    compute(run, section, of_answers=True)
    rows = exported(run, tmp_path / "out", "--by", "brevity")
    assert rows[0]["chosen"][0]["content"] == "Short 0."
    assert rows[0]["margin"] == len("A whole answer 0.") - len("Short 0.")
    manifest = json.loads((tmp_path / "out" / "_preference.manifest").read_text())
    assert (manifest["by"], manifest["without_pair"]) == ("brevity", 0)


def test_inputs_without_two_answers_are_counted(tmp_path):
    run = finished_run(
        tmp_path / "run", 10, answers=lambda n: answers(n)[: 1 + n % 2], rows_per_shard=4
    )
    assert len(exported(run, tmp_path / "out")) == 5
    manifest = json.loads((tmp_path / "out" / "_preference.manifest").read_text())
    assert manifest["without_pair"] == 5


def test_trl_trains_on_the_pairs_as_they_are(run, tmp_path):
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

    exported(run, tmp_path / "out")
    data = datasets.load_dataset(
        "json", data_files=str(tmp_path / "out/preference.jsonl"), cache_dir=str(tmp_path / "cache")
    )["train"]
    scalar = reward_model(tmp_path / "reward")
    tokenizer = AutoTokenizer.from_pretrained(scalar)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = LlamaConfig(**sizes, num_attention_heads=4, vocab_size=len(tokenizer))
    LlamaForCausalLM(config).save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    common = {"max_steps": 1, "per_device_train_batch_size": 4, "report_to": "none"}
    common |= {"use_cpu": True, "save_strategy": "no", "bf16": False, "logging_steps": 1}
    by_pairs = DPOTrainer(
        model=str(tmp_path / "policy"),
        args=DPOConfig(str(tmp_path / "dpo"), **common),
        train_dataset=data,
        processing_class=tokenizer,
    )
    by_pairs.train()
    rewarded = RewardTrainer(
        model=scalar,
        args=RewardConfig(str(tmp_path / "trained"), **common),
        train_dataset=data,
        processing_class=tokenizer,
    )
    rewarded.train()
    for trainer in (by_pairs, rewarded):
        assert trainer.state.global_step == 1
        assert trainer.state.log_history[0]["loss"] > 0
    assert "margin" in rewarded.train_dataset.column_names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "preference", "--by", "judge"], "there is no score judge"),
        (["--format", "alpaca", "--by", "judge"], "--by is for --format preference"),
        (["--format", "preference", "--seed-tasks"], "--seed-tasks: seed tasks have no scores"),
    ],
)
def test_what_cannot_be_meant_is_one_line(run, tmp_path, arguments, message):
    done = invoke("export", run.location, *arguments, "--to", tmp_path / "out")
    assert_one_line_error(done, message)


def test_without_several_answers_there_are_no_pairs(tmp_path):
    run = finished_run(tmp_path / "run", 5)
    done = invoke("export", run.location, "--format", "preference", "--to", tmp_path / "out")
    assert_one_line_error(done, "keeps no answers by themselves")


def test_a_score_is_a_field_that_a_map_may_name(run, tmp_path):
    compute(run, scores_of({"length": None}))
    done = invoke(
        "export", run.location, "--map", "key=id", "--map", "words=length", "--to", tmp_path / "out"
    )
    assert done.returncode == 0, done.stderr
    rows = lines(tmp_path / "out" / "mapped.jsonl")
    assert rows[0] == {"key": "r00000-00000-00-0", "words": 4.0}
    assert len(rows) == 30
