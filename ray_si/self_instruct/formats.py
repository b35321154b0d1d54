"""Instances -> training rows, in the layouts that fine-tuning libraries read."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ray_si.records import Instance

Format = Literal[
    "alpaca", "messages", "conversations", "prompt-completion", "prompt-completion-varied"
]
FORMATS: tuple[Format, ...] = get_args(Format)

Columns = Mapping[str, Sequence[Any]]
"""Values of consecutive instances by column: instruction, input, output, and what a map names."""

Row = dict[str, Any]

PROMPT = "prompt"
"""A field that a map may name besides the columns: the instruction, with the input below it."""

ENCODINGS = 16
"""Ways in which ``prompt-completion-varied`` writes an instance."""


@dataclass(frozen=True)
class Layout:
    """How a training row looks.

    ``columns`` are those that ``rows`` needs; it gives a row for each instance, in order, and takes
    a number for each besides, on which the row may depend.
    """

    name: str
    columns: tuple[str, ...]
    rows: Callable[[Columns, Sequence[int]], Iterator[Row]]


def layout(format_: Format) -> Layout:
    """The layout of that name.

    alpaca: ``instruction, input, output``. messages: ``messages``, a user and an assistant turn
    (OpenAI). conversations: ``conversations``, a human and a gpt turn (ShareGPT).
    prompt-completion: ``prompt, completion``. In the last three the input follows the instruction
    after a blank line.
    prompt-completion-varied: the same two fields, in one of `ENCODINGS` for each row, as the paper
    encodes them: "Task:", "Input:" and "Output:" there or not, one line break or two. A completion
    follows its prompt without anything between.
    """
    return Layout(format_, ("instruction", "input", "output"), _ROWS[format_])


def mapped(pairs: Sequence[str], known: Sequence[str]) -> Layout:
    """A layout of the fields that ``pairs`` of the form ``name=field`` ask for, in that order.

    A field is a column in ``known`` or `PROMPT`. Raises ValueError for what cannot be meant.
    """
    fields: dict[str, str] = {}
    for pair in pairs:
        name, equals, field = pair.partition("=")
        if not equals or not name or not field:
            raise ValueError(f"--map {pair}: write name=field, as in question=instruction")
        if name in fields:
            raise ValueError(f"--map {pair}: {name} is mapped already")
        if field not in (*known, PROMPT):
            near = difflib.get_close_matches(field, [*known, PROMPT], n=1, cutoff=0.6)
            hint = (
                f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}, {PROMPT}"
            )
            raise ValueError(f"--map {pair}: there is no field {field} ({hint})")
        fields[name] = field
    if not fields:
        raise ValueError("a map needs at least one name=field")
    needed = dict.fromkeys(field for field in fields.values() if field != PROMPT)
    if PROMPT in fields.values():
        needed |= dict.fromkeys(("instruction", "input"))

    def rows(columns: Columns, numbers: Sequence[int]) -> Iterator[Row]:
        values = dict(columns)
        if PROMPT in fields.values():
            values[PROMPT] = _prompts(columns)
        for row in zip(*(values[field] for field in fields.values()), strict=True):
            yield dict(zip(fields, row, strict=True))

    return Layout("mapped", tuple(needed), rows)


def to_row(instruction: str, instance: Instance, format_: Format, number: int = 0) -> Row:
    """One training row; see `layout`."""
    columns = {"instruction": [instruction], "input": [instance.input], "output": [instance.output]}
    return next(layout(format_).rows(columns, [number]))


def _prompts(columns: Columns) -> list[str]:
    return [
        f"{instruction}\n\n{input_}" if input_ else instruction
        for instruction, input_ in zip(columns["instruction"], columns["input"], strict=True)
    ]


def _alpaca(columns: Columns, numbers: Sequence[int]) -> Iterator[Row]:
    triples = zip(columns["instruction"], columns["input"], columns["output"], strict=True)
    for instruction, input_, output in triples:
        yield {"instruction": instruction, "input": input_, "output": output}


def _messages(columns: Columns, numbers: Sequence[int]) -> Iterator[Row]:
    for prompt, output in zip(_prompts(columns), columns["output"], strict=True):
        yield {
            "messages": [
                {"role": "user", "content": prompt},
                {"role": "assistant", "content": output},
            ]
        }


def _conversations(columns: Columns, numbers: Sequence[int]) -> Iterator[Row]:
    for prompt, output in zip(_prompts(columns), columns["output"], strict=True):
        human, gpt = {"from": "human", "value": prompt}, {"from": "gpt", "value": output}
        yield {"conversations": [human, gpt]}


def _prompt_completion(columns: Columns, numbers: Sequence[int]) -> Iterator[Row]:
    for prompt, output in zip(_prompts(columns), columns["output"], strict=True):
        yield {"prompt": prompt, "completion": output}


def _varied(columns: Columns, numbers: Sequence[int]) -> Iterator[Row]:
    instances = zip(
        columns["instruction"], columns["input"], columns["output"], numbers, strict=True
    )
    for instruction, input_, output, number in instances:
        prompt, lead = _encoded(instruction, input_, number % ENCODINGS)
        yield {"prompt": prompt, "completion": lead + output}


def _encoded(instruction: str, input_: str, encoding: int) -> tuple[str, str]:
    """A prompt, and what its completion begins with."""
    breaks = "\n\n" if encoding & 1 else "\n"
    parts = [f"Task: {instruction}" if encoding & 2 else instruction]
    if input_:
        parts.append(f"Input: {input_}" if encoding & 4 else input_)
    if encoding & 8:
        return breaks.join([*parts, "Output:"]), " "
    return breaks.join([*parts, ""]), ""


_ROWS: dict[Format, Callable[[Columns, Sequence[int]], Iterator[Row]]] = {
    "alpaca": _alpaca,
    "messages": _messages,
    "conversations": _conversations,
    "prompt-completion": _prompt_completion,
    "prompt-completion-varied": _varied,
}
