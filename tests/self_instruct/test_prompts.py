"""Prompts hold what they should, in both styles."""

from __future__ import annotations

import re

import pytest

from ray_si.records import Instance
from ray_si.self_instruct.parsing import Candidate, Headings, parse_joint, parse_marked
from ray_si.self_instruct.prompts import (
    TEMPLATES,
    Example,
    answer_prompt,
    classification_prompt,
    input_prompt,
    instance_prompt,
    instruction_prompt,
    joint_prompt,
    our_template,
    plan_prompt,
    rewrite_prompt,
    templates_in_use,
    turn_prompt,
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


TASKS = [
    Example("Name a\nriver.", Instance("", "The Nile.")),
    Example("Sort the words.", Instance("b\n\na", "1. a\n\n2. b")),
]


def test_joint_demonstrations_are_whole_tasks_and_the_next_instruction_begins():
    made = joint_prompt(TASKS, style="completion", new=2)
    assert made.prompt.endswith(
        "\n\n1. Instruction: Name a river.\nOutput: The Nile."
        "\n\n2. Instruction: Sort the words.\nInput: b\na\nOutput: 1. a\n2. b"
        "\n\n3. Instruction:"
    )
    assert made.stop == ("\n5. Instruction:",)


@pytest.mark.parametrize("headings", [Headings(), Headings(instruction="Aufgabe", input="Ein")])
def test_what_a_joint_prompt_shows_can_be_parsed_back(headings):
    prompt = joint_prompt(TASKS, style="completion", headings=headings).prompt
    shown = prompt[prompt.index("1. ") : prompt.rindex("3. ")]
    found = parse_joint(shown, "stop", headings=headings)
    assert [item.text for item in found] == ["Name a river.", "Sort the words."]
    assert found[0].instance == Instance("", "The Nile.")
    assert found[1].instance == Instance("b\na", "1. a\n2. b")


def test_a_runs_own_template_stands_in_for_ours_and_the_rest_stays():
    own = {"completion_classification": "Was ist {instruction}?"}
    assert classification_prompt("x {new} y", style="completion", templates=own).prompt == (
        "Was ist x {new} y?"
    )
    other = instance_prompt("x", style="completion", templates=own)
    assert other == instance_prompt("x", style="completion")


def test_completions_stop_at_a_heading_in_either_language():
    stop = instance_prompt("x", style="completion", headings=Headings(task="Aufgabe")).stop
    assert {"\nTask:", "\nAufgabe:"} <= set(stop)


def test_every_template_of_ours_is_valid_and_only_those_in_use_are_taken():
    ours = {name: our_template(name) for name in TEMPLATES}
    used = templates_in_use(ours, style="chat", joint=True, classification_share=1, ask_class=False)
    assert set(used) == {"chat_joint_classification", "chat_input_first", "chat_output_first"}
    both = templates_in_use({}, style="completion", classification_share=0.5)
    assert {"completion_instructions", "completion_instructions_classification"} <= set(both)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("completion_instruction", "{demonstrations}", "did you mean completion_instructions?"),
        ("thesis", "x", "there is no template thesis"),
        ("chat_input_first", "Do it.", "lacks the placeholder {instruction}"),
        ("chat_joint", "{demonstrations} {wanted}", "unknown placeholder {wanted}"),
        ("chat_input_first", "{instruction} {new}", "unknown placeholder {new}"),
        ("chat_input_first", " \n", "is empty"),
    ],
)
def test_a_wrong_template_is_named(name, text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        templates_in_use({name: text}, style="chat")


def test_answers_are_asked_as_a_user_would_after_demonstrations_of_the_same_form():
    shown = Example("Make it polite.", Instance("Go away.", " Please leave.\n"))
    asked = Example("Name a river.", Instance("", ""))
    made = answer_prompt(asked, style="chat", demonstrations=[shown])
    assert made.prompt == [
        {"role": "user", "content": "Make it polite.\n\nGo away."},
        {"role": "assistant", "content": "Please leave."},
        {"role": "user", "content": "Name a river."},
    ]
    text = answer_prompt(asked, style="completion", headings=Headings(output="Ausgabe"))
    assert text.prompt.endswith("Task: Name a river.\nAusgabe:")


def test_inputs_are_asked_for_or_written_as_the_user():
    (turn,) = input_prompt("Name a river.", style="chat").prompt
    assert "Task: Name a river." in turn["content"]
    made = input_prompt("Make it polite.", style="chat", inputs="user_turn")
    assert [turn["role"] for turn in made.prompt] == ["system", "user"]
    assert made.continue_final_message
    assert "Output:" in input_prompt("Name a river.", style="completion").stop


def test_what_the_model_writes_as_the_user_may_follow_earlier_turns():
    shown = Example("Make it polite.", Instance("Go away.", "Please leave."))
    made = input_prompt("Be brief.", style="chat", inputs="user_turn", demonstrations=[shown])
    assert [turn["content"] for turn in made.prompt[1:]] == ["Go away.", "Please leave.", ""]
    assert [turn["role"] for turn in made.prompt] == ["system", "user", "assistant", "user"]


def test_a_plan_is_asked_for_before_the_instruction():
    (turn,) = plan_prompt(DEMONSTRATIONS, style="chat").prompt
    assert "1. Name a river.\n2. Tell a {first} joke about cats." in turn["content"]
    assert turn["content"].index("Plan one") < turn["content"].index('"Instruction:"')
    made = plan_prompt(DEMONSTRATIONS, style="completion", topic="tea")
    end = (
        "2. Tell a {first} joke about cats.\n\nThe next tasks are about another topic: tea.\nPlan:"
    )
    assert made.prompt.endswith(end)
    assert made.stop == ("\n\n", "\n1.", "\nPlan:")


def test_what_the_template_shows_of_plans_is_read_as_it_should_be():
    shown = our_template("completion_plan").split("\n\n")[1:3]
    for part in shown:
        completion = part.split("\nPlan:")[1]
        (found,) = parse_marked(completion, "stop")
        assert found == Candidate(0, completion.split("Instruction: ")[1])


LATER = {"chat_classification", "chat_input_first", "chat_output_first"}


def test_a_method_has_a_template_in_place_of_the_lists():
    used = templates_in_use({}, style="chat", method="plan", topics=True)
    assert {"chat_plan", "chat_topic"} < set(used)
    assert "chat_instructions" not in used
    used = templates_in_use({}, style="chat", method="template", topics=True)
    assert set(used) == {"chat_turn_topic", *LATER}
    assert set(templates_in_use({}, style="chat", method="template")) == LATER


def test_a_task_is_rewritten_by_a_change():
    (turn,) = rewrite_prompt("Name {a}\nriver.", "Add a {limit}.", style="chat", topic="tea").prompt
    assert "Task: Name {a} river." in turn["content"]
    topic = "Every new task must have to do with this topic: tea."
    assert f"Add a {{limit}}. {topic}" in turn["content"]
    made = rewrite_prompt("Name a river.", "Add a limit.", style="completion")
    assert made.prompt.endswith("Task: Name a river.\nChange: Add a limit.\nInstruction:")
    assert made.stop == ("\n",)


def test_the_model_may_write_the_users_turn_with_nothing_before_it_or_a_topic():
    made = turn_prompt()
    assert made.prompt == [{"role": "user", "content": ""}]
    assert made.continue_final_message
    system, user = turn_prompt(topic="tea").prompt
    assert system["role"] == "system"
    assert "topic: tea." in system["content"]
    assert user == made.prompt[0]
