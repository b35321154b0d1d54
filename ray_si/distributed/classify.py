"""Phase 2: which instructions are classification tasks."""

from __future__ import annotations

from dataclasses import dataclass

from ray_si.config import RunConfig
from ray_si.distributed.stages import Ask
from ray_si.engines.base import Completion, Request
from ray_si.self_instruct.parsing import parse_classification
from ray_si.self_instruct.prompts import LABELS, classification_prompt


@dataclass(frozen=True)
class Classified:
    """What the model says of an instruction.

    ``answer`` is the label or text it came from; ``margin`` the log-probability of yes minus that
    of no, where labels were scored; the tokens are what this took. An answer that says neither, or
    an engine's error, counts as no, as in the original code.
    """

    is_classification: bool
    answer: str
    margin: float | None
    prompt_tokens: int
    completion_tokens: int


async def classify(instruction: str, seed: int, config: RunConfig, ask: Ask) -> Classified:
    """Ask whether an instruction is a classification task."""
    generator = config.instances_by
    style = generator.prompt_style
    prompt = classification_prompt(instruction, style=style)
    params = generator.sampling.classification.params(prompt.stop)
    labels = LABELS[style] if config.classification.method == "labels" else ()
    completion = await ask(Request(prompt.prompt, params, seed, "classification", labels))
    margin = _margin(completion)
    if margin is None:
        is_yes = bool(parse_classification(completion.text))
    else:
        is_yes = margin > config.classification.threshold
    return Classified(
        is_yes,
        completion.error or completion.text,
        margin,
        completion.prompt_tokens,
        completion.completion_tokens,
    )


def _margin(completion: Completion) -> float | None:
    scores = completion.label_logprobs
    return None if scores is None else scores[0] - scores[1]
