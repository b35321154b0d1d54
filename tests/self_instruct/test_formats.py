"""Training rows in every layout."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, strategies as st

from ray_si.records import Instance
from ray_si.self_instruct.formats import ENCODINGS, FORMATS, layout, mapped, rewritten, to_row

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


def _without_a_lone_field_name(text):
    """Found from the colons backwards, where the code goes by a pattern."""
    names = set()
    for place, character in enumerate(text):
        if character == ":":
            start = place
            while start and (text[start - 1].isalnum() or text[start - 1] == "_"):
                start -= 1
            names |= {text[start:place]} - {""}
    return text[text.index(":") + 1 :] if len(names) == 1 else text


def _ways(instruction, input_, output):
    """Every pair that the original code may write of an instance, drawn without weights."""
    halved = _without_a_lone_field_name(input_).strip().replace("\n\n", "\n")
    for x in (input_.strip(), halved.strip()):
        i, spaced = instruction.strip(), f" {output.strip()}"
        if x:
            yield f"{i}\nInput: {x}\nOutput:", spaced
            yield f"{i}\n\nInput: {x}\n\nOutput:", spaced
            yield f"Task: {i}\nInput: {x}\nOutput:", spaced
            yield f"{i}\n\n{x}\n\nOutput:", spaced
            yield f"{i}\n\n{x}\n\n", output.strip()
            yield f"{i}\n{x}\n\n", output.strip()
            yield f"Task: {i}\n\n{x}\n\n", output.strip()
        else:
            yield f"{i} Output:", spaced
            yield f"{i}\nOutput:", spaced
            yield f"{i}\n\nOutput:", spaced
            yield f"{i}\n", output.strip()
            yield f"{i}\n\n", output.strip()
            yield f"Task: {i}\n\n", output.strip()


INPUTS = st.lists(
    st.sampled_from(["Sentence:", "Text", ":", "a b", "\n", "\n\n", " ", "Sentence", "1", "é:"]),
    max_size=8,
).map("".join)


def _varied(instruction, instance, numbers=range(ENCODINGS)):
    rows = [to_row(instruction, instance, "prompt-completion-varied", n) for n in numbers]
    return [(row["prompt"], row["completion"]) for row in rows]


@given(INPUTS)
def test_varied_prompts_are_those_of_the_original_code(input_):
    instance = Instance(input_, " 5 ")
    assert set(_varied(" Add. ", instance)) == set(_ways(" Add. ", input_, " 5 "))


def test_each_way_and_a_rewritten_input_are_as_likely():
    counts = Counter(_varied("Add.", Instance("Numbers: 2\n\n3", "5")))
    assert len(counts) == 14
    assert set(counts.values()) == {6}
    counts = Counter(_varied("Greet.", WITHOUT))
    assert len(counts) == 6
    assert set(counts.values()) == {14}


@pytest.mark.parametrize(
    ("input_", "halved"),
    [
        ("Sentence: I am late.", "I am late."),
        ("Sentence: one\nSentence: two", "one\nSentence: two"),
        ("Name: Ada\nAge: 36", "Name: Ada\nAge: 36"),
        ("a : b", "a : b"),
        ("one\n\ntwo\n\n\nthree", "one\ntwo\n\nthree"),
        ("It began at 9:30.", "30."),  # as there: any word before a colon is a field name
        ("Question:", ""),
    ],
)
def test_a_lone_field_name_and_blank_lines_go(input_, halved):
    assert rewritten(input_) == halved


@given(st.integers(0, 2**64 - 1))
def test_a_varied_completion_can_be_told_from_its_prompt(number):
    ((prompt, completion),) = _varied("Add.", WITH, [number])
    assert prompt.endswith(("\n", "Output:"))
    assert completion.strip() == "5"


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
