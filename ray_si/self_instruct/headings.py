"""The lines of an answer: which are headings, which are numbers, which stand in a fence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, get_args

Name = Literal["task", "instruction", "example", "input", "output", "label"]
_NAMES: tuple[Name, ...] = get_args(Name)


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
class Heading:
    """A heading at the start of a line; ``rest`` is what follows on the line, decoration removed.

    ``number`` stands before the word or after it; ``column`` is where the word begins, bullets and
    white space before it, but not what cannot be seen; ``indent`` counts the white space alone that
    the line begins with.
    """

    name: Name
    number: int | None
    rest: str
    column: int
    indent: int = 0

    def is_right_of(self, other: Heading) -> bool:
        """Whether it stands further right, by more than one blank: 10. is wider than 9."""
        return self.column - (self.indent == other.indent + 1) > other.column


@dataclass(frozen=True)
class Line:
    """A line of an answer, without its line break.

    A line ``in_fence`` is content whatever it looks like.
    """

    text: str
    in_fence: bool = False
    heading: Heading | None = None

    @property
    def is_blank(self) -> bool:
        """Whether there is nothing on the line, or a rule such as ---."""
        return not self.in_fence and _BLANK.fullmatch(self.text) is not None


@dataclass(frozen=True)
class Number:
    """The number that begins an item; ``form`` is how it is written, ``rest`` the item's text."""

    value: int
    form: str
    rest: str


_BLANK = re.compile(r"\s*(?:-{3,}|\*{3,}|_{3,}|={3,}|—{3,})?\s*")
_FENCE = re.compile(r"(?:^|[:：*])\s*(?P<fence>`{3,}|~{3,})[^`]*$")
_NAMED_FENCE = re.compile(r"(?:`{3,}|~{3,})[\w+#.-]+")
_TEXT_FENCE = re.compile(r"(?:`{3,}|~{3,})\s?(?:te?xt|plain(?:text)?|markdown|md|input)?")
_BARE_FENCE = re.compile(r"`{3,}|~{3,}")
_INVISIBLE = (
    "\ufeff\u200b\u2060\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
"""Characters without width, and those that direct Arabic and Hebrew."""

_QUOTES = tuple(
    (
        quotes,
        re.compile(
            rf"(?:^|[^\w\s`\"'.;!?)]|\breturn(?=\s))\s*[rbfuRBFU]{{0,2}}{quotes}(?![`)])|{quotes}\s*$"
        ),
        re.compile(rf"^\s*{quotes}|{quotes}\s*(?:[^\w\s]|$)"),
    )
    for quotes in ('"""', "'''")
)
"""Triple quotes, and what opens and closes with them: at an end of a line, or as in code."""

_MARKS = rf"(?:[>#=~\s·‣\u2190-\u2bff\ufe0f\U0001f000-\U0001faff{_INVISIBLE}]|[*+•-]+(?=\s))*"
"""Before a heading: white space, hashes, quote marks, bullets, the stars of org-mode, symbols, and
what cannot be seen."""

_PARTS = {"input", "output", "label", "instruction"}
_ONLY_MARKS = re.compile(r"\s*[#=~*_-]*\s*")

_DEEPEST = 80
"""Characters of a line within which its heading has ended."""

_FURTHER = 3
"""Headings on a line behind its first: "Task 2 Example 1 Input: 5" has two."""

_EMPHASIS = r"(?:\*{1,3}|_{1,3}|`|</?(?:b|i|u|p|em|strong|h\d)>)?"
_CLOSE = r"[.)\]:、．。）：】]"
_DIGITS = r"\d{1,3}(?!\d)"
_HAN = {digit: value for value, digit in enumerate("一二三四五六七八九十", 1)}
_WORDS = "One Two Three Four Five Six Seven Eight Nine Ten".split()
_NUMERALS = _HAN | {word: value for value, word in enumerate(_WORDS, 1)}
_HAN_NUMBER = "[一二三四五六七八九]?十[一二三四五六七八九]?|[一二三四五六七八九]"
"""Up to 99: what else these characters make is no number, as the date 三八 is none."""

_NUMBER = re.compile(
    rf"{_MARKS}(?P<open>{_EMPHASIS})(?P<left>[(\[（【#]?)"
    rf"(?P<value>{_DIGITS}|(?:{_HAN_NUMBER})(?=[、．)）]))"
    rf"(?P<key>\ufe0f?\u20e3)?(?P<close>{_EMPHASIS})\\?"
    rf"(?P<form>\s?{_CLOSE}+|\s*[-–—](?=\s+[^\W\d])|(?(key)|(?!)))"
    rf"(?P<close2>{_EMPHASIS})(?!\d)(?P<rest>.*)"
)


def lines_of(text: str, headings: Headings, *, any_case: bool = False) -> list[Line]:
    """The lines of an answer, each with the heading that it begins with.

    Line breaks are those of any system. A fence (or triple quotes) holds nothing but content as far
    as it is closed. What is quoted or fenced as a whole is read without that. ``any_case`` reads
    headings in lower case too, as code and data may have them.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    rows = text.lstrip(_INVISIBLE).split("\n")
    if all(row.lstrip().startswith(">") for row in rows if row.strip()):
        rows = [re.sub(r"^\s*> ?", "", row) for row in rows]
    lines = []
    for row, in_fence in zip(rows, _fenced(rows, headings), strict=True):
        heading = None if in_fence else heading_of(row, headings, any_case)
        inner = _inner(heading, headings, any_case)
        if heading and inner:  # on one line they are as good as on two
            lines.append(Line(row, False, replace(heading, rest="")))
            row, heading = (
                heading.rest,
                replace(inner, column=heading.column, indent=heading.indent),
            )
        lines.append(Line(row, in_fence, heading))
    return lines


def without_fences(text: str, headings: Headings) -> str:
    """An answer that stands in fences, without these and without what is said between and behind.

    Headings and numbers of items that stand outside stay, as fences do that stand inside another.
    """
    rows = text.replace("\r\n", "\n").split("\n")
    fenced = _fenced(rows, headings)
    kept: list[str] = []
    has_been = False
    for row, in_fence, goes_on in zip(rows, fenced, [*fenced[1:], False], strict=True):
        if _FENCE.match(row.strip()) and not (in_fence and goes_on):
            has_been = True
        elif in_fence or not has_been or heading_of(row, headings) or item_number(row):
            kept.append(row)
    return "\n".join(kept)


def unfenced(text: str) -> str:
    """A text without the fence around the whole of it, unless that says what code it is."""
    rows = text.split("\n")
    is_text = _TEXT_FENCE.fullmatch(rows[0].rstrip())
    if is_text and len(rows) > 1 and _end_of_fence(rows, 0) == len(rows) - 1:
        return "\n".join(rows[1:-1]).strip()
    return text


def heading_of(
    row: str, headings: Headings, any_case: bool = False, further: int = _FURTHER
) -> Heading | None:
    """The heading that a line begins with, whatever decorates it.

    At most so many ``further`` ones are looked for on the line, to tell whether the first is one.
    """
    words, pattern = _pattern(headings, any_case)
    if not words.search(row[:_DEEPEST]) or not (match := pattern.fullmatch(row)):
        return None
    name = next(name for name in _NAMES if match[name])
    number = match["before"] or match["after"]
    rest, colon = match["rest"], match["colon"]
    if not match["close"] and not match["close2"]:
        rest = _without(match["open2"] or match["open"], rest)
    if (not colon or name in ("example", "task")) and _ONLY_MARKS.fullmatch(rest):
        rest = ""  # what frames the line, as in "### Example 1 ###"
    before = "".join(c for c in row[: match.start("open")] if c not in _INVISIBLE)
    indent = len(before) - len(before.lstrip())
    heading = Heading(name, number_of(number), rest.strip(), len(before), indent)
    is_bracketed = bool(match["right"]) and match["left"] != "["
    if not heading.rest or colon or is_bracketed:
        return heading
    # "Example 1 Input: 5" begins with a heading, "Example 1 shows" and "Input 5 cm" do not
    is_heading = number and further and _inner(heading, headings, any_case, further - 1)
    return heading if is_heading else None


def _inner(
    heading: Heading | None, headings: Headings, any_case: bool, further: int = _FURTHER
) -> Heading | None:
    """The heading that follows an example's or a task's on the same line."""
    if heading is None or heading.name not in ("example", "task"):
        return None
    return heading_of(heading.rest, headings, any_case, further)


def without_deeper(lines: Sequence[Line], leftmost: Mapping[Name, Heading]) -> list[Line]:
    """The lines with only those headings that stand no further right than the ``leftmost``.

    One blank further right may stand a heading with a number, and an input or output that is due:
    right below the beginning of an example or task, behind an instruction, or behind its input.
    """
    near = [
        replace(line, heading=None)
        if line.heading and line.heading.is_right_of(leftmost[line.heading.name])
        else line
        for line in lines
    ]
    exact = [
        line.heading.name
        if line.heading and line.heading.column <= leftmost[line.heading.name].column
        else None
        for line in near
    ]
    kept: list[Line] = []
    last: Name | None = None  # an input or output
    least: int | None = 1  # white space before a heading that may follow; None: none may
    is_firm = False  # whether that holds beyond the next line
    for place, line in enumerate(near):
        heading = line.heading
        if heading and not exact[place]:
            is_new = least is not None and heading.indent >= least
            following = (name for name in exact[place:] if name in ("input", "output"))
            if heading.name == "input":
                is_due = is_new and last != "input"
            elif heading.name == "output":
                is_due = (is_new or last == "input") and next(following, None) != "output"
            elif heading.number is None:
                is_due = is_new and heading.name == "instruction"
            else:  # not of what the headings of pairs alone keep from standing deeper
                is_due = leftmost[heading.name].name == heading.name
            heading = heading if is_due else None
            line = replace(line, heading=heading)
        number = None if line.in_fence or heading else item_number(line.text)
        if heading and heading.name in ("input", "output"):
            last, least = heading.name, None
        elif heading and heading.name in ("instruction", "label"):
            least, is_firm = 1, True
        elif is_firm and least:
            pass
        elif begun := heading or number:
            least, is_firm = 2 if begun.rest else 1, False
            is_example = heading is not None and heading.name == "example"
            if "instruction" in leftmost and (begun.rest or is_example):
                least = None  # of a list, since tasks begin with instructions
        elif not line.is_blank:
            least = None
        kept.append(line)
    return kept


def number_of(text: str | None) -> int | None:
    """The number that digits of any script, a Han numeral or an English word in any case stand for.

    None where it is none of these.
    """
    text = text or ""
    if text.isdecimal():
        return int(text)
    tens, ten, ones = text.partition("十")
    if ten:
        return 10 * _HAN.get(tens, 1) + _HAN.get(ones, 0)
    return _NUMERALS.get(text.title())


def item_number(row: str) -> Number | None:
    """The number that an item of a list begins with: "9.", "9)", "(9)", "9:" and the like."""
    match = _NUMBER.fullmatch(row)
    if match is None:
        return None
    form = match["left"] + match["form"].strip()
    rest = match["rest"]
    if not (match["close"] or match["close2"]):
        rest = _without(match["open"], rest)
    value = number_of(match["value"])
    return None if value is None else Number(value, form, rest.strip())


def _without(opened: str, rest: str) -> str:
    """The rest of a line without the mark that ends what was emphasised from its beginning."""
    rest, closing = rest.strip(), opened.replace("<", "</")
    return rest.removesuffix(closing).rstrip() if closing else rest


def _fenced(rows: Sequence[str], headings: Headings) -> list[bool]:
    """For each line whether it is inside a fence that is closed, or ends one.

    Where what closes a fence is left over, another lacks it and took the beginning of the next for
    its end: then no fence goes on past where an example or task begins.
    """
    begins = _beginnings(rows, headings) if any(map(_FENCE.search, rows)) else []
    inside, is_one_over = _inside(rows, begins)
    return _inside(rows, begins, passing=False)[0] if is_one_over and begins else inside


def _beginnings(rows: Sequence[str], headings: Headings) -> list[int]:
    """Where examples and tasks begin: those with inputs or outputs, where any have them."""
    begins: list[int] = []
    with_parts: list[int] = []
    has_part = False  # whether the next heading is of an input or output, of this one
    for place in range(len(rows) - 1, -1, -1):
        heading = heading_of(rows[place], headings)
        if heading is None:
            continue
        is_part = heading.name in _PARTS
        if _begins(heading):
            begins.insert(0, place)
            if is_part or has_part or _inner(heading, headings, False):
                with_parts.insert(0, place)
        has_part = is_part and not _begins(heading)
    return with_parts or begins


def _begins(heading: Heading) -> bool:
    return heading.number is not None or heading.name in ("example", "task", "instruction", "label")


def _inside(
    rows: Sequence[str], begins: Sequence[int], *, passing: bool = True
) -> tuple[list[bool], bool]:
    """The same, where fences may go on ``passing`` what begins, and whether an end is left over.

    That stands alone on its line, and nothing on the next.
    """
    inside = [False] * len(rows)
    is_one_over = False
    start = 0
    while start < len(rows):
        stop = None if passing else next((place for place in begins if place > start), None)
        end = _end_of_fence(rows if stop is None else rows[:stop], start, begins)
        if end is None:
            is_last = not "".join(rows[start + 1 : start + 2]).strip()
            is_one_over |= is_last and _BARE_FENCE.fullmatch(rows[start].strip()) is not None
            start += 1
            continue
        inside[start + 1 : end + 1] = [True] * (end - start)
        start = end + 1
    return inside, is_one_over


def _end_of_fence(rows: Sequence[str], start: int, begins: Sequence[int] = ()) -> int | None:
    """The line that ends the fence which opens on this one; None where none does."""
    if match := _FENCE.search(rows[start]):
        return _end_of_outer(rows, start, match["fence"], begins)
    for quotes, opens, closes in _QUOTES:
        if rows[start].count(quotes) % 2 and opens.search(rows[start]):
            later = (
                i
                for i in range(start + 1, len(rows))
                if rows[i].count(quotes) % 2 and closes.search(rows[i])
            )
            return next(later, None)
    return None


def _end_of_outer(rows: Sequence[str], start: int, fence: str, begins: Sequence[int]) -> int | None:
    """The end of a fence in which others may open, with the names of languages.

    None opens inside where something has begun, unless the fence is around all that begins.
    """
    depth = 1
    opened: int | None = None  # the first inside
    first: int | None = None  # the first end
    for number in range(start + 1, len(rows)):
        row = rows[number].strip()
        if not row.startswith(fence):
            continue
        if _NAMED_FENCE.fullmatch(row):
            depth += 1
            opened = opened or number
        elif not row.strip(fence[0]):
            depth -= 1
            first = first or number
            if not depth:
                passed = [place for place in begins if start < place < number]
                if opened is None or passed in ([], list(begins)):
                    return number
                break
    if first is None or any(start < place < first for place in begins):
        return None
    return first


@cache
def _pattern(headings: Headings, any_case: bool) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """The words of headings, English and as given, and a whole line that begins with one."""
    flags = re.IGNORECASE if any_case else 0
    words = []
    for name in _NAMES:
        english, given = getattr(ENGLISH, name), getattr(headings, name)
        spellings = {english, english.upper(), english.title(), given, given.upper()}
        longest_first = sorted(spellings, key=lambda word: (-len(word), word))
        words.append(f"(?P<{name}>{'|'.join(map(re.escape, longest_first))})")
    han, english = "".join(_HAN), "|".join(_WORDS)
    line = re.compile(
        rf"{_MARKS}(?P<open>{_EMPHASIS})"
        rf"(?:[(（]?(?P<before>{_DIGITS})\\?\s?{_CLOSE}+(?:{_EMPHASIS}\s+)?{_MARKS})?(?P<open2>{_EMPHASIS})"
        rf"(?P<left>[\[【「『〔])?\s*(?:{'|'.join(words)})(?![^\W\d_{han}])"
        rf"(?P<number>\s*(?:No\.?\s?)?[#№(（]?(?P<after>{_DIGITS}|[{han}]|(?:{english})\b)[)）]?)?(?P<right>(?(left)\s*[\]】」』〕]))"
        rf"(?:\s?[(（][^()（）]{{0,40}}[)）])?(?P<close>{_EMPHASIS})"
        rf"\s*(?P<colon>[:：﹕︓]|(?(number)[.．、)–—-](?=\s|$)|(?!)))?(?P<close2>{_EMPHASIS})"
        rf"(?P<rest>.*)",
        flags,
    )
    return re.compile("|".join(words), flags), line
