"""Super-NaturalInstructions by its own protocol, on a folder of made-up tasks with its names."""

from __future__ import annotations

import json

import pytest

from ray_si.errors import TaskError
from ray_si.training.benchmarks.super_ni import (
    CATEGORIES,
    load_super_ni,
    test_tasks as names_of_test_tasks,
    wrapped,
)

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
