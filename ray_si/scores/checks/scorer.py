"""What a program can check of an answer, where its instruction asks for it in so many words.

Each check looks for a request it understands; where there is none it has nothing to say. English
only. A check is meant to be right when it objects: what it cannot be sure of it lets pass.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from ray_si.config.scores import ChecksScore
from ray_si.scores.base import Row, Scored
from ray_si.scores.checks.arithmetic import wrong_sum
from ray_si.scores.checks.code import Compiler
from ray_si.scores.checks.labels import wrong_label

Check = Callable[[str, str, str], str | None]
"""(instruction, input, output) -> what is wrong; None where nothing is, or nothing was asked."""

_NUMBERS = dict(
    zip(
        "one two three four five six seven eight nine ten eleven twelve".split(),
        range(1, 13),
        strict=True,
    )
)
_NUMBER = rf"(\d{{1,5}}|(?a:{'|'.join(_NUMBERS)}))"  # in ASCII: else ſ would do for s
_UNIT = r"(word|sentence|line|paragraph|character)s?"

_PHRASES = (
    (rf"(?:at most|no more than|not more than|up to|within|maximum of) {_NUMBER} {_UNIT}\b", "<="),
    (rf"(?:fewer than|less than|shorter than|under) {_NUMBER} {_UNIT}\b", "<"),
    (rf"{_NUMBER} {_UNIT} or (?:less|fewer)\b", "<="),
    (rf"(?:at least|no fewer than|no less than|minimum of) {_NUMBER} {_UNIT}\b", ">="),
    (rf"{_NUMBER} {_UNIT} or more\b", ">="),
    (rf"(?<!no )(?<!not )(?:more than|over) {_NUMBER} {_UNIT}\b", ">"),
    (rf"exactly {_NUMBER} {_UNIT}\b", "=="),
    (rf"(?:in|write|with) (?:just |only )?{_NUMBER} (sentence)s?\b(?! (?:or|at|max))", "=="),
)
"""Ways to set a limit, with what an answer's count has to be to it."""

_BOUNDS = [(re.compile(rf"\b{phrase}", re.I), sign) for phrase, sign in _PHRASES]

_HOLDS: dict[str, Callable[[int, int], bool]] = {
    "<": lambda count, bound: count < bound,
    "<=": lambda count, bound: count <= bound,
    ">": lambda count, bound: count > bound,
    ">=": lambda count, bound: count >= bound,
    "==": lambda count, bound: count == bound,
}

_ITEMS = re.compile(
    rf"\b(?:exactly|list|name|give(?: me)?|suggest|provide|write(?: down)?|mention|state|offer) "
    rf"(?:exactly )?(?:the )?{_NUMBER} (?!{_UNIT}\b)(?!hundred|thousand|million|percent)\w+",
    re.I,
)
_ITEM = re.compile(r"^([ \t]*)(\d{1,2}[.):]|[-*•])[ \t]+\S", re.M)

_JSON = re.compile(
    r"\b(?:valid|in|as|into|a|return|output)\s+(?:a\s+)?json\b|\bjson (?:object|array|format)\b",
    re.I,
)
_FENCED = re.compile(r"```[\w+-]*\n(.*?)```", re.S)

_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s|$)")
_ABBREVIATION = r"Dr|Mr|Mrs|Ms|Prof|St|vs|etc|approx|No|Inc|Ltd|Jr|Sr|e\.g|i\.e|a\.m|p\.m|[A-Z]"
_NO_END = re.compile(rf"\b(?:{_ABBREVIATION})\.(?=\s+\S)|^[ \t]*\d{{1,2}}\.(?=\s)", re.M)
"""Full stops that end no sentence: of abbreviations, initials and numbered lists."""


class Checks:
    """1 where no check objects, else 0 with what they say as detail.

    A row of which nothing can be checked has 1, and no detail.
    """

    version = 1
    columns = ("instruction", "input", "output")

    def __init__(self, settings: ChecksScore) -> None:
        """Raises ConfigError where code is to be compiled and there is nothing to confine it."""
        self._checks: list[Check] = [
            wrong_length,
            wrong_items,
            wrong_json,
            lambda instruction, input_, output: wrong_sum(instruction, output),
            wrong_label,
        ]
        if settings.code:
            self.version = 2
            self._checks.append(Compiler().wrong_code)

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        """See `RowScorer`."""
        return [self._score(row["instruction"], row["input"], row["output"]) for row in rows]

    def _score(self, instruction: str, input_: str, output: str) -> Scored:
        wrong = filter(None, (check(instruction, input_, output) for check in self._checks))
        detail = "; ".join(wrong)
        return Scored(0.0 if detail else 1.0, detail=detail or None)


def wrong_length(instruction: str, input_: str, output: str) -> str | None:
    """A limit in words, sentences, lines, paragraphs or characters that is not kept."""
    for pattern, sign in _BOUNDS:
        for match in pattern.finditer(instruction):
            number, unit = match.groups()
            bound, count = _value(number), _count(output, unit.lower())
            if not _HOLDS[sign](count, bound):
                return f"{count} {unit.lower()}s, not {sign} {bound}"
    return None


def wrong_items(instruction: str, input_: str, output: str) -> str | None:
    """A list of another number of items than was asked for; what is no list is let pass."""
    match = _ITEMS.search(instruction)
    if match is None or len(re.findall(rf"\b{_NUMBER}\b", instruction, re.I)) > 1:
        return None  # of several numbers it is not clear which is that of the items
    found = [(indent, mark[-1]) for indent, mark in _ITEM.findall(output)]
    items, wanted = found.count(found[0]) if found else 0, _value(match[1])  # without lists in it
    return None if items < 2 or items == wanted else f"{items} items, not {wanted}"


def wrong_json(instruction: str, input_: str, output: str) -> str | None:
    """JSON that was asked for and does not parse; in a fenced block, or the whole answer."""
    if not _JSON.search(instruction):
        return None
    blocks: list[str] = _FENCED.findall(output) or [output]
    for block in blocks:
        try:
            json.loads(block)
        except ValueError as error:
            return f"no JSON: {error}"
        except RecursionError:
            return "no JSON: nested too deeply"
    return None


def _value(number: str) -> int:
    return _NUMBERS.get(number.lower()) or int(number)


def _count(text: str, unit: str) -> int:
    if unit == "word":
        return len(text.split())
    if unit == "character":
        return len(text.strip())
    if unit == "line":
        return sum(1 for line in text.splitlines() if line.strip())
    if unit == "paragraph":
        return sum(1 for part in re.split(r"\n\s*\n", text) if part.strip())
    plain = _NO_END.sub("", text).strip()
    last = _SENTENCE_END.split(plain)[-1]
    return len(_SENTENCE_END.findall(plain)) + bool(last.strip())
