"""What completions about one instruction come to, and what its row says of them."""

from __future__ import annotations

import pytest

from ray_si.config.file import parse_config
from ray_si.dedup import ExcludedTexts
from ray_si.engines.base import Completion
from ray_si.pipeline.instances import (
    CAME_ALONG,
    NOT_ASKED,
    POOL_COLUMNS,
    AcceptedInstruction,
    Classified,
    InstanceCompletion,
    answered_yes,
    decide_instances,
    instance_row,
    is_class_known,
    pool_of,
)
from ray_si.records import Instance
from ray_si.run.schemas import ACCEPTED, INSTANCE_BLOCK
from tests.builds import replay_values

CONFIG = parse_config(replay_values())
RIVER = AcceptedInstruction("a", "Name a river of the country.", True, None)
GIVEN = RIVER._replace(given=Instance("Egypt", "The Nile."))
TEXT = (
    "Example 1\nCountry: Egypt\nOutput: The Nile.\n\nExample 2\nCountry: France\nOutput: The Loire."
)


def row(instruction, completion=None, *, classified=None):
    return instance_row(
        CONFIG, instruction, 3, 77, classified or Classified(False), completion, None
    )


def test_instances_of_a_completion_are_kept_with_what_it_cost():
    classified = Classified(False, "No", -1.5, 7, 1)
    written = row(RIVER, Completion(TEXT, "stop", 40, 20), classified=classified)
    assert [pair["output"] for pair in written["instances"]] == ["The Nile.", "The Loire."]
    assert not written["rejected"]
    assert (written["block"], written["id"], written["seed"]) == (3, "a", 77)
    assert (written["classification_answer"], written["classification_margin"]) == ("No", -1.5)
    assert (written["prompt_tokens"], written["classification_prompt_tokens"]) == (40, 7)
    assert list(written) == INSTANCE_BLOCK.names


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


def test_an_instance_that_came_along_is_filtered_and_nothing_was_asked():
    written = row(GIVEN)
    assert written["instances"] == [{"input": "Egypt", "output": "The Nile."}]
    assert (written["finish_reason"], written["text"]) == (CAME_ALONG, "")
    echo = row(GIVEN._replace(given=Instance("the same", "the same")))
    assert not echo["instances"]
    assert len(echo["rejected"]) == 1


def test_without_a_request_and_an_instance_the_row_says_that_none_was_asked_for():
    written = row(RIVER)
    assert (written["finish_reason"], written["instances"]) == (NOT_ASKED, [])
    assert [item["reason"] for item in written["rejected"]] == [NOT_ASKED]


@pytest.mark.parametrize(
    ("instruction", "completion"),
    [(RIVER, Completion(TEXT, "length", 5, 5)), (GIVEN, None), (RIVER, None)],
    ids=["asked", "came along", "not asked"],
)
def test_a_stored_row_is_decided_again_as_it_was(instruction, completion):
    written = row(instruction, completion, classified=Classified(True))
    again = decide_instances(CONFIG, instruction, True, InstanceCompletion.of(written))
    assert again == (written["instances"], written["rejected"])


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
