"""Training rows in every layout."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from ray_si.records import Instance
from ray_si.self_instruct.formats import ENCODINGS, FORMATS, layout, mapped, to_row

WITH = Instance("2 and 3", "5")
WITHOUT = Instance("", "Hello.")
COLUMNS = {"instruction": ["Add.", "Greet."], "input": ["2 and 3", ""], "output": ["5", "Hello."]}


def test_alpaca_keeps_the_three_fields():
    assert to_row("Add.", WITH, "alpaca") == {
        "instruction": "Add.",
        "input": "2 and 3",
        "output": "5",
    }


def test_messages_are_a_user_and_an_assistant_turn():
    assert to_row("Add.", WITH, "messages") == {
        "messages": [
            {"role": "user", "content": "Add.\n\n2 and 3"},
            {"role": "assistant", "content": "5"},
        ]
    }


def test_conversations_are_a_human_and_a_gpt_turn():
    assert to_row("Add.", WITH, "conversations") == {
        "conversations": [
            {"from": "human", "value": "Add.\n\n2 and 3"},
            {"from": "gpt", "value": "5"},
        ]
    }


def test_prompt_completion_leaves_out_an_empty_input():
    assert to_row("Greet.", WITHOUT, "prompt-completion") == {
        "prompt": "Greet.",
        "completion": "Hello.",
    }


@pytest.mark.parametrize("format_", FORMATS)
def test_a_layout_gives_a_row_for_each_instance_in_order(format_):
    rows = list(layout(format_).rows(COLUMNS, [5, 9]))
    assert rows == [to_row("Add.", WITH, format_, 5), to_row("Greet.", WITHOUT, format_, 9)]


def test_varied_prompts_are_what_the_paper_varies():
    rows = [to_row("Add.", WITH, "prompt-completion-varied", n) for n in range(ENCODINGS)]
    texts = {(row["prompt"], row["completion"]) for row in rows}
    assert texts == {
        (f"{task}Add.{breaks}{head}2 and 3{end}", f"{lead}5")
        for task in ("", "Task: ")
        for head in ("", "Input: ")
        for breaks in ("\n", "\n\n")
        for end, lead in ((breaks, ""), (f"{breaks}Output:", " "))
    }
    without = {
        to_row("Greet.", WITHOUT, "prompt-completion-varied", n)["prompt"] for n in range(ENCODINGS)
    }
    assert len(without) == 8
    assert not any("Input:" in prompt for prompt in without)


@given(st.integers(0, 2**64 - 1))
def test_a_varied_completion_can_be_told_from_its_prompt(number):
    row = to_row("Add.", WITH, "prompt-completion-varied", number)
    assert row["prompt"].endswith(("\n", "Output:"))
    assert row["completion"].strip() == "5"


def test_a_map_names_fields_in_its_order():
    rows = mapped(["question=prompt", "answer=output", "id=id"], ["id", "input", "output"])
    assert set(rows.columns) == {"instruction", "input", "output", "id"}
    found = list(rows.rows(COLUMNS | {"id": ["a", "b"]}, [0, 0]))
    assert found == [
        {"question": "Add.\n\n2 and 3", "answer": "5", "id": "a"},
        {"question": "Greet.", "answer": "Hello.", "id": "b"},
    ]
    assert list(found[0]) == ["question", "answer", "id"]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "at least one"),
        (["question"], "write name=field"),
        (["=input"], "write name=field"),
        (["a=input", "a=output"], "a is mapped already"),
        (["a=outputs"], "did you mean output?"),
        (["a=xyz"], "there are: input, output, prompt"),
    ],
)
def test_a_map_that_cannot_be_meant_is_refused(pairs, message):
    with pytest.raises(ValueError, match=message):
        mapped(pairs, ["input", "output"])
