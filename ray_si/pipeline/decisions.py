"""What answers come to: pure functions of the configuration, the stored answers, and the gate.

A build calls them as answers arrive; `verify` and `regate` call them again on what is stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ray_si.config import Bootstrap, RunConfig
from ray_si.dedup import CONTAMINATED, DedupResult, Duplicate, ExcludedTexts
from ray_si.engines.base import Completion
from ray_si.export.rows import MOST_SIMILAR
from ray_si.records import Instance
from ray_si.run.evaluation import texts_of_instance
from ray_si.run.run import Manifest
from ray_si.self_instruct.filters import (
    filter_instances,
    instruction_quality_reason,
    instruction_reason,
)
from ray_si.self_instruct.parsing import (
    Candidate,
    parse_classification,
    parse_instances,
    parse_instructions,
    parse_joint,
)

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

_TEXTS = [("input", pa.string()), ("output", pa.string())]
INSTANCE = pa.struct(_TEXTS)
KEPT_INSTANCES = pa.list_(INSTANCE)
_WHY = [("match", pa.string()), ("score", pa.float64()), ("source", pa.string())]
REJECTED_INSTANCES = pa.list_(pa.struct([*_TEXTS, ("reason", pa.string()), *_WHY]))

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
        ("instance", INSTANCE),
    ]
)
"""An accepted instruction: where it came from, and how near earlier ones are.

``instance`` is what came with it in its completion (joint mode), else null.
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
        ("source", pa.string()),
    ]
)
"""A candidate that was left out, and why; ``source`` is the evaluation set that the match is of."""

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
        ("instances", KEPT_INSTANCES),
        ("rejected", REJECTED_INSTANCES),
    ]
)
"""An instance block: instructions, what the model said of them, and what is kept of that."""

Usable = Sequence[tuple[dict[str, Any], Candidate]]
"""Candidates that the filters let pass, each with the raw row it came from, in order."""

Decide = Callable[[Usable], DedupResult]
"""The gate, asked about a round's usable candidates."""


def add_completions(table: pa.Table, completions: list[Completion]) -> pa.Table:
    """The table with the completions' columns appended; rows correspond."""
    for name, kind in COMPLETION_COLUMNS:
        values = [getattr(completion, name) for completion in completions]
        table = table.append_column(name, pa.array(values, kind))
    return table


class AcceptedInstruction(NamedTuple):
    """An accepted instruction, as far as the phases after the gate go by it."""

    id: str
    instruction: str
    classification_prompt: bool
    given: Instance | None

    @classmethod
    def of(cls, row: dict[str, Any]) -> AcceptedInstruction:
        """From a row of `ACCEPTED`."""
        given = row["instance"] and Instance(**row["instance"])
        return cls(row["id"], row["instruction"], row["classification_prompt"], given)


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


def candidates_of(row: dict[str, Any], config: RunConfig) -> list[Candidate]:
    """The candidates of one raw row, those that the filters refuse included."""
    if row["finish_reason"] in FAILURES:
        return [Candidate(0, row["error"] or "", FAILURES[row["finish_reason"]])]
    options = config.bootstrap
    how: dict[str, Any] = {
        "drop": options.drop_unfinished,
        "sentence_case": options.sentence_case,
        "chat": config.generator.prompt_style == "chat",
    }
    if options.mode == "joint":
        headings = config.language.as_headings()
        items = parse_joint(row["text"], row["finish_reason"], headings=headings, **how)
    else:
        items = parse_instructions(row["text"], row["finish_reason"], **how)
    labelled = row["classification_prompt"] and config.classification.method == "prompt"
    return [
        replace(item, reason=item.reason or _reason(item.text, config, labelled)) for item in items
    ]


def _reason(text: str, config: RunConfig, is_classification: bool) -> str | None:
    options, language = config.bootstrap, config.language
    reason = instruction_reason(
        text,
        min_words=options.min_words,
        max_words=options.max_words,
        keywords=language.keywords,
        program_openings=language.program_openings,
        ascii_start=options.ascii_start,
        unspaced=config.dedup.tokenizer == "unicode",
    )
    if reason is None and options.quality_filters:
        reason = instruction_quality_reason(text, is_classification=is_classification)
    return reason


def is_plateau(manifests: Sequence[Manifest], options: Bootstrap) -> bool:
    """Whether the last rounds accepted almost nothing, as ``stall_rounds`` has it."""
    last = manifests[-options.stall_rounds :]
    return len(last) == options.stall_rounds and all(
        manifest["accepted"] <= options.stall_acceptance * manifest["candidates"]
        for manifest in last
    )


def decide_round(
    config: RunConfig, round_: int, rows: list[dict[str, Any]], room: int, decide: Decide
) -> tuple[pa.Table, pa.Table, Manifest]:
    """A round's `ACCEPTED` and `REJECTED` rows and its manifest, from its raw rows by request id.

    What the gate accepts beyond ``room`` is rejected as "target_reached".
    """
    candidates = [(row, item) for row in rows for item in candidates_of(row, config)]
    usable = [(row, item) for row, item in candidates if item.reason is None]
    result = decide(usable)
    rejected = [_rejection(row, item, item.reason) for row, item in candidates if item.reason]
    rejected += [
        _rejection(*usable[d.index], d.reason, d.match, d.score, d.source) for d in result.rejected
    ]
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
        "contaminated": contaminated_by(rejected),
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
                "instance": item.instance and asdict(item.instance),
            }
        )
    return pa.Table.from_pylist(accepted, ACCEPTED)


def _rejection(
    row: dict[str, Any],
    item: Candidate,
    reason: str | None,
    match: str | None = None,
    score: float | None = None,
    source: str | None = None,
) -> dict[str, Any]:
    return {
        "request_id": row["request_id"],
        "position": item.position,
        "text": item.text,
        "reason": reason,
        "match": match,
        "score": score,
        "source": source,
    }


def contaminated_by(rejected: Sequence[dict[str, Any]]) -> dict[str, int]:
    """How many of the rejected rows resemble something in which evaluation set."""
    counts = Counter(row["source"] for row in rejected if row["reason"] == CONTAMINATED)
    return dict(sorted(counts.items(), key=str))


NOT_ASKED = "not_asked"
"""Finish reason of an instruction that `regate` accepted and no model has written instances for."""

GIVEN = "given"
"""Finish reason of an instruction whose instance came with it, so that none was asked for."""


def answered_yes(config: RunConfig, completion: Completion) -> tuple[bool, float | None]:
    """What phase 2's answer says, and log-probability of yes minus that of no, where scored.

    An answer that says neither, or an engine's error, counts as no, as in the original code.
    """
    scores = completion.label_logprobs
    if scores is None:
        return bool(parse_classification(completion.text, config.labels)), None
    margin = scores[0] - scores[1]
    return margin > config.classification.threshold, margin


def instances_of(
    config: RunConfig,
    instruction: str,
    is_classification: bool,
    text: str,
    finish_reason: str,
    given: Instance | None = None,
    excluded: ExcludedTexts | None = None,
) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    """The instances that one completion gives its instruction: kept, and rejected with reasons.

    ``given`` came with the instruction, and is all there is where the finish reason is `GIVEN`.
    What resembles an ``excluded`` text, by ROUGE-L, is left out before the filters see it.
    """
    if finish_reason == NOT_ASKED:
        return [], [_rejected_instance("", "", NOT_ASKED)]
    if finish_reason == GIVEN:
        parsed = [given] if given else []
    else:
        headings = config.language.as_headings()
        parsed = parse_instances(
            text, finish_reason, output_first=is_classification, headings=headings
        )
    instances, rejected = _uncontaminated(instruction, parsed, excluded)
    filtered = filter_instances(
        instruction,
        instances,
        limit=config.instances.max_per_instruction,
        quality=config.instances.quality_filters,
        is_classification=is_classification,
    )
    rejected += [
        _rejected_instance(one.input, one.output, reason) for one, reason in filtered.rejected
    ]
    if not parsed:
        reason = FAILURES.get(finish_reason, "no_instance")
        rejected.append(_rejected_instance("", text, reason))
    return [asdict(instance) for instance in filtered.kept], rejected


def _uncontaminated(
    instruction: str, parsed: list[Instance], excluded: ExcludedTexts | None
) -> tuple[list[Instance], list[dict[str, Any]]]:
    """The instances that resemble no excluded text, and `REJECTED_INSTANCES` for the others."""
    if excluded is None:
        return parsed, []
    texts = [texts_of_instance(instruction, instance.input) for instance in parsed]
    owner = [i for i, part in enumerate(texts) for _ in part]
    nearest: dict[int, Duplicate] = {}
    for match in excluded.find([text for part in texts for text in part]):
        i = owner[match.index]
        if i not in nearest or match.score > nearest[i].score:
            nearest[i] = match
    rejected = [
        _rejected_instance(parsed[i].input, parsed[i].output, m.reason, m.match, m.score, m.source)
        for i, m in nearest.items()
    ]
    return [instance for i, instance in enumerate(parsed) if i not in nearest], rejected


def _rejected_instance(
    input_: str,
    output: str,
    reason: str,
    match: str | None = None,
    score: float | None = None,
    source: str | None = None,
) -> dict[str, Any]:
    row = {"input": input_, "output": output, "reason": reason}
    return row | {"match": match, "score": score, "source": source}
