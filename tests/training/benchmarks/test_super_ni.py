"""Super-NaturalInstructions by its own protocol, on a folder of made-up tasks with its names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ray_si.errors import TaskError
from ray_si.records import Instance
from ray_si.training.benchmarks import BENCHMARKS
from ray_si.training.benchmarks.super_ni import (
    CATEGORIES,
    load_super_ni,
    test_tasks as names_of_test_tasks,
    wrapped,
)
from ray_si.training.comparison import compare, score_answers
from ray_si.training.config import Evaluation
from ray_si.training.tasks import Example

OFFICIAL = json.loads((Path(__file__).parent / "official_scores.json").read_text("utf-8"))
"""Predictions with the scores that the official scorer gives them, and how they were made."""

TASK = {
    "Categories": ["Textual Entailment", "Other"],
    "Definition": ["Say yes or no", "A second definition."],
    "Positive Examples": [
        {"input": "It rains.", "output": "yes", "explanation": "so"},
        {"input": "It snows", "output": "no"},
        {"input": "never shown", "output": "no"},
    ],
    "Negative Examples": [{"input": "x", "output": "y"}],
    "Instances": [
        {"id": f"i{i}", "input": f"text {i}", "output": ["yes", "Yes."]} for i in range(120)
    ],
}

WITH_TWO = """Definition: Say yes or no.

 Positive Example 1 -
Input: It rains.
 Output: yes.

 Positive Example 2 -
Input: It snows.
 Output: no.

Now complete the following example -
Input: text 0.
Output:"""
"""What Tk-Instruct's collator makes of it, but for the space at its end."""


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("natural-instructions")
    (folder / "tasks").mkdir()
    text = json.dumps(TASK)
    for name in (*names_of_test_tasks("english"), "task001_a_training_task"):
        (folder / "tasks" / f"{name}.json").write_text(text)
    return folder


def test_the_official_split_has_119_tasks_in_english_and_35_in_other_languages():
    english, others = (names_of_test_tasks(track) for track in ("english", "crosslingual"))
    assert (len(set(english)), len(set(others))) == (119, 35)
    assert not set(english) & set(others)
    assert len(CATEGORIES) == 12


def test_the_first_hundred_instances_of_the_test_tasks_are_asked_in_the_official_words(published):
    examples = load_super_ni(str(published), "english", positive_examples=2)
    assert len(examples) == 11_900
    assert examples[0].prompt == WITH_TWO
    assert examples[0].instruction == "Say yes or no"
    assert examples[0].category == "Textual Entailment"
    assert examples[0].references == ("yes", "Yes.")
    assert {example.task for example in examples} == set(names_of_test_tasks("english"))
    assert load_super_ni(str(published / "tasks"), "english", positive_examples=2) == examples


def test_without_examples_the_prompt_is_the_definition_and_the_input(published):
    first = load_super_ni(str(published), "english", positive_examples=0)[0]
    assert first.prompt == (
        "Definition: Say yes or no.\n\n"
        "Now complete the following example -\nInput: text 0.\nOutput:"
    )
    assert wrapped("Do it!", [], " ").endswith(
        "Do it!\n\nNow complete the following example -\nInput: .\nOutput:"
    )


def test_other_folders_are_refused_in_one_line(published, tmp_path):
    for folder, track, fault in (
        (published / "absent", "english", "is not a folder of"),
        (
            published,
            "crosslingual",
            "none of the 35 test tasks of the crosslingual track: tasks of a",
        ),
        (tmp_path, "english", "none of the 119 test tasks"),
    ):
        with pytest.raises(TaskError, match=fault):
            load_super_ni(str(folder), track, positive_examples=0)
    names = names_of_test_tasks("english")
    for name in names[1:]:
        (tmp_path / f"{name}.json").write_text(json.dumps(TASK))
    with pytest.raises(
        TaskError, match=f"lacks 1 of the 119 .* such as {names[0]}: another version"
    ):
        load_super_ni(str(tmp_path), "english", positive_examples=0)
    early = TASK | {"Categories": ["Text Comparison -> Entailment"]}
    (tmp_path / f"{names[0]}.json").write_text(json.dumps(early))
    with pytest.raises(TaskError, match=r"another version of .* its category is 'Text Comparison"):
        load_super_ni(str(tmp_path), "english", positive_examples=0)
    broken = TASK | {"Positive Examples": [{"input": 3}]}
    (tmp_path / f"{names[0]}.json").write_text(json.dumps(broken))
    assert len(load_super_ni(str(tmp_path), "english", positive_examples=0)) == 11_900
    with pytest.raises(TaskError, match="a positive example must have"):
        load_super_ni(str(tmp_path), "english", positive_examples=2)


@pytest.mark.parametrize("track", ["english", "crosslingual"])
def test_scores_are_those_of_the_official_scorer(track, tmp_path):
    benchmark = {"english": "super-ni", "crosslingual": "super-ni-crosslingual"}[track]
    bytes_alone().save_pretrained(tmp_path)
    options = Evaluation(rouge_tokenizer=str(tmp_path), resamples=100)
    measure = BENCHMARKS[benchmark].measure(options)
    official = OFFICIAL[track]
    rows = official["predictions"]
    assert {row["task"] for row in rows} <= set(names_of_test_tasks(track))
    examples = [
        Example(
            str(i), row["task"], "", Instance("", row["references"][0]), tuple(row["references"]),
            category=row["category"],
        )
        for i, row in enumerate(rows)
    ]  # fmt: skip
    answers = [{"text": row["prediction"], "finish_reason": "stop"} for row in rows]
    scores = score_answers(examples, answers, measure)
    report = compare(options, examples, {"model": answers}, {}, measure)["models"]["model"]
    for metric in ("exact_match", "rouge_l"):
        assert [round(100 * score, 4) for (score,) in scores[metric]] == [
            row[metric] for row in rows
        ]
        assert report["overall"][metric]["mean"] == pytest.approx(
            official["overall"][metric], abs=0.005
        )
        for groups in ("by_category", "by_task"):
            found = {name: group[metric]["mean"] for name, group in report[groups].items()}
            right = {name: group[metric] for name, group in official[groups].items()}
            assert found == pytest.approx(right, abs=0.005)
    if track == "english":
        assert set(official["by_category"]) == set(CATEGORIES)


def bytes_alone():
    """A byte-level tokenizer without merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)
