"""Benchmarks by name."""

from __future__ import annotations

import pytest

from ray_si.errors import EngineError, TaskError
from ray_si.records import Instance
from ray_si.training.benchmarks import BENCHMARKS
from ray_si.training.config import Evaluation
from ray_si.training.tasks import Example
from tests.training import zoo


def test_the_user_oriented_instructions_are_taken_as_published_only(reference, tmp_path):
    path = reference / "user_oriented_instructions.jsonl"
    benchmark = BENCHMARKS["user-oriented"]
    assert len(benchmark.load(str(path), Evaluation())) == benchmark.settings["rated"] == 252
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(TaskError, match="is not the 252 user-oriented instructions as published"):
        benchmark.load(str(fewer), Evaluation())


def test_other_languages_are_scored_by_the_tokens_of_a_tokenizer_and_english_by_words(tmp_path):
    zoo.tokenizer("gpt2", "none").save_pretrained(tmp_path)
    options = Evaluation(rouge_tokenizer=str(tmp_path))
    example = Example("a", "a", "Name it.", Instance("", "دریا"), ("دریا",))
    score = {name: BENCHMARKS[name].measure(options).score for name in BENCHMARKS if "ni" in name}
    assert score["super-ni-crosslingual"](example, "دریا")["rouge_l"] == [1]
    assert score["super-ni"](example, "دریا")["rouge_l"] == [0]
    absent = Evaluation(rouge_tokenizer=str(tmp_path / "no"))
    with pytest.raises(EngineError, match="set rouge_tokenizer to a folder of it") as caught:
        BENCHMARKS["super-ni-crosslingual"].measure(absent)
    assert "\n" not in str(caught.value)
