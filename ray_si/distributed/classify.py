"""Phase 2: which instructions are classification tasks."""

from __future__ import annotations

import pyarrow as pa

from ray_si.config import RunConfig
from ray_si.distributed.serving import generate
from ray_si.engines.base import Completion, Request
from ray_si.self_instruct.parsing import parse_classification
from ray_si.self_instruct.prompts import LABELS, classification_prompt


def classify_block(table: pa.Table, *, app: str, config: RunConfig) -> pa.Table:
    """Add what the model says of each instruction. Runs in a Ray task.

    ``is_classification``; ``classification_answer``, the label or text it came from; and
    ``classification_margin``, log-probability of yes minus that of no where labels were scored.
    An answer that says neither, or an engine's error, counts as no, as in the original code.
    """
    style = config.generator.prompt_style
    labels = LABELS[style] if config.classification.method == "labels" else ()
    requests = []
    for row in table.to_pylist():
        prompt = classification_prompt(row["instruction"], style=style)
        params = config.generator.sampling.classification.params(prompt.stop)
        requests.append(Request(prompt.prompt, params, row["seed"], "classification", labels))
    completions = generate(app, requests)
    threshold = config.classification.threshold
    columns = {
        "is_classification": pa.array([_is_yes(c, threshold) for c in completions], pa.bool_()),
        "classification_answer": pa.array([c.error or c.text for c in completions], pa.string()),
        "classification_margin": pa.array([_margin(c) for c in completions], pa.float64()),
    }
    for name, values in columns.items():
        table = table.append_column(name, values)
    return table


def _is_yes(completion: Completion, threshold: float) -> bool:
    margin = _margin(completion)
    return bool(parse_classification(completion.text)) if margin is None else margin > threshold


def _margin(completion: Completion) -> float | None:
    scores = completion.label_logprobs
    return None if scores is None else scores[0] - scores[1]
