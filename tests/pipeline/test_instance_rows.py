"""What an instance block says of an instruction, whichever way its instances were asked for."""

from __future__ import annotations

import asyncio

import pyarrow as pa
import pytest

from ray_si.config.file import parse_config
from ray_si.engines.base import Completion
from ray_si.pipeline.instance_rows import block_schema, decided_columns, instance_row
from ray_si.pipeline.instances import CAME_ALONG, NOT_ASKED, Classified
from ray_si.pipeline.prompting import Shown
from ray_si.pipeline.steps import IN_STEPS, ask_in_steps
from ray_si.records import Instance
from ray_si.run.schemas import INSTANCE_BLOCK
from tests.builds import replay_values
from tests.pipeline.test_instances import CONFIG, GIVEN, RIVER, TEXT


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
    again = decided_columns(CONFIG, instruction, written, None)
    assert again == {name: written[name] for name in ("instances", "rejected")}


@pytest.mark.parametrize("error", [None, "lost"], ids=["answered", "one failed"])
def test_what_was_asked_in_steps_is_stored_whole_and_decided_again_as_it_was(error):
    config = parse_config(replay_values() | {"instances": {"method": "steps", "answers": 3}})

    async def ask(request):
        if request.purpose == "input":
            return Completion("France", "stop", 5, 1)
        if error:
            return Completion("", "error", error=error)
        return Completion(f"The Loire, {request.seed % 2}.", "stop", 7, 4, mean_logprob=-1.0)

    steps = asyncio.run(ask_in_steps(config, RIVER.instruction, 77, ask, Shown()))
    written = instance_row(config, RIVER, 3, 77, Classified(True), steps, None)
    assert written["finish_reason"] == ("error" if error else IN_STEPS)
    assert written["error"] == error
    assert written["prompt_tokens"] == 5 * 5 + (0 if error else 3 * 7)
    (stored,) = pa.Table.from_pylist([written], block_schema(config)).to_pylist()
    assert stored == written
    assert decided_columns(config, RIVER, stored, None).items() <= stored.items()
    assert len(stored["instances"]) == (0 if error else 1)


def test_blocks_in_steps_have_further_columns_which_are_empty_where_nothing_was_asked():
    config = parse_config(replay_values() | {"instances": {"method": "steps"}})
    assert block_schema(CONFIG) == INSTANCE_BLOCK
    assert block_schema(config).names == [*INSTANCE_BLOCK.names, "inputs", "answers"]
    written = instance_row(config, GIVEN, 3, 77, Classified(False), None, None)
    assert set(written) == set(block_schema(config).names)
    assert (written["inputs"], written["answers"]) == ([], [])
    assert decided_columns(config, GIVEN, written, None)["instances"] == written["instances"]
