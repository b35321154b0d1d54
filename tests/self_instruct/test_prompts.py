"""Prompts hold what they should, in both styles."""

from __future__ import annotations

import pytest

from ray_si.self_instruct.prompts import (
    classification_prompt,
    instance_prompt,
    instruction_prompt,
)

DEMONSTRATIONS = ["Name a river.", "Tell a {first} joke\nabout cats."]


def test_completion_style_numbers_the_demonstrations_and_ends_with_the_next_number():
    made = instruction_prompt(DEMONSTRATIONS, style="completion", new=4)
    lines = made.prompt.splitlines()
    assert lines[-3:] == ["1. Name a river.", "2. Tell a {first} joke about cats.", "3."]
    assert "\n7." in made.stop


def test_chat_style_asks_for_the_next_numbers():
    (turn,) = instruction_prompt(DEMONSTRATIONS, style="chat", new=4).prompt
    assert turn["role"] == "user"
    assert "4 new tasks, numbered 3 to 6" in turn["content"]
    assert "2. Tell a {first} joke about cats." in turn["content"]


@pytest.mark.parametrize("style", ["completion", "chat"])
def test_the_classification_only_variant_says_so(style):
    made = instruction_prompt(DEMONSTRATIONS, style=style, classification_only=True)
    other = instruction_prompt(DEMONSTRATIONS, style=style)
    assert "classification tasks" in str(made.prompt)
    assert "classification" not in str(other.prompt)


@pytest.mark.parametrize("style", ["completion", "chat"])
@pytest.mark.parametrize(
    "make",
    [
        classification_prompt,
        instance_prompt,
        lambda text, style: instance_prompt(text, style=style, output_first=True),
    ],
)
def test_no_placeholder_is_left_and_the_instruction_stands_on_one_line(make, style):
    made = make("Sort {these}\nwords.", style=style)
    text = made.prompt if isinstance(made.prompt, str) else made.prompt[0]["content"]
    assert "Task: Sort {these} words." in text
    assert "{instruction}" not in text


def test_output_first_asks_for_the_label_before_the_input():
    text = instance_prompt("Sort it.", style="completion", output_first=True).prompt
    assert text.index("Class label:") < text.index("Input:")
    assert "Class label:" not in instance_prompt("Sort it.", style="completion").prompt
