"""Phase 2: which instructions are classification tasks."""

from __future__ import annotations

from ray_si.build.answering import Ask
from ray_si.config import RunConfig
from ray_si.engines.base import Completion
from ray_si.pipeline.instances import (
    AcceptedInstruction,
    Classified,
    ToWriteRow,
    answered_yes,
    is_class_known,
)
from ray_si.pipeline.prompting import classification_request


async def classify(row: ToWriteRow, config: RunConfig, ask: Ask) -> Classified | Completion:
    """Ask whether an instruction is a classification task, unless that `is_class_known`.

    Where that failed for good it is unknown, and the completion that says so comes back.
    """
    if is_class_known(config, AcceptedInstruction.of(row)):
        return Classified(row["classification_prompt"])
    completion = await ask(classification_request(config, row["instruction"], row["seed"]))
    if completion.finish_reason == "error":
        return completion
    is_yes, margin = answered_yes(config, completion)
    return Classified(
        is_yes,
        completion.error or completion.text,
        margin,
        completion.prompt_tokens,
        completion.completion_tokens,
    )
