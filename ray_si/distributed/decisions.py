"""What answers come to: pure functions of the configuration, the stored answers, and the gate.

A build calls them as answers arrive; `verify` and `regate` call them again on what is stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from ray_si.config import Bootstrap, RunConfig
from ray_si.dedup import DedupResult
from ray_si.self_instruct.filters import (
    filter_instances,
    instruction_quality_reason,
    instruction_reason,
)
from ray_si.self_instruct.parsing import Candidate, parse_instances, parse_instructions
from ray_si.storage.export import MOST_SIMILAR
from ray_si.storage.run import Manifest

COMPLETION_COLUMNS = [
    ("text", pa.string()),
    ("finish_reason", pa.string()),
    ("error", pa.string()),
    ("prompt_tokens", pa.int64()),
    ("completion_tokens", pa.int64()),
    ("mean_logprob", pa.float64()),
]
"""What a raw block keeps of a `Completion`."""

FAILURES = {"error": "engine_error", "refused": "refused"}
"""Finish reasons of requests that have no text -> reason code of their rejection."""

COMPLETION_NULLABLE = {"error", "mean_logprob"}
"""Those of them that may be null."""

RAW = pa.schema(
    [
        ("block", pa.int64()),
        ("request_id", pa.string()),
        ("seed", pa.int64()),
        ("classification_prompt", pa.bool_()),
        ("demonstrations", pa.list_(pa.string())),
        *COMPLETION_COLUMNS,
    ]
)
"""A raw block: requests of a round and their completions."""

ACCEPTED = pa.schema(
    [
        ("id", pa.string()),
        ("instruction", pa.string()),
        ("round", pa.int64()),
        ("request_id", pa.string()),
        ("position", pa.int64()),
        ("request_seed", pa.int64()),
        ("classification_prompt", pa.bool_()),
        ("demonstrations", pa.list_(pa.string())),
        ("model", pa.string()),
        ("revision", pa.string()),
        ("mean_logprob", pa.float64()),
        ("most_similar", MOST_SIMILAR),
        ("mean_rouge", pa.float64()),
        ("cosine", pa.float64()),
        ("embedding", pa.list_(pa.float32())),
    ]
)
"""An accepted instruction: where it came from, and how near earlier ones are.

``cosine`` is the highest with any earlier one; ``most_similar`` and ``mean_rouge``, its mean
ROUGE-L F with the whole pool, are null unless ``dedup.most_similar`` asks for them.
"""

REJECTED = pa.schema(
    [
        ("request_id", pa.string()),
        ("position", pa.int64()),
        ("text", pa.string()),
        ("reason", pa.string()),
        ("match", pa.string()),
        ("score", pa.float64()),
    ]
)
"""A candidate that was left out, and why."""

_TEXTS = [("input", pa.string()), ("output", pa.string())]
KEPT = pa.list_(pa.struct(_TEXTS))
LEFT_OUT = pa.list_(pa.struct([*_TEXTS, ("reason", pa.string())]))

WRITTEN = pa.schema(
    [
        ("block", pa.int64()),
        ("id", pa.string()),
        ("instruction", pa.string()),
        ("seed", pa.int64()),
        ("is_classification", pa.bool_()),
        ("classification_answer", pa.string()),
        ("classification_margin", pa.float64()),
        ("classification_prompt_tokens", pa.int64()),
        ("classification_completion_tokens", pa.int64()),
        *COMPLETION_COLUMNS,
        ("instances", KEPT),
        ("rejected", LEFT_OUT),
    ]
)
"""An instance block: instructions, what the model said of them, and what is kept of that."""

Usable = Sequence[tuple[dict[str, Any], Candidate]]
"""Candidates that the filters let pass, each with the raw row it came from, in order."""

Decide = Callable[[Usable], DedupResult]
"""The gate, asked about a round's usable candidates."""


def embeddings_of(accepted: pa.Table) -> np.ndarray | None:
    """The ``embedding`` column, float32, shape (n, dimension).

    None where there are no rows, one has none, or they are no finite vectors of one width.
    """
    column = accepted["embedding"].combine_chunks()
    if not len(column) or column.null_count:
        return None
    numbers: np.ndarray = column.flatten().to_numpy(zero_copy_only=False)
    lengths = set(column.value_lengths().to_pylist())
    if len(lengths) != 1 or not numbers.size or not np.isfinite(numbers).all():
        return None
    return numbers.reshape(len(column), numbers.size // len(column))


def texts_of(usable: Usable) -> list[str]:
    """The candidates' texts, in order."""
    return [item.text for _, item in usable]


def instruction_id(request_id: str, position: int) -> str:
    """The id of the candidate at a position of a request's completion."""
    return f"{request_id}-{position:02d}"


def candidates_of(row: dict[str, Any], options: Bootstrap) -> list[Candidate]:
    """The candidates of one raw row, those that the filters refuse included."""
    if row["finish_reason"] in FAILURES:
        return [Candidate(0, row["error"] or "", FAILURES[row["finish_reason"]])]
    items = parse_instructions(
        row["text"],
        row["finish_reason"],
        drop=options.drop_unfinished,
        sentence_case=options.sentence_case,
    )
    return [Candidate(i.position, i.text, i.reason or _reason(i.text, options)) for i in items]


def _reason(text: str, options: Bootstrap) -> str | None:
    reason = instruction_reason(
        text,
        min_words=options.min_words,
        max_words=options.max_words,
        ascii_start=options.ascii_start,
    )
    if reason is None and options.quality_filters:
        reason = instruction_quality_reason(text)
    return reason


def decide_round(
    config: RunConfig, round_: int, rows: list[dict[str, Any]], room: int, decide: Decide
) -> tuple[pa.Table, pa.Table, Manifest]:
    """A round's `ACCEPTED` and `REJECTED` rows and its manifest, from its raw rows by request id.

    What the gate accepts beyond ``room`` is rejected as "target_reached".
    """
    options = config.bootstrap
    candidates = [(row, item) for row in rows for item in candidates_of(row, options)]
    usable = [(row, item) for row, item in candidates if item.reason is None]
    result = decide(usable)
    rejected = [_rejection(row, item, item.reason) for row, item in candidates if item.reason]
    rejected += [_rejection(*usable[d.index], d.reason, d.match, d.score) for d in result.rejected]
    rejected += [_rejection(*usable[i], "target_reached") for i in result.accepted[room:]]
    rejected.sort(key=lambda row: (row["request_id"], row["position"]))
    accepted = _accepted_table(config, round_, usable, result, room)
    assert accepted.num_rows + len(rejected) == len(candidates), "a round lost candidates"
    reasons = Counter(row["reason"] for row in rejected)
    manifest = {
        "round": round_,
        "requests": len(rows),
        "prompt_tokens": sum(row["prompt_tokens"] for row in rows),
        "completion_tokens": sum(row["completion_tokens"] for row in rows),
        "candidates": len(candidates),
        "accepted": accepted.num_rows,
        "rejected": dict(sorted(reasons.items())),
    }
    return accepted, pa.Table.from_pylist(rejected, REJECTED), manifest


def _accepted_table(
    config: RunConfig, round_: int, usable: Usable, result: DedupResult, room: int
) -> pa.Table:
    generator = config.generator
    accepted = []
    for k, i in enumerate(result.accepted[:room]):
        row, item = usable[i]
        near = result.neighbours[k] if result.neighbours else None
        cosine = None if result.cosines is None else float(result.cosines[k])
        accepted.append(
            {
                "id": instruction_id(row["request_id"], item.position),
                "instruction": item.text,
                "round": round_,
                "request_id": row["request_id"],
                "position": item.position,
                "request_seed": row["seed"],
                "classification_prompt": row["classification_prompt"],
                "demonstrations": row["demonstrations"],
                "model": generator.model or generator.engine,
                "revision": generator.revision,
                "mean_logprob": row["mean_logprob"],
                "most_similar": near
                and [
                    {"instruction": text, "rouge": score}
                    for text, score in zip(near.texts, near.scores, strict=True)
                ],
                "mean_rouge": near and near.mean,
                "cosine": cosine,
                "embedding": None if result.embeddings is None else result.embeddings[k],
            }
        )
    return pa.Table.from_pylist(accepted, ACCEPTED)


def _rejection(
    row: dict[str, Any],
    item: Candidate,
    reason: str | None,
    match: str | None = None,
    score: float | None = None,
) -> dict[str, Any]:
    return {
        "request_id": row["request_id"],
        "position": item.position,
        "text": item.text,
        "reason": reason,
        "match": match,
        "score": score,
    }


NOT_ASKED = "not_asked"
"""Finish reason of an instruction that `regate` accepted and no model has written instances for."""


def instances_of(
    config: RunConfig, instruction: str, is_classification: bool, text: str, finish_reason: str
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The instances that one completion gives its instruction: kept, and rejected with reasons."""
    if finish_reason == NOT_ASKED:
        return [], [{"input": "", "output": "", "reason": NOT_ASKED}]
    instances = parse_instances(text, finish_reason, output_first=is_classification)
    filtered = filter_instances(
        instruction,
        instances,
        limit=config.instances.max_per_instruction,
        quality=config.instances.quality_filters,
        is_classification=is_classification,
    )
    rejected = [asdict(instance) | {"reason": reason} for instance, reason in filtered.rejected]
    if not instances:
        reason = FAILURES.get(finish_reason, "no_instance")
        rejected.append({"input": "", "output": text, "reason": reason})
    return [asdict(instance) for instance in filtered.kept], rejected
