"""Instances -> training rows, in the layouts that fine-tuning libraries read."""

from __future__ import annotations

import difflib
import re
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

_WITH_INPUT = (
    ("", "\nInput: ", "\nOutput:"),
    ("", "\n\nInput: ", "\n\nOutput:"),
    ("Task: ", "\nInput: ", "\nOutput:"),
    ("", "\n\n", "\n\nOutput:"),
    ("", "\n\n", "\n\n"),
    ("", "\n", "\n\n"),
    ("Task: ", "\n\n", "\n\n"),
)
"""What the original code writes before the instruction, before the input, and after it."""

_WITHOUT_INPUT = (
    ("", " Output:"),
    ("", "\nOutput:"),
    ("", "\n\nOutput:"),
    ("", "\n"),
    ("", "\n\n"),
    ("Task: ", "\n\n"),
)
"""What it writes around an instruction that has no input."""

_COMBINATIONS = len(_WITH_INPUT) * len(_WITHOUT_INPUT)

ENCODINGS = 2 * _COMBINATIONS
"""Numbers that give ``prompt-completion-varied`` every way of writing an instance, each as often:
7 with an input and 6 without, the input rewritten by every second one."""

_FIELD_NAME = re.compile(r"(\w+):")


@dataclass(frozen=True)
class Layout:
    """How a training row looks.

    ``columns`` are those that ``rows`` needs; it gives a row for each instance, in order, and takes
    a number for each besides, on which the row may depend. Of equal rows a file takes one where it
    ``drops_equal_rows``.
    """

    name: str
    columns: tuple[str, ...]
    rows: Callable[[Columns, Sequence[int]], Iterator[Row]]
    drops_equal_rows: bool = False


def layout(format_: Format) -> Layout:
    """The layout of that name.

    alpaca: ``instruction, input, output``. messages: ``messages``, a user and an assistant turn
    (OpenAI). conversations: ``conversations``, a human and a gpt turn (ShareGPT).
    prompt-completion: ``prompt, completion``. In the last three the input follows the instruction
    after a blank line.
    prompt-completion-varied: the same two fields as the original Self-Instruct code writes them for
    fine-tuning (docs/paper.md): each row in a way that its number draws; half of the inputs
    `rewritten`; equal rows once. A completion follows its prompt without anything between.
    """
    instance = ("instruction", "input", "output")
    return Layout(format_, instance, _ROWS[format_], format_ == "prompt-completion-varied")


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
        prompt = _encoded(instruction.strip(), input_.strip(), number % ENCODINGS)
        lead = " " if prompt.endswith("Output:") else ""
        yield {"prompt": prompt, "completion": lead + output.strip()}


def _encoded(instruction: str, input_: str, number: int) -> str:
    """The prompt that a number below `ENCODINGS` gives."""
    if number >= _COMBINATIONS:
        input_ = rewritten(input_)
    if not input_:
        before, after = _WITHOUT_INPUT[number % len(_WITHOUT_INPUT)]
        return f"{before}{instruction}{after}"
    before, between, after = _WITH_INPUT[number % len(_WITH_INPUT)]
    return f"{before}{instruction}{between}{input_}{after}"


def rewritten(input_: str) -> str:
    """An input as the original code rewrites half of them for fine-tuning.

    Where one field name alone stands before a colon, however often, it goes with what precedes it
    ("Sentence: I am late." -> "I am late."); of two line breaks in a row one stays.
    """
    if len(set(_FIELD_NAME.findall(input_))) == 1:
        input_ = input_.partition(":")[2]
    return input_.strip().replace("\n\n", "\n")


_ROWS: dict[Format, Callable[[Columns, Sequence[int]], Iterator[Row]]] = {
    "alpaca": _alpaca,
    "messages": _messages,
    "conversations": _conversations,
    "prompt-completion": _prompt_completion,
    "prompt-completion-varied": _varied,
}
