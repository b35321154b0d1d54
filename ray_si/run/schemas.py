"""The tables of a run: the one home of their Arrow schemas, and of what a row of each is in Python.

A row is what ``table.to_pylist()`` gives of a table with its schema, and what
``pa.Table.from_pylist(rows, schema)`` takes. Whoever reads fewer columns than there are takes them
from here, by `select`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypedDict

import numpy as np
import pyarrow as pa

NULLABLE = frozenset(
    {
        "error", "mean_logprob", "revision", "most_similar", "mean_rouge", "cosine", "embedding",
        "instance", "match", "score", "source", "classification_answer", "classification_margin",
        "rejected_for", "output_logprob",
    }
)  # fmt: skip
"""Columns that may hold nulls, in whichever table they stand; every other is whole."""

# Parts of rows -------------------------------------------------------------------------------

COMPLETION = pa.schema(
    [
        ("text", pa.string()),
        ("finish_reason", pa.string()),
        ("error", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("mean_logprob", pa.float64()),
    ]
)
"""What is stored of a `Completion`."""


class CompletionRow(TypedDict):
    """A completion; ``text`` is empty and ``error`` says why where an engine gave none."""

    text: str
    finish_reason: str
    error: str | None
    prompt_tokens: int
    completion_tokens: int
    mean_logprob: float | None


_MATCH = [("match", pa.string()), ("score", pa.float64()), ("source", pa.string())]

INSTANCE = pa.struct([("input", pa.string()), ("output", pa.string())])

EMBEDDING = pa.list_(pa.float16())
"""An embedding, in the precision in which the gate compares it; runs begun earlier have 32 bits."""


class InstanceText(TypedDict):
    """An instance that passed the filters."""

    input: str
    output: str


REJECTED_INSTANCE = pa.struct([*INSTANCE, ("reason", pa.string()), *_MATCH])


class RejectedInstance(InstanceText):
    """An instance that did not, and why; match, score and source are as in `RejectedRow`."""

    reason: str
    match: str | None
    score: float | None
    source: str | None


ASKED_INPUT = pa.struct([("input", pa.string()), ("rejected_for", pa.string()), *COMPLETION])


class AskedInput(CompletionRow):
    """A completion that was asked for an input, and what it comes to.

    ``rejected_for`` is the reason why it is none that answers were asked for, else None; ``input``
    is "" where the model says that the instruction needs none.
    """

    input: str
    rejected_for: str | None


ANSWER = pa.struct(
    [
        ("place", pa.int64()),
        ("answer", pa.int64()),
        ("input", pa.string()),
        ("output", pa.string()),
        ("rejected_for", pa.string()),
        ("is_chosen", pa.bool_()),
        *COMPLETION,
    ]
)


class AnswerRow(CompletionRow):
    """A completion that was asked for an output, and what it comes to.

    ``place`` is that of its input among those of the instruction, ``answer`` its number among the
    answers to that input. ``rejected_for`` is None where it passes the filters; of those, one to an
    input ``is_chosen``, and is an instance. ``mean_logprob`` is of the output's tokens, whatever
    ends the text included.
    """

    place: int
    answer: int
    input: str
    output: str
    rejected_for: str | None
    is_chosen: bool


NEIGHBOUR = pa.struct([("instruction", pa.string()), ("rouge", pa.float64())])


class Neighbour(TypedDict):
    """An earlier instruction, and its ROUGE-L F with this one."""

    instruction: str
    rouge: float


# What a run begins with ----------------------------------------------------------------------

SEEDS = pa.schema(
    [
        ("id", pa.string()),
        ("name", pa.string()),
        ("instruction", pa.string()),
        ("instances", pa.list_(INSTANCE)),
        ("is_classification", pa.bool_()),
    ]
)


class SeedRow(TypedDict):
    """A seed task."""

    id: str
    name: str
    instruction: str
    instances: list[InstanceText]
    is_classification: bool


EVALUATION_TEXTS = pa.schema([("set", pa.string()), ("text", pa.string())])


class EvaluationTextRow(TypedDict):
    """A text of an evaluation set, after the set's name."""

    set: str
    text: str


# The bootstrap -------------------------------------------------------------------------------

RAW_BLOCK = pa.schema(
    [
        ("block", pa.int64()),
        ("request_id", pa.string()),
        ("seed", pa.int64()),
        ("classification_prompt", pa.bool_()),
        ("demonstrations", pa.list_(pa.string())),
        *COMPLETION,
    ]
)


class RawRow(CompletionRow):
    """A request of a round and its completion; ``demonstrations`` are ids of tasks."""

    block: int
    request_id: str
    seed: int
    classification_prompt: bool
    demonstrations: list[str]


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
        ("most_similar", pa.list_(NEIGHBOUR)),
        ("mean_rouge", pa.float64()),
        ("cosine", pa.float64()),
        ("embedding", EMBEDDING),
        ("instance", INSTANCE),
    ]
)


class AcceptedRow(TypedDict):
    """An accepted instruction: where it came from, and how near earlier ones are.

    ``instance`` is what came with it in its completion (joint mode), else None. ``cosine`` is the
    highest with any earlier one; ``most_similar`` and ``mean_rouge``, its mean ROUGE-L F with the
    whole pool, are None unless ``dedup.most_similar`` asks for them.
    """

    id: str
    instruction: str
    round: int
    request_id: str
    position: int
    request_seed: int
    classification_prompt: bool
    demonstrations: list[str]
    model: str
    revision: str | None
    mean_logprob: float | None
    most_similar: list[Neighbour] | None
    mean_rouge: float | None
    cosine: float | None
    embedding: Sequence[float] | None
    instance: InstanceText | None


REJECTED = pa.schema(
    [
        ("request_id", pa.string()),
        ("position", pa.int64()),
        ("text", pa.string()),
        ("reason", pa.string()),
        *_MATCH,
    ]
)


class RejectedRow(TypedDict):
    """A candidate that was left out, and why.

    ``match`` is the text it is too close to, by ``score``, and ``source`` the evaluation set that
    the match is of, where it is of one.
    """

    request_id: str
    position: int
    text: str
    reason: str
    match: str | None
    score: float | None
    source: str | None


REFUSED_EMBEDDINGS = pa.schema(
    [("request_id", pa.string()), ("position", pa.int64()), ("embedding", EMBEDDING)]
)
"""Of the candidates that came to a round's gate and were not accepted, in order."""

INPUT_EMBEDDINGS = pa.schema([("text", pa.string()), ("embedding", EMBEDDING)])
"""Of the seed tasks, then of the texts of the evaluation sets, in order."""


# Instances and training rows -----------------------------------------------------------------

INSTANCE_BLOCK = pa.schema(
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
        *COMPLETION,
        ("instances", pa.list_(INSTANCE)),
        ("rejected", pa.list_(REJECTED_INSTANCE)),
    ]
)


INSTANCE_BLOCK_IN_STEPS = pa.schema(
    [
        *INSTANCE_BLOCK,
        ("inputs", pa.list_(ASKED_INPUT)),
        ("answers", pa.list_(ANSWER)),
    ]
)
"""That of runs whose ``instances.method`` is "steps"."""


class _StepsExtras(TypedDict, total=False):
    inputs: list[AskedInput]
    answers: list[AnswerRow]


class InstanceRow(CompletionRow, _StepsExtras):
    """An instruction, what the model said of it, and what is kept of that.

    In steps, its own text is empty, its tokens are those of all ``inputs`` and ``answers``, and its
    finish reason is "steps", or "error" where one of them failed.
    ``classification_answer`` is the label or text that phase 2 came to, None where it was not
    asked; ``classification_margin`` the log-probability of yes minus that of no, where scored.
    """

    block: int
    id: str
    instruction: str
    seed: int
    is_classification: bool
    classification_answer: str | None
    classification_margin: float | None
    classification_prompt_tokens: int
    classification_completion_tokens: int
    instances: list[InstanceText]
    rejected: list[RejectedInstance]


TRAINING_ROWS = pa.schema(
    [
        ("id", pa.string()),
        ("instruction", pa.string()),
        ("input", pa.string()),
        ("output", pa.string()),
        ("is_classification", pa.bool_()),
        ("instruction_id", pa.string()),
        ("round", pa.int64()),
        ("demonstrations", pa.list_(pa.string())),
        ("model", pa.string()),
        ("revision", pa.string()),
        ("request_seed", pa.int64()),
        ("instance_seed", pa.int64()),
        ("most_similar", pa.list_(NEIGHBOUR)),
        ("mean_rouge", pa.float64()),
        ("cosine", pa.float64()),
    ]
)


ANSWERED = [pa.field("answer", pa.int64()), pa.field("output_logprob", pa.float64())]
"""Further columns of training rows where ``instances.method`` is "steps"."""

REASONING = pa.field("reasoning", pa.string())
"""A further column of training rows where ``reasoning.keep`` asks for it."""


class _TrainingExtras(TypedDict, total=False):
    reasoning: str | None
    answer: int
    output_logprob: float | None


class TrainingRow(_TrainingExtras):
    """An instance with its instruction, and where both came from; see `AcceptedRow`.

    ``reasoning`` is what the model thought before it wrote the instance; None where it did not, or
    where the instance came with its instruction. ``answer`` is the number of the answer that was
    chosen, and ``output_logprob`` the mean log-probability of its tokens under the generator.
    """

    id: str
    instruction: str
    input: str
    output: str
    is_classification: bool
    instruction_id: str
    round: int
    demonstrations: list[str]
    model: str
    revision: str | None
    request_seed: int
    instance_seed: int
    most_similar: list[Neighbour] | None
    mean_rouge: float | None
    cosine: float | None


_MOST_NUMBERS = (1 << 31) - 1
"""Numbers in lists that lie together: Arrow counts them with 32 bits."""


def select(schema: pa.Schema, names: Iterable[str]) -> pa.Schema:
    """Some columns of a schema, in the order of ``names``."""
    return pa.schema([schema.field(name) for name in names])


def embeddings_of(table: pa.Table) -> np.ndarray | None:
    """The ``embedding`` column, float32, shape (n, dimension).

    None where there are no rows, one has none, or they are no finite vectors of one width.
    """
    column = table["embedding"]
    if not len(column) or column.null_count:
        return None
    parts = [_vectors(chunk) for chunk in column.chunks if len(chunk)]
    found = [part for part in parts if part is not None]
    if len(found) < len(parts) or len({part.shape[1] for part in found}) != 1:
        return None
    return np.concatenate(found)


def _vectors(lists: pa.ListArray) -> np.ndarray | None:
    numbers: np.ndarray = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    lengths = set(lists.value_lengths().to_pylist())
    if len(lengths) != 1 or not numbers.size or not np.isfinite(numbers).all():
        return None
    return numbers.reshape(len(lists), numbers.size // len(lists))


def embedding_column(embeddings: np.ndarray) -> pa.ChunkedArray:
    """The inverse of `embeddings_of`, of numbers of 16 bits, shape (n, dimension)."""
    count, dimension = embeddings.shape
    rows = _MOST_NUMBERS // max(1, dimension)
    parts = (embeddings[start : start + rows] for start in range(0, max(1, count), rows))
    return pa.chunked_array(
        pa.ListArray.from_arrays(
            np.arange(len(part) + 1, dtype=np.int32) * dimension, pa.array(np.ravel(part))
        )
        for part in parts
    )
