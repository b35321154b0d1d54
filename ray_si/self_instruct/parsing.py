"""Completion -> candidate instructions, a class label, or instances. Never raises on bad text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ray_si.records import Instance

_NUMBER = re.compile(r"(?:^|\n)[ \t]*\d+[ \t]?[.)][ \t]+")
_EXAMPLE = re.compile(r"Example\s?\d*\.?")
_OUTPUT = re.compile(r"Output\s*\d*\s*:")
_INPUT = re.compile(r"Input\s*\d*\s*:")
_LABEL = "Class label:"


@dataclass(frozen=True)
class Candidate:
    """One numbered item of a completion: its text, or why it is none.

    ``position`` counts from 0 within the completion; ``reason`` is None for a usable item.
    """

    position: int
    text: str
    reason: str | None = None


def parse_instructions(
    text: str,
    finish_reason: str,
    *,
    drop: Literal["last", "all"] = "last",
    sentence_case: bool = False,
) -> list[Candidate]:
    """Split a numbered completion into candidates, empty items left out.

    When the model ran out of tokens (``finish_reason`` "length") the last item is unfinished and
    gets reason "unfinished"; with ``drop="all"``, as in the original code, every item does.
    ``sentence_case`` lower-cases all but the first letter, as in the original code. A completion
    without any item comes back as one candidate with reason "empty_completion".
    """
    items = [" ".join(item.split()) for item in _NUMBER.split(text)]
    items = [item for item in items if item]
    if not items:
        return [Candidate(0, text, "empty_completion")]
    cut_off = finish_reason == "length"
    last = len(items) - 1
    return [
        Candidate(
            i,
            item.capitalize() if sentence_case else item,
            "unfinished" if cut_off and (drop == "all" or i == last) else None,
        )
        for i, item in enumerate(items)
    ]


def parse_classification(text: str) -> bool | None:
    """Read a free-text answer: True for yes or classification, False for no or generation.

    None where it begins with neither.
    """
    answer = re.match(r"\W*(?:(yes|classification)|no|generation)\b", text, re.IGNORECASE)
    return None if answer is None else answer.group(1) is not None


def _split_input_output(text: str) -> Instance:
    parts = _OUTPUT.split(text)
    if len(parts) == 1:
        return Instance("", text.strip())
    before = _INPUT.split(parts[0])
    return Instance(before[1 if len(before) > 1 else 0].strip(), parts[1].strip())


def _parse_input_first(text: str) -> list[Instance]:
    if _EXAMPLE.search(text):
        return [_split_input_output(part) for part in _EXAMPLE.split(text) if part.strip()]
    return [_split_input_output(text)] if _OUTPUT.search(text) else []


def _parse_output_first(text: str) -> list[Instance]:
    instances = []
    for part in text.split(_LABEL)[1:]:
        label, _, rest = part.strip().partition("\n")
        heading = _INPUT.match(rest.strip())
        text = rest.strip()[heading.end() :] if heading else rest
        instances.append(Instance(text.strip(), label.strip()))
    return instances


def parse_instances(text: str, finish_reason: str, *, output_first: bool) -> list[Instance]:
    """Read the instances of one completion, in order; an empty list where there is none.

    Input-first: parts headed "Example n", each "Input: ... Output: ...", or a single part without
    heading. Output-first: "Class label: ..." and, on the lines below, the input, headed "Input:" or
    not. The last instance
    is dropped where the model ran out of tokens. These are the original code's rules, quirks
    included: what stands between "Example" and "Output:" is the input, headed "Input:" or not.
    """
    parse = _parse_output_first if output_first else _parse_input_first
    instances = parse(text.strip())
    return instances[:-1] if finish_reason == "length" else instances
