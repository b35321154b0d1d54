"""Completion -> candidate instructions, a class label, or instances. Never raises on bad text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ray_si.records import Instance
from ray_si.self_instruct import original_rules
from ray_si.self_instruct.headings import ENGLISH, Headings, heading_of, unfenced
from ray_si.self_instruct.numbered import Item, read_list, read_marked, read_tasks
from ray_si.self_instruct.pairs import Read, read_pairs, without_remark
from ray_si.self_instruct.placeholders import is_placeholder
from ray_si.self_instruct.thoughts import TAGS, Tag, split_thoughts

Drop = Literal["last", "all"]

Rules = Literal["lines", "original"]
"""How answers are read: line by line (see docs/answers.md), or as the original code reads them."""


@dataclass(frozen=True)
class Candidate:
    """One item of a completion: its text, or why it is none.

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
    headings: Headings = ENGLISH,
    tags: Sequence[Tag] = TAGS,
    rules: Rules = "lines",
) -> list[Candidate]:
    """Split a numbered completion into candidates, empty items left out; see `read_list`.

    Thoughts between ``tags`` are left out. One that never ends is a candidate with reason
    "unfinished_reasoning". When the model ran out of tokens (``finish_reason`` "length") the last
    item is unfinished and gets reason "unfinished"; with ``drop="all"`` every item does.
    ``sentence_case`` lower-cases all but the first letter. A completion without any item comes
    back as one candidate with reason "empty_completion". With ``rules="original"`` the items are
    those of the original code, which drops all of an unfinished completion and has sentence case;
    then nothing but text and finish reason counts.
    """
    if rules == "original":
        items = [Item(item) for item in original_rules.instructions(text)]
        return _candidates(text, items, finish_reason, "all", False)
    parts = split_thoughts(text, tags)
    items = read_list(parts.answer, chat=chat, headings=headings)
    if not parts.is_finished:
        return _cut_in_thought(items, parts.thought, sentence_case)
    return _candidates(parts.answer, items, finish_reason, drop, sentence_case)


def parse_joint(
    text: str,
    finish_reason: str,
    *,
    drop: Drop = "last",
    sentence_case: bool = False,
    chat: bool = False,
    headings: Headings = ENGLISH,
    tags: Sequence[Tag] = TAGS,
) -> list[Candidate]:
    """Split a completion of whole tasks ("1. Instruction: ... Input: ... Output: ...").

    As `parse_instructions`, but items are told by the heading of their instruction, since outputs
    may hold numbered lists; see `read_tasks`. A candidate without an output has no instance; an
    input that says that there is none is empty.
    """
    parts = split_thoughts(text, tags)
    items = read_tasks(parts.answer, chat=chat, headings=headings)
    if not parts.is_finished:
        return _cut_in_thought(items, parts.thought, sentence_case)
    return _candidates(parts.answer, items, finish_reason, drop, sentence_case)


def parse_marked(
    text: str,
    finish_reason: str,
    *,
    drop: Drop = "last",
    sentence_case: bool = False,
    headings: Headings = ENGLISH,
    tags: Sequence[Tag] = TAGS,
) -> list[Candidate]:
    """Read the instruction behind its heading; what stands before it, a plan, is no part of it.

    As `parse_instructions` otherwise; an input below it is a candidate with reason "further_pair".
    A completion without that heading comes back as one candidate with reason "unmarked", or
    "unfinished" where the model ran out of tokens.
    """
    parts = split_thoughts(text, tags)
    items = read_marked(parts.answer, headings=headings)
    if not parts.is_finished:
        return _cut_in_thought(items or [], parts.thought, sentence_case)
    if items is None and parts.answer.strip():
        reason = "unfinished" if finish_reason == "length" else "unmarked"
        return [Candidate(0, parts.answer.strip(), reason)]
    return _candidates(parts.answer, items or [], finish_reason, drop, sentence_case)


def parse_turn(
    text: str, finish_reason: str, *, sentence_case: bool = False, tags: Sequence[Tag] = TAGS
) -> list[Candidate]:
    """Read a turn that the model wrote as the user: all of it is one instruction, lines kept.

    Thoughts between ``tags`` are left out, as in `parse_instructions`.
    """
    parts = split_thoughts(text, tags)
    turn = parts.answer.strip()
    items = [Item(turn)] if turn else []
    if not parts.is_finished:
        return _cut_in_thought(items, parts.thought, sentence_case)
    return _candidates(parts.answer, items, finish_reason, "all", sentence_case)


def _candidates(
    text: str, items: list[Item], finish_reason: str, drop: Drop, sentence_case: bool
) -> list[Candidate]:
    """The items with their positions and what is wrong with them."""
    if not items:
        return [Candidate(0, text, "empty_completion")]
    last = max((i for i, item in enumerate(items) if item.reason is None), default=-1)
    if items[-1].reason in ("remark", "further_pair"):
        last = -1  # it is these that are unfinished
    candidates = []
    for i, item in enumerate(items):
        is_cut = finish_reason == "length" and (drop == "all" or i == last)
        reason = "unfinished" if is_cut and item.reason is None else item.reason
        said = item.text.capitalize() if sentence_case else item.text
        candidates.append(Candidate(i, said, reason, item.instance))
    return candidates


def _cut_in_thought(items: list[Item], thought: str, sentence_case: bool) -> list[Candidate]:
    """What was written before a thought that never ends, and the thought as a rejection."""
    items = [*items, Item(thought, "unfinished_reasoning")]
    return _candidates("", items, "stop", "last", sentence_case)


_ANSWER = (
    r"\W*(?:(?:the |my |final )*answer\W+(?:is\W+)?|type\W+"
    r"|classification(?: task)?[^\w\n]*[:：?][^\w\n]*(?=(?:yes|no)\b))?"
)
"""What may stand before the answer itself."""


def parse_classification(
    text: str, labels: tuple[str, str] | None = None, *, tags: Sequence[Tag] = TAGS
) -> bool | None:
    """Read a free-text answer: True for yes or classification, False for no or generation.

    It is what follows the thoughts between ``tags``. ``labels`` are the answers in another
    language, yes first. None where it begins with none.
    """
    parts = split_thoughts(text, tags)
    if not parts.is_finished:
        return None
    text = parts.answer
    answer = re.match(rf"{_ANSWER}(?:(yes|classification)|no|generation)\b", text, re.IGNORECASE)
    if answer is None and labels is not None:
        yes, no = (re.escape(label.strip()) for label in labels)
        answer = re.match(rf"{_ANSWER}(?:({yes})|{no})(?!\w)", text, re.IGNORECASE)
    return None if answer is None else answer.group(1) is not None


def read_instances(
    text: str,
    finish_reason: str,
    *,
    output_first: bool,
    headings: Headings = ENGLISH,
    tags: Sequence[Tag] = TAGS,
    rules: Rules = "lines",
) -> list[Read]:
    """What one completion holds, in order: instances (reason None), and the rest with reasons.

    Input-first: parts headed "Example n", each "Input: ... Output: ...", or a single part without
    heading. Output-first: "Class label: ..." and, on the lines below, the input, headed "Input:" or
    not. ``headings`` are read besides the English ones; see `read_pairs` for the reasons, to which
    come "unfinished_reasoning" and, of the last instance where the model ran out of tokens,
    "unfinished". With ``rules="original"`` they are those of the original code.
    """
    if rules == "original":
        instances = original_rules.instances(text, output_first=output_first)
        cut = len(instances) - (finish_reason == "length")
        return [(one, None if i < cut else "unfinished") for i, one in enumerate(instances)]
    parts = split_thoughts(text, tags)
    cut_off = finish_reason == "length" and parts.is_finished
    read = read_pairs(
        parts.answer, output_first=output_first, headings=headings, is_cut_off=cut_off
    )
    if not parts.is_finished:
        read.append((Instance("", parts.thought), "unfinished_reasoning"))
    return read


def read_input(
    text: str,
    finish_reason: str,
    *,
    headings: Headings = ENGLISH,
    tags: Sequence[Tag] = TAGS,
    cut_at_sentence: bool = False,
    max_words: int | None = None,
) -> tuple[str, str | None]:
    """The input in a completion that was asked for one, and why it is none that can be used.

    It is "" where the completion says that none is needed; see `is_placeholder`. What announces or
    heads it is left out, as a fence around it is and what is said of it at the end. Reasons:
    "unfinished_reasoning", and "unfinished" where the model ran out of tokens; with
    ``cut_at_sentence`` only where no sentence had ended by then, at whose end it is cut. A text of
    more than ``max_words`` is cut at the end of the last sentence within them, if there is one.
    """
    parts = split_thoughts(text, tags)
    if not parts.is_finished:
        return parts.thought, "unfinished_reasoning"
    written = _alone(parts.answer, headings)
    if finish_reason == "length":
        if not (cut_at_sentence and (ended := _sentences_of(written, None))):
            return written, "unfinished"
        written = ended
    if max_words is not None:
        written = _sentences_of(written, max_words) or written
    return ("" if is_placeholder(written) else written), None


_ANNOUNCED = re.compile(
    r"(?:[*_]*(?:(?:sure|certainly|of course|absolutely|okay|ok|great|gladly)\b\W+(?:\w+\W+){0,3}?"
    r"here(?:['’]s| is| are)\b|here(?:['’]s| is| are)\b(?=.*\b(?:input|task|instruction|concrete|"
    r"(?:a|an|one|possible) (?:sample|example))\b)).*[:：][*_]*)\s*?\n\s*\n(?=\s*\S)",
    re.IGNORECASE,
)
"""A first paragraph of one line that announces an input."""


def _alone(text: str, headings: Headings) -> str:
    """The input in a text, without what a model writes around it."""
    text = text.strip().replace("\r\n", "\n")
    if announced := _ANNOUNCED.match(text):
        text = text[announced.end() :].strip()
    first, _, below = text.partition("\n")
    heading = heading_of(first, headings)
    if heading and heading.name == "input" and not text.isalpha():
        text = f"{heading.rest}\n{below}".strip()
    return without_remark(unfenced(text), strict=True)[0]


_TITLE_BEFORE_NAME = re.compile(r"\b(?:Dr|Mrs?|Ms|Prof|St|vs|e\.g|i\.e)\.$")
"""A full stop that ends no sentence."""


def _sentences_of(text: str, max_words: int | None) -> str:
    """The whole sentences that a text begins with, of so many words at most; "" where none is."""
    stops = re.finditer(r"[.!?][\"')]*(?=\s|$)", text)
    ends = [stop.end() for stop in stops if not _TITLE_BEFORE_NAME.search(text, 0, stop.end())]
    if max_words is not None:
        ends = [end for end in ends if len(text[:end].split()) <= max_words]
    return text[: ends[-1]] if ends else ""


def read_output(
    text: str, finish_reason: str, *, tags: Sequence[Tag] = TAGS
) -> tuple[str, str | None]:
    """The output in a completion that was asked for nothing else, and why it cannot be used."""
    parts = split_thoughts(text, tags)
    if not parts.is_finished:
        return parts.thought, "unfinished_reasoning"
    return parts.answer.strip(), "unfinished" if finish_reason == "length" else None


def parse_instances(
    text: str,
    finish_reason: str,
    *,
    output_first: bool,
    headings: Headings = ENGLISH,
    tags: Sequence[Tag] = TAGS,
    rules: Rules = "lines",
) -> list[Instance]:
    """The instances that `read_instances` finds, without the rest."""
    read = read_instances(
        text, finish_reason, output_first=output_first, headings=headings, tags=tags, rules=rules
    )
    return [instance for instance, reason in read if reason is None]
