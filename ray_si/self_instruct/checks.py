"""Named checks of instructions, inputs and answers, English only, that a run may ask for.

They are against what small models do wrong. The name of a check is the reason code of what it
refuses.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence

from ray_si.records import Instance

InstructionCheck = Callable[[str], bool]
"""Instruction -> whether it is refused."""

InstanceCheck = Callable[[str, Instance], bool]
"""Instruction and instance -> whether it is refused; for an input alone the output is empty."""

_ALIKE = 0.75
"""Similarity of characters from which two items of a list say the same."""

_SAME = 0.87
"""The same of a text and its rewriting, beyond which hardly anything was rewritten."""

_LONGER, _SHORTER, _CLEARLY_SHORTER = 1.35, 0.35, 0.87
"""Words of a rewriting for each of the text: most, fewest, and most where it is to be shorter."""

_TITLE_WORDS = 12
_DISTINCT = 0.62
"""Share of distinct words below which an answer repeats itself."""

_FEWEST, _MOST = 12, 40
"""Words of an input that reads like a message."""

_ITEM = re.compile(r"^\s*(?:\d+[.)]|[-*•])\s+(.+)$", re.MULTILINE)
_TITLE = re.compile(r"\b(?:title|headline|slogan|motto|name|caption|subject line)s?\b", re.I)
_REWRITE = re.compile(
    r"\b(?:rewrite|rephrase|reword|paraphrase|shorten|condense|summari[sz]e|simplify|change|improve|"
    r"edit|correct|make the|short(?:er)? version)\b",
    re.I,
)
_SHORTEN = re.compile(
    r"\b(?:short(?:er|en)?|brief(?:er)?|concise|fewer|condense|summari[sz]e)\b", re.I
)
_APOLOGY = re.compile(
    r"\b(?:i(?:'m| am) sorry,? but|i apologi[sz]e|as an ai|"
    r"i(?: can(?:no|')t|(?:'m| am) (?:not able|unable)) (?:to )?"
    r"(?:help|assist|provide|write|rewrite|answer|access|create))",
    re.I,
)
_PREFACE = re.compile(
    r"^\W*(?:sure|certainly|of course|absolutely)\b[,!.]|"
    r"\b(?:here(?:'s| is| are)|this is) (?:a|an|the|my|your|some|three|two)\b[^.!?\n]*"
    r"(?:version|rewrit|revis|rephras|title|tips|reasons|ways|examples|paragraph|e-?mail|message)|"
    r"\b(?:revised|rewritten|improved|updated) (?:version|text|message|e-?mail|post|paragraph)\b",
    re.I,
)
_SPEAKS_TO_READER = re.compile(
    r"\b(?:do you|have you|are you|would you|you(?:'d| would| have| had| like| think)|"
    r"your (?:favou?rite|own|opinion|life|experience|name)|tell me|my)\b",
    re.I,
)
_BEYOND_WORDING = re.compile(
    r"\d|[\"“”*#]|\b(?:bullets?|list|bold|italics?|tense|person|grammar|grammatical|voice|but|without|"
    r"spelling|punctuation|translate|language|words?|letters?|rhymes?|quotes?)\b",
    re.I,
)
_ASKS_FOR_HELP = re.compile(
    r"\b(?:can you|could you (?:please )?(?:help|rewrite|make|edit|review)|"
    r"please (?:help|rewrite|edit|review|revise)|i need (?:help|you to)|"
    r"help me (?:rewrite|write|with (?:this|my))|rewrite|rephrase|translate|"
    r"the (?:text|message|e-?mail|post|paragraph) (?:is|should|needs)|"
    r"following (?:text|sentence|message|e-?mail|post|paragraph))\b|"
    r"^\W*(?:here(?:'s| is)|how to|i(?:'m| am) (?:writing|trying|looking for) )",
    re.I,
)
_GREETING = re.compile(
    r"\A\W*(?:(?i:hi|hello|hey|dear|good (?:morning|afternoon|evening))\b|[A-Z]\w+,\s*\n)"
)
_BYLINE = re.compile(
    r"^\s*(?:by|author|title|subject|from|to|date)\b\s*:?.{0,60}$|\[|\]|(?:sincerely|regards),?\s*$"
    r"|\A[^\n,.!?]{1,60}\n|^\s*#|\*\*|```"
    r"|[\U0001f300-\U0001faff]",
    re.I | re.M,
)


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text.lower())


def _alike(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a.lower(), b.lower(), autojunk=False).ratio()


def _alike_items(instruction: str, instance: Instance) -> bool:
    items = _ITEM.findall(instance.output)
    return any(_alike(a, b) >= _ALIKE for i, a in enumerate(items) for b in items[:i])


def _long_title(instruction: str, instance: Instance) -> bool:
    is_long = len(_words(instance.output)) > _TITLE_WORDS or "\n" in instance.output
    return bool(_TITLE.search(instruction) and not instance.input and is_long)


def _repetitive(instruction: str, instance: Instance) -> bool:
    words = _words(instance.output)
    return len(words) > 8 and len(set(words)) < _DISTINCT * len(words)


def _is_rewriting(instruction: str, instance: Instance) -> bool:
    return bool(instance.input and instance.output and _REWRITE.search(instruction))


def _hardly_changed(instruction: str, instance: Instance) -> bool:
    return _is_rewriting(instruction, instance) and _alike(instance.input, instance.output) > _SAME


def _other_length(instruction: str, instance: Instance) -> bool:
    if not _is_rewriting(instruction, instance):
        return False
    most = _CLEARLY_SHORTER if _SHORTEN.search(instruction) else _LONGER
    share = len(_words(instance.output)) / max(1, len(_words(instance.input)))
    return not _SHORTER <= share <= most


def _unended(instruction: str, instance: Instance) -> bool:
    last = instance.output.rstrip(" \"'”’)*")[-1:]
    return not _TITLE.search(instruction) and last.isalpha() and len(_words(instance.output)) > 8


def _input_length(instruction: str, instance: Instance) -> bool:
    return bool(instance.input) and not _FEWEST <= len(_words(instance.input)) <= _MOST


def _input_kind(instruction: str, instance: Instance) -> bool:
    if not instance.input:
        return False
    greets = bool(_GREETING.search(instance.input))
    is_letter = re.search(r"\b(?:e-?mail|letter)\b", instruction, re.I)
    public = r"\b(?:post|announcement|description|paragraph|article)\b"
    is_public = re.search(public, instruction, re.I)
    is_other = (is_letter and not greets) or (is_public and greets)
    return bool(_BYLINE.search(instance.input) or is_other)


INSTRUCTION_CHECKS: Mapping[str, InstructionCheck] = {
    "speaks_to_reader": lambda text: bool(_SPEAKS_TO_READER.search(text)),
    "long_number": lambda text: bool(re.search(r"\d{3}", text)),
    "beyond_wording": lambda text: bool(
        re.match(r"\s*(?:rewrite|make|change|improve) the\b", text, re.I)
        and _BEYOND_WORDING.search(text)
    ),
}
"""Name -> check of an instruction."""

INPUT_CHECKS: Mapping[str, InstanceCheck] = {
    "input_length": _input_length,
    "input_asks": lambda _, instance: bool(_ASKS_FOR_HELP.search(instance.input)),
    "input_kind": _input_kind,
}
"""Name -> check of an input, before any answer is asked for."""

ANSWER_CHECKS: Mapping[str, InstanceCheck] = {
    "apology": lambda _, instance: bool(_APOLOGY.search(instance.output)),
    "preface": lambda _, instance: bool(_PREFACE.search(instance.output)),
    "alike_items": _alike_items,
    "long_title": _long_title,
    "repetitive": _repetitive,
    "hardly_changed": _hardly_changed,
    "other_length": _other_length,
    "unended": _unended,
}
"""Name -> check of an instance."""


def known_checks(names: tuple[str, ...], checks: Mapping[str, object]) -> tuple[str, ...]:
    """The names; ValueError where one is none of the checks, or there twice."""
    for name in names:
        if name not in checks:
            near = difflib.get_close_matches(name, checks, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(checks)}"
            raise ValueError(f"there is no check {name} ({hint})")
    if len(set(names)) < len(names):
        raise ValueError("a check is there twice")
    return names


def failed_check(names: Sequence[str], instruction: str) -> str | None:
    """The first of the named checks of instructions that refuses this one."""
    return next((name for name in names if INSTRUCTION_CHECKS[name](instruction)), None)


def failed_instance_check(
    names: Sequence[str], instruction: str, instance: Instance, *, of_input: bool = False
) -> str | None:
    """The first of the named checks that refuses an instance, or its input alone."""
    checks = INPUT_CHECKS if of_input else ANSWER_CHECKS
    return next(
        (name for name in names if name in checks and checks[name](instruction, instance)), None
    )
