"""An answer with a numbered list, or a heading -> its items: instructions, or whole tasks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

from ray_si.records import Instance
from ray_si.self_instruct.headings import (
    Heading,
    Headings,
    Line,
    Name,
    Number,
    heading_of,
    item_number,
    lines_of,
    without_deeper,
    without_fences,
)
from ray_si.self_instruct.pairs import is_remark, value_of, without_remark
from ray_si.self_instruct.placeholders import is_placeholder

_BULLET = re.compile(r"\s*([-*+•–]) +(\S.*)")
_EMPHASISED = re.compile(
    r"(?P<mark>\*{1,3})(?P<said>[^*\s](?:[^*]*[^*\s])?)(?P=mark)"
    r"(?P<colon>[:：]| [-–—](?= ))?(?P<space>\s*)(?P<rest>[^\s*].*|)"
)
_SMALL = frozenset("a an and at by for from in of on or the to vs with &".split())


@dataclass
class Item:
    """What a list holds, item or not; ``reason`` says why it is no item."""

    text: str
    reason: str | None = None
    instance: Instance | None = None


@dataclass
class _Open:
    """The item that is being read; ``inner`` is the last number of a list inside it, if any."""

    number: Number | None
    rows: list[str] = field(default_factory=list)
    inner: Number | None = None
    has_ended: bool = False

    @property
    def announces(self) -> bool:
        """Whether what was read so far ends as if a list were to follow."""
        return "".join(self.rows).rstrip(" *_").endswith((":", "："))


def read_list(text: str, *, chat: bool, headings: Headings) -> list[Item]:
    """The items of a numbered list in order, and what else stands there, each with a reason.

    A number begins an item at the start of a line, outside fences, unless it is one of a list
    inside an item: indented, or counting from 1 again below a colon or in another form. An item
    ends at a blank line. Where a ``chat`` has no numbers at all, bullets are as good.

    Reasons: preamble (before the first item of a ``chat``), remark (behind a blank line, or to
    whoever asked), unnumbered (several lines of a chat without number or bullet).
    """
    lines = lines_of(text, headings)
    numbers = [_number(line) for line in lines]
    if not any(numbers):
        opened = lines_of(without_fences(text, headings), headings)
        if any(map(_number, opened)):
            lines, numbers = opened, [_number(line) for line in opened]
    if chat and not any(numbers):
        bullets = [_bullet(line) for line in lines]
        numbers = bullets if sum(map(bool, bullets)) > 1 else numbers
    margin = min(
        (_margin(line) for line, number in zip(lines, numbers, strict=True) if number), default=0
    )
    items: list[Item] = []
    current = None if chat and any(numbers) else _Open(None)
    aside: list[str] = []  # lines of a preamble, or of a remark

    def put_aside() -> None:
        if said := _squeezed(aside, headings):
            items.append(Item(said, "remark" if items or current else "preamble"))
        aside.clear()

    def close() -> None:
        if current and (said := _squeezed(current.rows, headings)):
            items.append(Item(said))

    for line, number in zip(lines, numbers, strict=True):
        if number and not (current and _is_inner(current, number, _margin(line) > margin)):
            close()
            put_aside()
            current = _Open(number, [number.rest])
        elif number:
            assert current
            current.rows.append(line.text)
            current.inner = number
        elif current is None or (current.has_ended and not line.is_blank):
            aside.append(line.text)
        elif line.is_blank:
            current.has_ended |= any(map(str.strip, current.rows)) and not current.announces
        elif line.text[:1].isupper() and is_remark(line.text):
            current.has_ended = True
            aside.append(line.text)
        else:
            current.rows.append(line.text)
    close()
    current = current or _Open(None)
    put_aside()
    if chat and not any(numbers) and sum(bool(line.text.strip()) for line in lines) > 1:
        return [replace(item, reason=item.reason or "unnumbered") for item in items]
    return items


def read_marked(text: str, *, headings: Headings) -> list[Item] | None:
    """What stands behind the last heading of an instruction, up to the next heading, as a list.

    An input below it is left out (further_pair). None where there is no such heading.
    """
    lines = lines_of(text, headings)
    marked = [
        place
        for place, line in enumerate(lines)
        if line.heading and line.heading.name == "instruction"
    ]
    if not marked:
        return None
    heading, rows = lines[marked[-1]].heading, lines[marked[-1] + 1 :]
    assert heading
    end = next((place for place, line in enumerate(rows) if line.heading), len(rows))
    behind, further = [line.text for line in rows[:end]], rows[end:]
    items = read_list("\n".join([heading.rest, *behind]), chat=False, headings=headings)
    if _has_input(further):
        text = _squeezed([line.text for line in further], headings)
        items.append(Item(text, "further_pair"))
    return items


def _has_input(lines: Sequence[Line]) -> bool:
    """Whether these lines hold an input, which may say that there is none."""
    for place, line in enumerate(lines):
        if line.heading and line.heading.name == "input":
            below = takewhile(lambda line: not line.heading, lines[place + 1 :])
            return not is_placeholder(value_of([line.heading.rest, *(one.text for one in below)]))
    return False


def _number(line: Line) -> Number | None:
    """The number of an item that begins on this line: "9.", "Task 9:" and the like."""
    if line.in_fence:
        return None
    heading = line.heading
    if heading and heading.name in ("task", "instruction") and heading.number is not None:
        return Number(heading.number, heading.name, heading.rest)
    return item_number(line.text)


def _bullet(line: Line) -> Number | None:
    """A bullet in place of the number of an item."""
    match = None if line.in_fence else _BULLET.fullmatch(line.text)
    return Number(0, match[1], match[2]) if match else None


def _margin(line: Line) -> int:
    return len(line.text) - len(line.text.lstrip())


def _is_inner(item: _Open, number: Number, is_indented: bool) -> bool:
    """Whether a number goes on, or begins, a list inside the item instead of the list itself."""
    outer, inner = item.number, item.inner
    goes_on = outer is not None and number.value == outer.value + 1
    is_other_form = outer is not None and number.form != outer.form
    if inner is not None and number.value == inner.value + 1:
        return is_indented or not goes_on or (is_other_form and number.form == inner.form)
    if is_indented:
        return not goes_on or item.announces
    begins = number.value == 1 and any(map(str.strip, item.rows))
    return begins and (item.announces or is_other_form)


def _squeezed(rows: Sequence[str], headings: Headings) -> str:
    """Lines as one, without what decorates it as a whole."""
    text = _undecorated(" ".join(" ".join(rows).split()))
    while title := _title(text, headings):
        text = _undecorated(title.rest)
    return text


def _undecorated(text: str) -> str:
    """A line without emphasis of the whole, or half an emphasis."""
    if text.strip("*_ ") == text:
        return text
    text = value_of([text])
    for mark in ("***", "**", "__", "*", "_"):
        inner = text[len(mark) : -len(mark)]
        if text == f"{mark}{inner}{mark}" and inner and mark not in inner:
            return inner.strip()
    return _untitled(text)


def _untitled(text: str) -> str:
    """A line without emphasis of its beginning, or all of that where it is a title: **Rural Life**:

    A title has two words or more, all with capitals.
    """
    match = _EMPHASISED.fullmatch(text)
    if match is None:
        return text
    words = match["said"].rstrip(":： ").split()
    has_colon = match["colon"] or match["said"].endswith((":", "："))
    is_title = len(words) > 1 and all(word[0].isupper() or word in _SMALL for word in words)
    if has_colon and is_title and match["rest"]:
        return match["rest"]
    return f"{match['said']}{match['colon'] or ''}{match['space']}{match['rest']}"


def _title(text: str, headings: Headings) -> Heading | Number | None:
    """What heads a text on the same line, and something follows."""
    heading = heading_of(text, headings)
    if heading and heading.name in ("task", "instruction"):
        return heading if heading.rest else None
    number = item_number(text)
    return number if number and number.rest else None


def read_tasks(text: str, *, chat: bool, headings: Headings) -> list[Item]:
    """The tasks of an answer, each with the instance that came with it, if one did.

    A task begins at the heading of its instruction (at a number, where there is no such heading);
    its input and output have headings of their own. Without a ``chat`` an output ends at a blank
    line, as in the prompt. Reasons: preamble, second_input, further_pair (what follows a second
    heading), remark (behind the last).
    """
    lines = _outermost(lines_of(text, headings))
    if not any(line.heading and line.heading.name == "instruction" for line in lines):
        lines = _numbers_as_instructions(lines)
    begins = any(line.heading and line.heading.name == "instruction" for line in lines)
    is_preamble = chat and begins
    items: list[Item] = []
    parts: dict[str, list[str]] = {"instruction": []}
    part = parts["instruction"]
    flaw: str | None = None
    surplus: list[str] = []

    def close() -> None:
        if said := _squeezed(parts["instruction"], headings):
            reason = "preamble" if is_preamble else flaw
            items.append(Item(said, reason, None if reason else _instance(parts, chat)))
        if further := _squeezed(surplus, headings):
            items.append(Item(further, "further_pair"))
        surplus.clear()

    for place, line in enumerate(lines):
        heading = line.heading
        name = heading.name if heading else None
        if heading is None:
            if not _heads_task(lines, place):
                part.append(line.text)
        elif name == "instruction":
            close()
            is_preamble, flaw = False, None
            parts = {"instruction": [heading.rest]}
            part = parts["instruction"]
        elif name in ("input", "output"):
            if "output" in parts:
                part = surplus
                part.append(line.text)
            elif name in parts:
                flaw, part = "second_input", []
            else:
                part = parts[name] = [heading.rest]
        elif not _heads_task(lines, place):
            part.append(line.text)
    last, remark = without_remark(value_of(part)) if chat else ("", "")
    if remark:
        part[:] = last.split("\n")
    close()
    return [*items, Item(_squeezed([remark], headings), "remark")] if remark else items


def _instance(parts: dict[str, list[str]], chat: bool) -> Instance | None:
    output = value_of(parts.get("output", []))
    if not chat:
        output = output.partition("\n\n")[0]
    input_ = value_of(parts.get("input", []))
    return Instance("" if is_placeholder(input_) else input_, output.strip()) if output else None


def _outermost(lines: Sequence[Line]) -> list[Line]:
    """The lines with only those headings of each kind that stand furthest left."""
    leftmost: dict[Name, Heading] = {}
    for line in lines:
        if heading := line.heading:
            known = leftmost.setdefault(heading.name, heading)
            leftmost[heading.name] = min(known, heading, key=lambda one: one.column)
    return without_deeper(lines, leftmost)


def _numbers_as_instructions(lines: Sequence[Line]) -> list[Line]:
    """The lines with numbers as beginnings of tasks, where an input or output is next to come."""
    changed = list(lines)
    is_open = False  # an input that still needs its output
    for place, line in enumerate(lines):
        if line.heading and line.heading.name in ("input", "output"):
            is_open = line.heading.name == "input"
        number = _number(line)
        if number and not is_open and _next_beginning(lines, place) in ("input", "output"):
            heading = Heading("instruction", number.value, number.rest, 0)
            changed[place] = replace(line, heading=heading)
    return changed


def _next_beginning(lines: Sequence[Line], place: int) -> str | None:
    """What begins next: "number", or the heading of that name."""
    for line in lines[place + 1 :]:
        if line.heading and line.heading.name in ("input", "output"):
            return line.heading.name
        if _number(line):
            return "number"
    return None


def _heads_task(lines: Sequence[Line], place: int) -> bool:
    """Whether a line is the number or title of the task whose instruction is next."""
    line = lines[place]
    number = None if line.in_fence else item_number(line.text)
    heading = line.heading
    if heading and heading.rest and heading.name != "task":
        return False
    if not (heading or (number and not number.rest)):
        return False
    later = (line for line in lines[place + 1 :] if not line.is_blank)
    following = next(later, Line("")).heading
    return following is not None and following.name == "instruction"
