"""IFEval, by the checks that lm-evaluation-harness keeps."""

from __future__ import annotations

import json

import pytest

from ray_si.errors import EngineError, TaskError
from ray_si.training.benchmarks import BENCHMARKS, ifeval
from ray_si.training.comparison import compare, how_sure, to_markdown
from ray_si.training.config import Evaluation

pytest.importorskip("lm_eval")
import nltk  # after lm_eval, which brings it

PROMPTS = [
    ("Name two rivers without any comma.", {"punctuation:no_comma": {}}),
    (
        "Tell of the sea in at least three sentences, and say tide twice.",
        {
            "length_constraints:number_sentences": {"relation": "at least", "num_sentences": 3},
            "keywords:frequency": {"relation": "at least", "keyword": "tide", "frequency": 2},
        },
    ),
    ("Shout a greeting.", {"change_case:english_capital": {}}),
    ("Give JSON alone.", {"detectable_format:json_format": {}}),
]


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    """What counts sentences, having learned no abbreviations."""
    folder = tmp_path_factory.mktemp("nltk_data")
    place = folder / "tokenizers" / "punkt_tab" / "english"
    place.mkdir(parents=True)
    for name in ("abbrev_types", "collocations", "ortho_context", "sent_starters"):
        (place / f"{name}.{'txt' if name in ('abbrev_types', 'sent_starters') else 'tab'}").touch()
    nltk.data.path.insert(0, str(folder))
    yield
    nltk.data.path.remove(str(folder))


def lines(prompts):
    rows = [
        {
            "key": 1000 + i,
            "prompt": prompt,
            "instruction_id_list": list(asked),
            "kwargs": list(asked.values()),
        }
        for i, (prompt, asked) in enumerate(prompts)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_prompts_and_instructions_are_counted_strictly_and_loosely(
    sentences, tmp_path, monkeypatch
):
    monkeypatch.setattr(ifeval, "PROMPTS", len(PROMPTS))
    path = tmp_path / "input_data.jsonl"
    path.write_text(lines(PROMPTS))
    benchmark, options = BENCHMARKS["ifeval"], Evaluation(resamples=200)
    examples = benchmark.load(str(path), options)
    assert [example.instruction for example in examples] == [prompt for prompt, _ in PROMPTS]
    good = [
        "The Nile and the Rhine",
        "The tide comes. The tide goes. It does so twice a day.",
        "GOOD MORNING TO ALL OF YOU WHO ARE HERE TODAY",
        '{"a": 1}',
    ]
    poor = ["Sure, here:\nThe Nile and the Rhine", "The tide comes.", "Good morning.", "a: 1"]
    answers = {
        name: [{"text": text, "finish_reason": "stop", "error": None} for text in texts]
        for name, texts in {"poor": poor, "good": good}.items()
    }
    report = compare(options, examples, answers, {}, benchmark.measure(options))
    means = {
        name: {metric: value["mean"] for metric, value in model["overall"].items()}
        for name, model in report["models"].items()
    }
    assert set(means["good"].values()) == {100}
    assert means["poor"] == {
        "prompt_strict": 0, "instruction_strict": 0, "prompt_loose": 25, "instruction_loose": 20,
    }  # fmt: skip
    assert report["models"]["poor"]["by_task"]["1001"]["instruction_loose"]["mean"] == 0
    assert report["differences"]["good"]["instruction_strict"]["mean"] == 100
    text = to_markdown(report)
    assert "| model | prompts followed | instructions followed | prompts, loose |" in text
    assert "same stop" not in text
    assert how_sure(report, "good").startswith("these 4 tasks do not tell")


def test_other_files_and_missing_parts_are_refused_in_one_line(sentences, tmp_path, monkeypatch):
    path = tmp_path / "other.jsonl"
    load = BENCHMARKS["ifeval"].load
    for text, fault in (
        ('{"instruction": "x"}\n', "line 1: not a prompt of IFEval"),
        (lines([("x", {"no:such": {}})]), "there is no check 'no:such' here"),
        (
            '{"prompt": "x", "instruction_id_list": ["punctuation:no_comma"], "kwargs": []}\n',
            "each instruction must have its kwargs",
        ),
        (lines(PROMPTS), "holds 4 prompts and IFEval 541"),
    ):
        path.write_text(text)
        with pytest.raises(TaskError, match=fault):
            load(str(path), Evaluation())
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with pytest.raises(EngineError, match="punkt_tab"):
        load(str(path), Evaluation())
