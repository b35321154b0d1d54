"""An answer with instances -> inputs and outputs, and what could not be read, with reasons."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ray_si.records import Instance
from ray_si.self_instruct.headings import (
    Heading,
    Headings,
    Line,
    Name,
    item_number,
    lines_of,
    without_deeper,
    without_fences,
)
from ray_si.self_instruct.placeholders import is_placeholder

Read = tuple[Instance, str | None]
"""An instance, or what was written instead of one and the reason why it is none."""

_PAIR = ("input", "output", "label")
_REMARK = re.compile(
    r"(?:please )?(?:let me know|feel free|i hope|hope (?:this|that|these)|would you like|"
    r"do you want|if you (?:need|want|would like|'d like|have any)|these (?:examples|tasks|are)|"
    r"note that these|i can (?:also )?(?:write|give|provide|add)|(?:is|are) there any(?:thing)? )"
    r".*\b(?:more|help\w*|else|another|other|further|additional|adjust\w*|modif\w*|changes?|"
    r"questions?|examples?|tasks?|instructions?)\b.*",
    re.IGNORECASE,
)
_REMARK_ELSEWHERE = re.compile(
    r"(?:希望|如果您|如果你|如需|请告诉我|ich hoffe|lassen sie mich|lass mich wissen|"
    r"wenn (?:sie|du)|j'espère|n'hésite|si vous|si tu|espero que|"
    r"si necesita|avísame|надеюсь|если вам|если нужн|ご参考|お役に立て|他に).*[!！.。?？]",
    re.IGNORECASE,
)
"""The same in other languages."""

_LETTER = re.compile(
    r"(?:subject\s*:.*\n+)?(?:dear|hi|hello|hey|greetings|good (?:morning|afternoon|evening))\b"
    r"[^\n.?]{0,60}\n",
    re.IGNORECASE,
)
"""How a letter begins, whose last paragraph may speak so as well."""

_OF_ANSWER = re.compile(r"\b(?:inputs?|outputs?|examples?|tasks?|instructions?)\b", re.IGNORECASE)


@dataclass
class _Section:
    """What stands between the beginnings of two examples."""

    is_headed: bool = False
    is_labelled: bool = False
    before: list[str] = field(default_factory=list)  # any heading
    input: list[str] | None = None
    output: list[str] | None = None
    surplus: list[str] = field(default_factory=list)  # a pair too many
    has_second_input: bool = False


def is_remark(text: str) -> bool:
    """Whether a paragraph speaks to whoever asked, after the answer."""
    text = text.strip(" *_")
    return bool(_REMARK.fullmatch(text) or _REMARK_ELSEWHERE.fullmatch(text))


def read_pairs(
    text: str, *, output_first: bool, headings: Headings, is_cut_off: bool = False
) -> list[Read]:
    """The instances of an answer, in order, and what else it holds, each with a reason.

    Reasons: no_instance (an answer without headings), preamble, no_output, second_input (before one
    output), further_pair (without a number or heading of its own), another_task (what follows is of
    one), remark, stray_heading (inside an input or output); and unfinished, of the last instance
    where the answer ``is_cut_off``.
    """
    lines = _reading(text, headings, {"label", "output"} if output_first else {"output"})
    if output_first and _label_comes_first(lines):
        sections, other = _by_label(_real(lines, "label"))
    else:
        lines = [_without_label(line, is_output=output_first) for line in lines]
        sections, other = _by_input(_real(lines, "output"))
    has_heads = any(part.input is not None or part.output is not None for part in sections)
    if not has_heads and not any(part.is_headed for part in sections):
        return [(Instance("", text.strip()), "no_instance")] if text.strip() else []
    read: list[Read] = []
    for section in sections:
        is_last = section is sections[-1]
        read += _of_section(section, has_heads, is_last, is_last and is_cut_off)
    return [
        (one, reason or ("stray_heading" if _has_heading(one, headings) else None))
        for one, reason in (*read, *other)
        if reason is None or one.input or one.output
    ]


def _has_heading(instance: Instance, headings: Headings) -> bool:
    """Whether a line of an input or output still begins with the heading of one."""
    return any(
        line.heading and line.heading.name in ("input", "output") and not line.heading.column
        for text in (instance.input, instance.output)
        for line in lines_of(text, headings)
    )


def _reading(text: str, headings: Headings, needed: set[str]) -> list[Line]:
    """The lines as the strictest reading has them that finds a heading that is needed.

    Headings in lower case count where there are no others, and those in fences where all are.
    """
    strictest = lines_of(text, headings)
    if _has(strictest, needed):
        return strictest
    opened = without_fences(text, headings)
    for variant, any_case in ((text, True), (opened, False), (opened, True)):
        lines = lines_of(variant, headings, any_case=any_case)
        if _has(lines, needed):
            return lines
    return strictest


def _has(lines: Sequence[Line], names: set[str]) -> bool:
    return any(line.heading is not None and line.heading.name in names for line in lines)


def _label_comes_first(lines: Sequence[Line]) -> bool:
    names = (line.heading.name for line in lines if line.heading)
    return next((name for name in names if name in ("label", "input")), None) == "label"


def _without_label(line: Line, *, is_output: bool) -> Line:
    """The line with the heading of a label as that of an output, or else as content."""
    if line.heading is None or line.heading.name != "label":
        return line
    if not is_output:
        return replace(line, heading=None)
    rest = line.heading.rest.strip("*_`")
    return replace(line, heading=replace(line.heading, name="output", rest=rest))


def _real(lines: Sequence[Line], main: Name) -> list[Line]:
    """The lines with only those headings that are no content; see `_outermost`.

    An example's heading stands alone on its line with a number, or heads a section that has other
    headings, but not inside an input that still needs its output. Where the answer has pairs, one
    that heads none for certain has to go on counting, or is of a list inside an input or output.
    """
    real = _outermost(lines, main)
    names = [line.heading.name if line.heading else None for line in real]
    before: list[str | None] = [None]  # the heading of a pair or example that precedes each line
    for name in names:
        before.append(name if name in (*_PAIR, "example") else before[-1])
    has_pairs = any(name in _PAIR for name in names)
    doubtful: dict[int, bool] = {}  # headings of examples -> whether only inside an input
    has_text = False
    following = None  # the next heading of a pair in the section that a line begins
    is_numbered = False  # whether that may begin a section itself
    is_next = False  # whether it is the next line that is not blank
    for place in range(len(real) - 1, -1, -1):
        line, name = real[place], names[place]
        if name in _PAIR:
            following, is_next = name, True
            is_numbered = line.heading is not None and line.heading.number is not None
            continue
        if line.is_blank:
            continue
        heading = line.heading if name in ("example", "task") else _bare_number(line)
        if heading is None:
            begins = False
            has_text = True
        elif name is None:
            begins = is_next
        else:
            is_inside = following == main == "output" and before[place] == "input"
            titled = following and not is_inside and (heading.number is not None or name == "task")
            alone = name == "example" and heading.number is not None and not heading.rest
            heads = bool(titled or (is_next and not is_inside))
            begins = alone or heads
            is_bare = alone and has_text and not is_next and (not heads or is_numbered)
            may_be_inside = name == "example" and following == main == "output"
            if has_pairs and (is_bare or may_be_inside):
                doubtful[place] = not is_bare
        has_text = has_text and not begins
        real[place] = replace(line, heading=heading if begins else None)
        following, is_next = None if begins else following, False
    return _counted(real, doubtful)


def _counted(lines: Sequence[Line], doubtful: Mapping[int, bool]) -> list[Line]:
    """The lines with only those ``doubtful`` headings of examples that go on counting the others.

    Where one does not, a list of examples has begun, up to the next heading for certain.
    """
    counted = list(lines)
    last, is_listing, in_input = 0, False, False
    for place, line in enumerate(lines):
        heading = line.heading
        if heading is None:
            continue
        number = heading.number or last + 1
        is_doubtful = place in doubtful and (in_input or not doubtful[place])
        if is_doubtful and (is_listing or number <= last):
            is_listing = True
            counted[place] = replace(line, heading=None)
        elif heading.name == "example":
            last, is_listing, in_input = number, False, False
        elif heading.name in _PAIR:
            last, is_listing, in_input = max(last, 1), False, heading.name == "input"
    return counted


def _outermost(lines: Sequence[Line], main: Name) -> list[Line]:
    """The lines with only those headings of each kind that stand furthest left.

    What comes after the first ``main`` heading only must not stand deeper than it either (the input
    below a label may), nor an example that comes after the first heading of a pair. Of examples the
    first with a number tells how far left they stand, since inputs and outputs may hold others.
    """
    leftmost: dict[Name, Heading] = {}
    first: dict[Name, int] = {}
    for place, line in enumerate(lines):
        if heading := line.heading:
            first.setdefault(heading.name, place)
            known = leftmost.get(heading.name)
            if known and heading.name == "example" and (known.number or heading.number):
                leftmost[heading.name] = known if known.number else heading
            else:
                leftmost[heading.name] = _left(heading, known)
    pair = min((name for name in first if name in _PAIR), key=first.__getitem__, default=main)
    for name in leftmost:
        leading = main if name in _PAIR else pair
        if first[name] > first.get(leading, len(lines)) and (main, name) != ("label", "input"):
            leftmost[name] = _left(leftmost[name], leftmost[leading])
    return without_deeper(lines, leftmost)


def _left(heading: Heading, other: Heading | None) -> Heading:
    return other if other and other.column <= heading.column else heading


def _bare_number(line: Line) -> Heading | None:
    """A line that holds nothing but a number, as the heading of an example."""
    number = None if line.in_fence else item_number(line.text)
    return Heading("example", number.value, "", 0) if number and not number.rest else None


def _by_input(lines: Sequence[Line]) -> tuple[list[_Section], list[Read]]:
    """Sections whose input stands before their output."""
    heads = [line.heading for line in lines if line.heading]
    column = min((head.column for head in heads if head.name == "output"), default=0)
    section = _Section()
    sections, part = [section], section.before
    for place, line in enumerate(lines):
        heading = line.heading
        if heading and heading.name == "input" and heading.column > column and any(section.before):
            heading = None  # inside an input without a heading
        if heading is None:
            part.append(line.text)
            continue
        has_begun = section.input is not None or section.output is not None
        if heading.name == "task" and section.is_headed and not has_begun:
            continue  # the task once more, below the heading of an example
        if heading.name == "task" and any(part.output is not None for part in sections):
            rest = "\n".join(line.text for line in lines[place:])
            return sections, [(Instance("", rest.strip()), "another_task")]
        is_next = heading.number is not None and section.output is not None
        if heading.name in ("example", "task") or (
            is_next and (heading.name == "input" or section.input is None)
        ):
            section = _Section(is_headed=heading.name == "example")
            sections.append(section)
            part = section.before
            if heading.name == "example":
                part.append(heading.rest)
        if heading.name == "input" and section.output is None:
            section.has_second_input |= section.input is not None
            part = section.input = _begin(section.input, line)
        elif heading.name == "output" and section.output is None:
            part = section.output = _begin(None, line)
        elif heading.name in ("input", "output"):
            part = section.surplus
            part.append(line.text)
    return sections, []


def _by_label(lines: Sequence[Line]) -> tuple[list[_Section], list[Read]]:
    """Sections that begin with the output, a class label."""
    section = _Section()
    sections, part = [section], section.before
    column = 0  # of the label
    for place, line in enumerate(lines):
        heading = line.heading
        if heading and heading.name == "input" and heading.column > column and any(section.before):
            heading = None  # inside an input without a heading
        if heading is None:
            if section.output is not None and part is section.output and not _blank(part):
                part = section.before  # what follows the label on lines of its own
            part.append(line.text)
        elif heading.name == "task" and section.output is not None:
            rest = "\n".join(line.text for line in lines[place:])
            return sections, [(Instance("", rest.strip()), "another_task")]
        elif heading.name == "label":
            section = _Section(is_headed=True, is_labelled=True)
            sections.append(section)
            part = section.output = _begin(None, line)
            column = heading.column
        elif heading.name == "input" and section.input is None:
            part = section.input = _begin(None, line)
        elif heading.name == "input":
            part = section.surplus
            part.append(line.text)
        else:  # what heads the next label, or repeats this one
            part = []
    return sections, []


def _begin(before: list[str] | None, line: Line) -> list[str]:
    assert line.heading is not None
    return [*(before or []), line.heading.rest]


def _blank(part: Sequence[str]) -> bool:
    return not any(row.strip() for row in part)


def _of_section(
    section: _Section, has_heads: bool, is_last: bool, is_cut_off: bool
) -> Iterator[Read]:
    """What a section comes to: its instance, if it has one, and what is too much.

    Only what ends the answer can speak to whoever asked.
    """
    before, surplus = value_of(section.before), value_of(section.surplus)
    output, input_ = value_of(section.output or []), value_of(section.input or [])
    if section.input is None and section.output is None:
        if not section.is_headed or has_heads:
            yield Instance("", before), "no_output" if section.is_headed else "preamble"
            return
        output = before  # of a task without inputs, headed by nothing but its number
    elif section.input is None:
        input_, preamble = _unheaded_input(section, before)
        yield Instance("", preamble), "preamble"
    elif not section.is_headed:
        yield Instance("", before), "preamble"
    if section.is_labelled:
        output = output.strip("*_`")
    remark = ""
    if is_last and not surplus:
        if section.is_labelled or (section.output is None and section.input is not None):
            input_, remark = without_remark(input_)
        else:
            output, remark = without_remark(output)
    instance = Instance("" if is_placeholder(input_) else input_, output)
    if is_cut_off and not surplus:
        yield instance, "unfinished"
    elif section.output is None and section.input is not None:
        yield instance, "no_output"
    else:
        yield instance, "second_input" if section.has_second_input else None
    yield Instance("", surplus), "further_pair"
    yield Instance("", remark), "remark"


def _unheaded_input(section: _Section, before: str) -> tuple[str, str]:
    """What stands before an output without a heading: the input, and a preamble before that."""
    if section.is_headed:
        return before, ""
    if before.endswith((":", "：")) or not section.before[-1:] or not section.before[-1].strip():
        return "", before
    preamble, _, last = before.rpartition("\n\n")
    return last.strip(), preamble.strip()


def value_of(rows: Sequence[str]) -> str:
    """The text of these lines, without blank ones and rules around it and half of an emphasis."""
    first, last = 0, len(rows)
    while first < last and Line(rows[first]).is_blank:
        first += 1
    while first < last and Line(rows[last - 1]).is_blank:
        last -= 1
    text = textwrap.dedent("\n".join(rows[first:last])).strip()
    if text.count("**") % 2:
        text = text.removeprefix("**").strip() if text.startswith("**") else text
        text = text.removesuffix("**").strip() if text.count("**") % 2 else text
    return text


def without_remark(text: str, *, strict: bool = False) -> tuple[str, str]:
    """What an answer ends with, and the remark that follows it after a blank line.

    Behind a letter, or where that is ``strict``, it has to speak of examples or tasks.
    """
    rows = text.split("\n")
    blank = max((place for place, row in enumerate(rows) if not row.strip()), default=0)
    last = "\n".join(rows[blank:]).strip()
    if not blank or not is_remark(last):
        return text, ""
    if (strict or _LETTER.match(text)) and not _OF_ANSWER.search(last):
        return text, ""
    return value_of(rows[:blank]), last
