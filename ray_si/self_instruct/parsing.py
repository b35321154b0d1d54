"""Completion -> candidate instructions, a class label, or instances. Never raises on bad text."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Literal

from ray_si.records import Instance

_NUMBER = re.compile(r"(?:^|\n)[ \t]*\d+(?:[ \t]?[.)][ \t]+|[．）、][ \t]*)")
_NO_INPUT = re.compile(r"\W*(?:no ?input|none|n/?a)?\W*", re.IGNORECASE)
_BLANK_LINE = re.compile(r"\n\s*\n")

Drop = Literal["last", "all"]


@dataclass(frozen=True)
class Headings:
    """The words that stand before a colon (or a number) in prompts and completions."""

    task: str = "Task"
    instruction: str = "Instruction"
    example: str = "Example"
    input: str = "Input"
    output: str = "Output"
    label: str = "Class label"


ENGLISH = Headings()
"""Read in every language, since models fall back to them."""


@dataclass(frozen=True)
class Candidate:
    """One numbered item of a completion: its text, or why it is none.

    ``position`` counts from 0 within the completion; ``reason`` is None for a usable item;
    ``instance`` is what came with it in the same completion.
    """

    position: int
    text: str
    reason: str | None = None
    instance: Instance | None = None


def parse_instructions(
    text: str,
    finish_reason: str,
    *,
    drop: Drop = "last",
    sentence_case: bool = False,
    chat: bool = False,
) -> list[Candidate]:
    """Split a numbered completion into candidates, empty items left out.

    When the model ran out of tokens (``finish_reason`` "length") the last item is unfinished and
    gets reason "unfinished"; with ``drop="all"``, as in the original code, every item does.
    ``sentence_case`` lower-cases all but the first letter, as in the original code. A completion
    without any item comes back as one candidate with reason "empty_completion". In an answer to a
    ``chat`` prompt what stands before the first number is a "preamble", and an item ends at a blank
    line.
    """
    parts = _NUMBER.split(text)
    preamble = chat and len(parts) > 1 and bool(parts[0].strip())
    if chat:
        parts = [part.strip().split("\n\n")[0] for part in parts]
    items = [Candidate(0, " ".join(part.split())) for part in parts]
    return _numbered(text, items, finish_reason, drop, sentence_case, preamble)


def parse_joint(
    text: str,
    finish_reason: str,
    *,
    drop: Drop = "last",
    sentence_case: bool = False,
    chat: bool = False,
    headings: Headings = ENGLISH,
) -> list[Candidate]:
    """Split a completion of whole tasks ("1. Instruction: ... Input: ... Output: ...").

    As `parse_instructions`, but items are told by the heading of their instruction, since outputs
    may hold numbered lists. A candidate without an output has no instance; an input that says that
    there is none is empty. An output ends at a blank line, as in the prompt, but not in a ``chat``.
    """
    word = _patterns(headings)
    parts = word["item"].split(text)
    preamble = chat and len(parts) > 1 and bool(parts[0].strip())
    items = [_task(part, word, chat) for part in parts]
    return _numbered(text, items, finish_reason, drop, sentence_case, preamble)


def _numbered(
    text: str,
    items: list[Candidate],
    finish_reason: str,
    drop: Drop,
    sentence_case: bool,
    preamble: bool,
) -> list[Candidate]:
    """The items that have a text, with their positions and what is wrong with them."""
    items = [item for item in items if item.text]
    if not items:
        return [Candidate(0, text, "empty_completion")]
    last = len(items) - 1
    found = []
    for i, item in enumerate(items):
        reason = None
        if finish_reason == "length" and (drop == "all" or i == last):
            reason = "unfinished"
        elif preamble and i == 0:
            reason = "preamble"
        said = item.text.capitalize() if sentence_case else item.text
        found.append(replace(item, position=i, text=said, reason=reason))
    return found


def _task(text: str, word: dict[str, re.Pattern[str]], chat: bool) -> Candidate:
    before, *after = word["output_line"].split(text, maxsplit=1)
    instruction, *given = word["input_line"].split(before, maxsplit=1)
    instance = None
    output = after[0].strip() if after else ""
    if not chat:
        output = _BLANK_LINE.split(output)[0]
    if output:
        input_ = given[0].strip() if given else ""
        instance = Instance("" if _NO_INPUT.fullmatch(input_) else input_, output)
    return Candidate(0, " ".join(instruction.split()), None, instance)


def parse_classification(text: str, labels: tuple[str, str] | None = None) -> bool | None:
    """Read a free-text answer: True for yes or classification, False for no or generation.

    ``labels`` are the answers in another language, yes first. None where it begins with none.
    """
    answer = re.match(r"\W*(?:(yes|classification)|no|generation)\b", text, re.IGNORECASE)
    if answer is None and labels is not None:
        yes, no = (re.escape(label.strip()) for label in labels)
        answer = re.match(rf"\W*(?:({yes})|{no})(?!\w)", text, re.IGNORECASE)
    return None if answer is None else answer.group(1) is not None


@cache
def _patterns(headings: Headings) -> dict[str, re.Pattern[str]]:
    """Patterns of the headings, in English and as given."""
    words = {
        name: "|".join(re.escape(word) for word in dict.fromkeys((getattr(ENGLISH, name), own)))
        for name, own in asdict(headings).items()
    }
    item = (
        rf"(?:^|\n)[ \t]*(?:\d+[ \t]?[.)][ \t]*)?[*_]*(?:{words['instruction']})\s*\d*[*_]*:[*_]*"
    )
    return {
        "item": re.compile(item),
        "input_line": re.compile(rf"\n[ \t]*[*_]*(?:{words['input']})[*_]*\s*\d*\s*:[*_]*"),
        "output_line": re.compile(rf"\n[ \t]*[*_]*(?:{words['output']})[*_]*\s*\d*\s*:[*_]*"),
        "example": re.compile(rf"(?:{words['example']})\s?\d*\.?"),
        "input": re.compile(rf"(?:{words['input']})\s*\d*\s*:"),
        "output": re.compile(rf"(?:{words['output']})\s*\d*\s*:"),
        "label": re.compile(rf"(?:{words['label']}):"),
    }


def _split_input_output(text: str, word: dict[str, re.Pattern[str]]) -> Instance:
    parts = word["output"].split(text)
    if len(parts) == 1:
        return Instance("", text.strip())
    before = word["input"].split(parts[0])
    return Instance(before[1 if len(before) > 1 else 0].strip(), parts[1].strip())


def _parse_input_first(text: str, word: dict[str, re.Pattern[str]]) -> list[Instance]:
    if word["example"].search(text):
        parts = [part for part in word["example"].split(text) if part.strip()]
        return [_split_input_output(part, word) for part in parts]
    return [_split_input_output(text, word)] if word["output"].search(text) else []


def _parse_output_first(text: str, word: dict[str, re.Pattern[str]]) -> list[Instance]:
    instances = []
    for part in word["label"].split(text)[1:]:
        label, _, rest = part.strip().partition("\n")
        heading = word["input"].match(rest.strip())
        text = rest.strip()[heading.end() :] if heading else rest
        instances.append(Instance(text.strip(), label.strip()))
    return instances


def parse_instances(
    text: str, finish_reason: str, *, output_first: bool, headings: Headings = ENGLISH
) -> list[Instance]:
    """Read the instances of one completion, in order; an empty list where there is none.

    Input-first: parts headed "Example n", each "Input: ... Output: ...", or a single part without
    heading. Output-first: "Class label: ..." and, on the lines below, the input, headed "Input:" or
    not. ``headings`` are read besides the English ones. The last instance
    is dropped where the model ran out of tokens. These are the original code's rules, quirks
    included: what stands between "Example" and "Output:" is the input, headed "Input:" or not.
    """
    parse = _parse_output_first if output_first else _parse_input_first
    instances = parse(text.strip(), _patterns(headings))
    return instances[:-1] if finish_reason == "length" else instances
