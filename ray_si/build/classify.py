"""Phase 2: which instructions are classification tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray_si.build.stages import Ask
from ray_si.config import RunConfig
from ray_si.pipeline.decisions import answered_yes
from ray_si.pipeline.prompting import classification_request


@dataclass(frozen=True)
class Classified:
    """What an instruction is.

    ``answer`` is the label or text it came from, None where the model wasn't asked; ``margin`` the
    log-probability of yes minus that of no, where labels were scored; the tokens are what asking
    took.
    """

    is_classification: bool
    answer: str | None = None
    margin: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


async def classify(row: dict[str, Any], config: RunConfig, ask: Ask) -> Classified:
    """Ask whether an instruction is a classification task.

    Not where it came with an instance, nor where ``classification.method`` is "prompt": then it is
    what its prompt asked for.
    """
    if row["instance"] is not None or config.classification.method == "prompt":
        return Classified(row["classification_prompt"])
    completion = await ask(classification_request(config, row["instruction"], row["seed"]))
    is_yes, margin = answered_yes(config, completion)
    return Classified(
        is_yes,
        completion.error or completion.text,
        margin,
        completion.prompt_tokens,
        completion.completion_tokens,
    )
