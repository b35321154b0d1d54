"""What an instance block says of an instruction, however its instances were asked for."""

from __future__ import annotations

from typing import Any, cast

import pyarrow as pa

from ray_si.config import RunConfig
from ray_si.dedup import ExcludedTexts
from ray_si.engines.base import Completion
from ray_si.pipeline.decisions import completion_row
from ray_si.pipeline.instances import (
    CAME_ALONG,
    NOT_ASKED,
    AcceptedInstruction,
    Classified,
    InstanceCompletion,
    decide_instances,
)
from ray_si.pipeline.steps import IN_STEPS, Steps, decide_steps
from ray_si.run.schemas import INSTANCE_BLOCK, INSTANCE_BLOCK_IN_STEPS, InstanceRow

Written = Completion | Steps | None
"""What the model wrote about an instruction; None where it was not asked."""


def block_schema(config: RunConfig) -> pa.Schema:
    """The schema of the run's instance blocks."""
    return INSTANCE_BLOCK_IN_STEPS if config.instances.method == "steps" else INSTANCE_BLOCK


def instance_row(
    config: RunConfig,
    instruction: AcceptedInstruction,
    block: int,
    seed: int,
    classified: Classified,
    written: Written,
    excluded: ExcludedTexts | None,
) -> InstanceRow:
    """What an instance block says of an instruction; nothing ``written`` where none was asked."""
    if isinstance(written, Steps):
        stored = completion_row(written.as_completion())
        if stored["finish_reason"] != "error":
            stored["finish_reason"] = IN_STEPS
    else:
        stored = completion_row(written or Completion("", "stop"))
        if written is None:
            stored["finish_reason"] = CAME_ALONG if instruction.given else NOT_ASKED
    row: Any = {
        "block": block,
        "id": instruction.id,
        "instruction": instruction.instruction,
        "seed": seed,
        "is_classification": classified.is_classification,
        "classification_answer": classified.answer,
        "classification_margin": classified.margin,
        "classification_prompt_tokens": classified.prompt_tokens,
        "classification_completion_tokens": classified.completion_tokens,
        **stored,
    }
    if isinstance(written, Steps):
        row |= {"inputs": written.inputs, "answers": _raw(written)}
    elif config.instances.method == "steps":
        row |= {"inputs": [], "answers": []}
    return cast(InstanceRow, row | decided_columns(config, instruction, row, excluded))


def decided_columns(
    config: RunConfig,
    instruction: AcceptedInstruction,
    row: InstanceRow,
    excluded: ExcludedTexts | None,
) -> dict[str, Any]:
    """The columns of a row that follow from its completions."""
    is_classification = row["is_classification"]
    if row.get("answers") or row.get("inputs"):
        steps = decide_steps(config, instruction, is_classification, Steps.of(row), excluded)
        kept, rejected, inputs, answers = steps
        return {"instances": kept, "rejected": rejected, "inputs": inputs, "answers": answers}
    completion = InstanceCompletion.of(row)
    decided = decide_instances(config, instruction, is_classification, completion, excluded)
    return {"instances": decided.kept, "rejected": decided.rejected}


def _raw(steps: Steps) -> list[dict[str, Any]]:
    return [
        {"place": place, "answer": answer, **completion}
        for place, answer, completion in steps.answers
    ]
