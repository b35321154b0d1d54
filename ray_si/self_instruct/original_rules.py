"""The rules of the original Self-Instruct code, to the letter: see docs/answers.md.

What is kept equals what that code keeps, quirks included; the wording is ours.
"""

from __future__ import annotations

import re

from ray_si.records import Instance

_NUMBER = re.compile(r"\n\d+\s?\. ")
_EXAMPLE = re.compile(r"Example\s?\d*\.?")
_INPUT = re.compile(r"Input\s*\d*\s*:")
_OUTPUT = re.compile(r"Output\s*\d*\s*:")
_LABEL = "Class label:"


def instructions(text: str) -> list[str]:
    """The items of a numbered list: white space squeezed, all but the first letter lower-cased."""
    items = (" ".join(part.split()).capitalize() for part in _NUMBER.split(text))
    return [item for item in items if item]


def instances(text: str, *, output_first: bool) -> list[Instance]:
    """The instances of a completion, before any filter."""
    text = text.strip()
    if output_first:
        return [_labelled(part.strip()) for part in text.split(_LABEL)[1:]]
    if _EXAMPLE.search(text):
        return [_pair(part) for part in _EXAMPLE.split(text) if part.strip()]
    return [_pair(text)] if _OUTPUT.search(text) else []


def _pair(text: str) -> Instance:
    """What stands before the first "Output:" is the input, headed or not; an "Input:" ends it."""
    before, *after = _OUTPUT.split(text.strip())
    input_, output = (before.strip(), after[0].strip()) if after else ("", before)
    heading = _INPUT.match(input_)
    return Instance(
        input_[heading.end() :].strip() if heading else input_,
        _INPUT.split(output)[0].strip(),
    )


def _labelled(text: str) -> Instance:
    """The label on the first line, the input on those below, headings included."""
    label, _, rest = text.partition("\n")
    return Instance(rest.strip(), label.strip())
