"""What completions about one instruction come to, and what its row says of them."""

from __future__ import annotations

import pytest

from ray_si.config.file import parse_config
from ray_si.dedup import ExcludedTexts
from ray_si.engines.base import Completion
from ray_si.pipeline.instances import (
    POOL_COLUMNS,
    AcceptedInstruction,
    InstanceCompletion,
    answered_yes,
    decide_instances,
    is_class_known,
    pool_of,
)
from ray_si.records import Instance
from ray_si.run.schemas import ACCEPTED
from tests.builds import replay_values

CONFIG = parse_config(replay_values())
RIVER = AcceptedInstruction("a", "Name a river of the country.", True, None)
GIVEN = RIVER._replace(given=Instance("Egypt", "The Nile."))
TEXT = (
    "Example 1\nCountry: Egypt\nOutput: The Nile.\n\nExample 2\nCountry: France\nOutput: The Loire."
)


@pytest.mark.parametrize(
    ("text", "finish_reason", "reason"),
    [
        ("", "error", "engine_error"),
        ("", "refused", "refused"),
        ("", "stop", "no_instance"),
    ],
)
def test_a_completion_without_an_instance_says_why(text, finish_reason, reason):
    decided = decide_instances(CONFIG, RIVER, False, InstanceCompletion(text, finish_reason))
    assert not decided.kept
    assert [item["reason"] for item in decided.rejected] == [reason]


def test_what_a_completion_holds_besides_instances_is_rejected_with_reasons():
    text = (
        "<plan>\nInput: a draft\nOutput: none of it\n</plan>\nGladly:\n\n"
        "**Example 1**\n**Input:** N/A\n**Output:** The Nile.\n\nExample 2\nInput: France\n\n"
        "Example 3\nInput: Peru\nOutput: The Amazon.\n<plan>\nAnd now"
    )
    config = parse_config(replay_values() | {"reasoning": {"tags": ["plan"]}})
    decided = decide_instances(config, RIVER, False, InstanceCompletion(text, "length"))
    assert decided.kept == [
        {"input": "", "output": "The Nile."},
        {"input": "Peru", "output": "The Amazon."},
    ]
    assert [(item["reason"], item["input"], item["output"]) for item in decided.rejected] == [
        ("preamble", "", "Gladly:"),
        ("no_output", "France", ""),
        ("unfinished_reasoning", "", "Input: a draft\nOutput: none of it\n\nAnd now"),
    ]


def test_the_original_rules_hold_where_the_configuration_asks_for_them():
    config = parse_config(replay_values() | {"rules": "original"})
    text = "Input: N/A\nOutput: Rain, for Example here."
    decided = decide_instances(config, RIVER, False, InstanceCompletion(text, "stop"))
    assert decided.kept == [
        {"input": "N/A", "output": "Rain, for"},
        {"input": "", "output": "here."},
    ]


def test_what_resembles_an_excluded_text_is_left_out_with_its_match():
    excluded = ExcludedTexts(0.9)
    excluded.add(["Name a river of the country.\nFrance"], source="rivers")
    decided = decide_instances(CONFIG, RIVER, False, InstanceCompletion(TEXT, "stop"), excluded)
    (left_out,) = decided.rejected
    assert (left_out["reason"], left_out["source"]) == ("contaminated", "rivers")
    assert left_out["match"].endswith("France")
    assert [pair["output"] for pair in decided.kept] == ["The Nile."]


@pytest.mark.parametrize("method", ["text", "labels", "prompt"])
def test_phase_2_is_not_asked_where_an_instance_came_along_or_the_prompt_says_it(method):
    values = replay_values() | {"classification": {"method": method}}
    config = parse_config(values)
    assert is_class_known(config, GIVEN)
    assert is_class_known(config, RIVER) == (method == "prompt")


@pytest.mark.parametrize(
    ("text", "scores", "expected"),
    [
        (" Yes", None, (True, None)),
        ("No", None, (False, None)),
        ("maybe", None, (False, None)),
        ("", (-1.0, -3.0), (True, 2.0)),
        ("", (-3.0, -1.0), (False, -2.0)),
    ],
)
def test_an_answer_of_phase_2_is_read_from_its_text_or_its_scores(text, scores, expected):
    assert answered_yes(CONFIG, Completion(text, "stop", label_logprobs=scores)) == expected


def test_the_pool_is_read_from_accepted_rows():
    rows = [
        {"id": "a", "instruction": "One.", "classification_prompt": True},
        {"id": "b", "instruction": "Two.", "classification_prompt": False,
         "instance": {"input": "", "output": "x"}},
    ]  # fmt: skip
    table = ACCEPTED.empty_table().from_pylist(rows, ACCEPTED)
    assert pool_of(table) == [
        AcceptedInstruction("a", "One.", True, None),
        AcceptedInstruction("b", "Two.", False, Instance("", "x")),
    ]
    assert pool_of(table.select(POOL_COLUMNS)) == pool_of(table)
