"""Training rows in the three layouts."""

from __future__ import annotations

from ray_si.records import Instance
from ray_si.self_instruct.formats import to_row

WITH = Instance("2 and 3", "5")
WITHOUT = Instance("", "Hello.")


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


def test_prompt_completion_leaves_out_an_empty_input():
    assert to_row("Greet.", WITHOUT, "prompt-completion") == {
        "prompt": "Greet.",
        "completion": "Hello.",
    }
