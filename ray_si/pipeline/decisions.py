"""What a round's completions come to: pure functions of the configuration, its rows and the gate.

A build calls them as a round is complete; `verify` and `regate` call them again on what is stored.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa

from ray_si.config import Bootstrap, RunConfig
from ray_si.dedup import DedupResult, Neighbours
from ray_si.dedup.layers import Parts
from ray_si.dedup.tokens import unread
from ray_si.engines.base import Completion
from ray_si.errors import RaySIError
from ray_si.pipeline.conditions import Conditions, conditions_of, rounds_of_openings
from ray_si.records import Instance
from ray_si.run.ids import instruction_id
from ray_si.run.manifests import RoundManifest, by_set, count_contaminated
from ray_si.run.schemas import (
    ACCEPTED,
    INSTANCE,
    REFUSED_EMBEDDINGS,
    REJECTED,
    CompletionRow,
    InstanceText,
    Neighbour,
    RawRow,
    embedding_column,
)
from ray_si.self_instruct.checks import failed_check
from ray_si.self_instruct.filters import echoes, instruction_quality_reason, instruction_reason
from ray_si.self_instruct.parsing import (
    Candidate,
    parse_instructions,
    parse_joint,
    parse_marked,
    parse_turn,
)

logger = logging.getLogger(__name__)

FAILURES = {"error": "engine_error", "refused": "refused"}
"""Finish reasons of requests that have no text -> reason code of their rejection."""


_CANDIDATE = pa.struct(
    [
        ("position", pa.int64()),
        ("text", pa.string()),
        ("reason", pa.string()),
        ("instance", INSTANCE),
    ]
)


class Usable(NamedTuple):
    """A candidate, one that the filters let pass usually, and the raw row that it came from."""

    row: RawRow
    candidate: Candidate

    @property
    def id(self) -> str:
        """The id it has where it is accepted."""
        return instruction_id(self.row["request_id"], self.candidate.position)


Decide = Callable[[Sequence[Usable]], DedupResult]
"""The gate, asked about a round's usable candidates in order."""


class RoundDecisions(NamedTuple):
    """Tables of `ACCEPTED` and `REJECTED`, and the manifest without the objects it will name.

    ``embeddings`` are the `REFUSED_EMBEDDINGS`; None where the gate had none.
    """

    accepted: pa.Table
    rejected: pa.Table
    manifest: RoundManifest
    embeddings: pa.Table | None


def completion_row(completion: Completion) -> CompletionRow:
    """What a block stores of a completion."""
    return {
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "error": completion.error,
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "mean_logprob": completion.mean_logprob,
    }


def texts_of(usable: Sequence[Usable]) -> list[str]:
    """The candidates' texts, in order."""
    return [candidate.text for _, candidate in usable]


def candidates_of(row: RawRow, config: RunConfig) -> list[Candidate]:
    """The candidates of one raw row, those that the filters refuse included.

    A text that reading trips over, which is a mistake in the code that reads, is logged and comes
    back as one candidate with reason "unreadable": the round goes on without it.
    """
    if row["finish_reason"] in FAILURES:
        return [Candidate(0, row["error"] or "", FAILURES[row["finish_reason"]])]
    conditions = conditions_of(config, row["request_id"])
    try:
        return _read(row, config, conditions)
    except (RaySIError, MemoryError):
        raise
    except Exception:  # it is that row's, and counted
        logger.warning("the answer to %s cannot be read", row["request_id"], exc_info=True)
        return [Candidate(0, row["text"], "unreadable")]


def _read(row: RawRow, config: RunConfig, conditions: Conditions) -> list[Candidate]:
    options = config.bootstrap
    how: dict[str, Any] = {
        "drop": options.drop_unfinished,
        "sentence_case": options.sentence_case,
        "headings": config.language.as_headings(),
        "tags": config.reasoning.tags,
    }
    chat, finish_reason = config.generator.prompt_style == "chat", row["finish_reason"]
    begun = conditions.opening
    if options.method == "evolve" and not chat:
        begun = f"{config.language.as_headings().instruction}:"
    text = begun + row["text"]
    if options.mode == "joint":
        items = parse_joint(text, finish_reason, chat=chat, **how)
    elif options.method == "template":
        sentence_case, tags = options.sentence_case, config.reasoning.tags
        items = parse_turn(text, finish_reason, sentence_case=sentence_case, tags=tags)
    elif options.method in ("plan", "evolve"):
        items = parse_marked(text, finish_reason, **how)
    else:
        items = parse_instructions(text, finish_reason, chat=chat, rules=config.rules, **how)
    labelled = row["classification_prompt"] and config.classification.method == "prompt"
    return [
        replace(
            item,
            reason=item.reason
            or _reason(item.text, config, labelled)
            or ("scaffolding" if echoes(item.text, conditions.rewrite) else None),
        )
        for item in items
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
        tokenizer=config.dedup.tokenizer,
    )
    if reason is None and options.quality_filters:
        reason = instruction_quality_reason(text, is_classification=is_classification)
    return reason or failed_check(options.checks, text)


def unread_note(config: RunConfig, texts: Sequence[str], what: str) -> str:
    """What to say where the "reference" tokenizer reads little of some texts; else ""."""
    count = unread(texts) if config.dedup.tokenizer == "reference" else 0
    return (
        f"the reference tokenizer, which knows a-z and 0-9, reads less than half of {count} of "
        f"{len(texts)} {what}: set dedup.tokenizer to auto"
        if count
        else ""
    )


def is_plateau(manifests: Sequence[RoundManifest], options: Bootstrap) -> bool:
    """Whether phase 1 gets no further.

    The last rounds accepted almost nothing, as ``stall_rounds`` has it, or every opening has been
    used as often as ``prompts_per_opening`` lets it.
    """
    if are_openings_used_up(manifests, options):
        return True
    last = manifests[-options.stall_rounds :]
    return len(last) == options.stall_rounds and all(
        manifest["accepted"] <= options.stall_acceptance * manifest["candidates"]
        for manifest in last
    )


def are_openings_used_up(manifests: Sequence[RoundManifest], options: Bootstrap) -> bool:
    """Whether no opening may be used once more."""
    rounds = rounds_of_openings(options)
    return rounds is not None and len(manifests) >= rounds


def with_candidates(config: RunConfig, raw: pa.Table) -> pa.Table:
    """A raw block and the candidates of each row, those that the filters refuse included."""
    rows = cast("list[RawRow]", raw.to_pylist())
    found = [[_as_row(item) for item in candidates_of(row, config)] for row in rows]
    return raw.append_column("candidates", pa.array(found, pa.list_(_CANDIDATE)))


def _as_row(item: Candidate) -> dict[str, Any]:
    """As `dataclasses.asdict` has it, fifteen times as fast: a round has a hundred thousand."""
    return {**vars(item), "instance": item.instance and vars(item.instance)}


def read_candidates(block: pa.Table) -> tuple[list[RawRow], list[Usable]]:
    """The rows of a block `with_candidates`, and what they hold, in order."""
    rows = cast("list[RawRow]", block.drop_columns("candidates").to_pylist())
    candidates = [
        Usable(row, _candidate(item))
        for row, found in zip(rows, block["candidates"].to_pylist(), strict=True)
        for item in found
    ]
    return rows, candidates


def _candidate(item: dict[str, Any]) -> Candidate:
    given = item["instance"]
    return Candidate(item["position"], item["text"], item["reason"], given and Instance(**given))


def passed(candidates: Sequence[Usable]) -> list[Usable]:
    """Those that the filters let pass, which the gate is asked about."""
    return [item for item in candidates if item.candidate.reason is None]


def all_candidates(config: RunConfig, rows: Sequence[RawRow]) -> list[Usable]:
    """The candidates of a round's rows, those that the filters refuse included."""
    return [Usable(row, item) for row in rows for item in candidates_of(row, config)]


def decide_round(
    config: RunConfig,
    round_: int,
    rows: Sequence[RawRow],
    room: int,
    decide: Decide,
    candidates: Sequence[Usable] | None = None,
    embeddings: np.ndarray | Parts | None = None,
) -> RoundDecisions:
    """What a round comes to, from its raw rows by request id.

    ``candidates`` are those of the rows, where they are known already. What the gate accepts beyond
    ``room`` is rejected as "target_reached". ``embeddings``, float16, shape (n, dimension), are
    those of the candidates that come to the gate, by which it decides.
    """
    if candidates is None:
        candidates = all_candidates(config, rows)
    usable = passed(candidates)
    result = decide(usable)
    kept = [usable[i] for i in result.accepted[:room]]
    # every candidate is rejected by a filter, by the gate, for want of room, or accepted
    left_out = [
        _Rejected(item, item.candidate.reason) for item in candidates if item.candidate.reason
    ]
    left_out += [
        _Rejected(usable[d.index], d.reason, d.match, d.score, d.source) for d in result.rejected
    ]
    left_out += [_Rejected(usable[i], "target_reached") for i in result.accepted[room:]]
    left_out.sort(key=lambda item: (item.usable.row["request_id"], item.usable.candidate.position))
    stored, refused = _accepted(config, round_, rows, kept, result), None
    if embeddings is not None:
        is_kept = np.zeros(len(usable), bool)
        is_kept[result.accepted[:room]] = True
        stored = _with_embeddings(stored, embeddings[is_kept])
        refused = _refused([usable[i] for i in np.flatnonzero(~is_kept)], embeddings[~is_kept])
    assert len(kept) + len(left_out) == len(candidates), "a round lost candidates"
    manifest: RoundManifest = {
        "round": round_,
        "requests": len(rows),
        "prompt_tokens": sum(row["prompt_tokens"] for row in rows),
        "completion_tokens": sum(row["completion_tokens"] for row in rows),
        "candidates": len(candidates),
        "accepted": len(kept),
        "rejected": dict(sorted(Counter(str(item.reason) for item in left_out).items())),
        "contaminated": by_set(
            count_contaminated(
                ({"source": item.source, "reason": item.reason} for item in left_out),
                "instructions",
            )
        ),
    }
    return RoundDecisions(stored, _rejected(left_out), manifest, refused)


def _with_embeddings(accepted: pa.Table, embeddings: np.ndarray) -> pa.Table:
    place = ACCEPTED.get_field_index("embedding")
    return accepted.set_column(place, ACCEPTED.field(place), embedding_column(embeddings))


def _refused(candidates: Sequence[Usable], embeddings: np.ndarray) -> pa.Table:
    columns = [
        [item.row["request_id"] for item in candidates],
        [item.candidate.position for item in candidates],
        embedding_column(embeddings),
    ]
    return pa.table(columns, schema=REFUSED_EMBEDDINGS)


def _accepted(
    config: RunConfig,
    round_: int,
    rows: Sequence[RawRow],
    kept: Sequence[Usable],
    result: DedupResult,
) -> pa.Table:
    """The rows of what is accepted, by columns: a round may have a hundred thousand."""
    count, generator, none = len(kept), config.generator, [None] * len(kept)
    places = {row["request_id"]: place for place, row in enumerate(rows)}
    requests = pa.array([places[item.row["request_id"]] for item in kept], pa.int64())

    def of_request(values: list[Any], name: str) -> pa.Array:
        return pa.array(values, ACCEPTED.field(name).type).take(requests)

    near = result.neighbours[:count] if result.neighbours else None
    columns = {
        "id": [item.id for item in kept],
        "instruction": texts_of(kept),
        "round": [round_] * count,
        "request_id": [item.row["request_id"] for item in kept],
        "position": [item.candidate.position for item in kept],
        "request_seed": of_request([row["seed"] for row in rows], "request_seed"),
        "classification_prompt": of_request(
            [row["classification_prompt"] for row in rows], "classification_prompt"
        ),
        "demonstrations": of_request([row["demonstrations"] for row in rows], "demonstrations"),
        "model": [generator.model or generator.engine] * count,
        "revision": [generator.revision] * count,
        "mean_logprob": of_request([row["mean_logprob"] for row in rows], "mean_logprob"),
        "most_similar": none if near is None else [_similar(found) for found in near],
        "mean_rouge": none if near is None else [found.mean for found in near],
        "cosine": none if result.cosines is None else result.cosines[:count],
        "embedding": none,
        "instance": [instance_text(item.candidate) for item in kept],
    }
    return pa.table(columns, schema=ACCEPTED)


def _similar(near: Neighbours) -> list[Neighbour]:
    return [
        {"instruction": text, "rouge": score}
        for text, score in zip(near.texts, near.scores, strict=True)
    ]


def instance_text(candidate: Candidate) -> InstanceText | None:
    """What came with a candidate, as its row has it."""
    return cast(InstanceText, asdict(candidate.instance)) if candidate.instance else None


class _Rejected(NamedTuple):
    usable: Usable
    reason: str | None
    match: str | None = None
    score: float | None = None
    source: str | None = None


def _rejected(items: Sequence[_Rejected]) -> pa.Table:
    columns = {
        "request_id": [item.usable.row["request_id"] for item in items],
        "position": [item.usable.candidate.position for item in items],
        "text": [item.usable.candidate.text for item in items],
        "reason": [item.reason for item in items],
        "match": [item.match for item in items],
        "score": [item.score for item in items],
        "source": [item.source for item in items],
    }
    return pa.table(columns, schema=REJECTED)
