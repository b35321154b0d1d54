"""What a reasoning model thinks aloud before it answers, told from the answer by its tags."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

Tag = str | tuple[str, str]
"""A name, written as <name>...</name>, [NAME]...[/NAME] and the like, or what opens and closes."""

TAGS: tuple[Tag, ...] = (
    "think",
    "thinking",
    "thought",
    "thoughts",
    "reasoning",
    "reflection",
    "scratchpad",
    "analysis",
    "thought_process",
    "inner_monologue",
    "seed:think",
    "longcat_think",
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
"""Those that published models write."""

_PLAIN_WORDS = {
    *("thought", "thoughts", "reasoning", "reflection", "scratchpad", "analysis"),
    *("thought_process", "inner_monologue"),
}
"""Tags that content may have as well: they open a thought at the beginning of a completion only."""

_FENCE = re.compile(r"^[^\S\n]*(```|~~~).*?^[^\S\n]*\1", re.DOTALL | re.MULTILINE)
_BRACKETS = (("<", ">"), ("[", "]"), ("<|", "|>"), ("◁", "▷"))
_WRAPPED = re.compile(r"\s*<(answer|response)>\s*\n?(.*?)\s*(?:</\1>\s*)?", re.S | re.I)


@dataclass(frozen=True)
class Thoughts:
    """A completion taken apart.

    ``thought`` is "" where there is none; ``is_finished`` is False where one was never closed:
    then ``answer`` is what stands before it.
    """

    answer: str
    thought: str = ""
    is_finished: bool = True


def split_thoughts(text: str, tags: Sequence[Tag] = TAGS) -> Thoughts:
    """Take the thoughts out of a completion.

    A thought begins where its tag stands at the start of a line (of the completion, for tags that
    are plain words), and ends with the next closing one of the same kind. One that closes what was
    never opened (chat templates often hold the opening tag) ends a thought that began with the
    completion. Tags in backticks or quotes, and pairs of them in a fence, are text.
    An answer that is wrapped in <answer> as a whole is unwrapped where a thought precedes it.
    """
    if not mentions_thought(text, tags):
        return Thoughts(text)
    thoughts: list[str] = []
    finished = True
    for opening, anywhere, closing in _patterns(tuple(tags)):
        start = 0
        while opened := opening.search(text, start):
            closed = closing.search(text, opened.end())
            end, until = closed.span() if closed else (len(text), len(text))
            if any(f.start() < opened.start() and until < f.end() for f in _FENCE.finditer(text)):
                start = until
                continue
            thoughts.append(text[opened.end() : end])
            text = text[: opened.start()] + text[until:]
            finished = finished and closed is not None
            start = opened.start()
        spoken = anywhere.search(text)
        before = text[: spoken.start()] if spoken else text
        if closings := list(closing.finditer(before)):
            thoughts.append(text[: closings[-1].start()])
            text = text[closings[-1].end() :]
    if not thoughts:
        return Thoughts(text)
    if wrapped := _WRAPPED.fullmatch(text):
        text = wrapped[2]
    thought = "\n\n".join(part.strip() for part in thoughts if part.strip())
    return Thoughts(text, thought, finished)


def mentions_thought(text: str, tags: Sequence[Tag] = TAGS) -> bool:
    """Whether a tag stands anywhere in a text, such as a chat template."""
    pattern = _any_tag(tuple(tags))
    return bool(pattern.pattern and pattern.search(text))


@cache
def _any_tag(tags: tuple[Tag, ...]) -> re.Pattern[str]:
    spellings = [spelling for pair in _spellings(tags) for spelling in pair]
    return re.compile("|".join(spellings), re.IGNORECASE)


@cache
def _patterns(tags: tuple[Tag, ...]) -> list[tuple[re.Pattern[str], ...]]:
    """What opens a thought, the same anywhere, and what closes it, for each spelling of a tag."""
    return [
        (
            re.compile(
                rf"\A\s*{opening}" if tag in _PLAIN_WORDS else rf"^[^\S\n]*{opening}",
                re.IGNORECASE | re.MULTILINE,
            ),
            re.compile(opening, re.IGNORECASE),
            re.compile(rf"(?<![`\"']){closing}(?![`\"'])", re.IGNORECASE),
        )
        for tag in tags
        for opening, closing in _spellings((tag,))
    ]


def _spellings(tags: tuple[Tag, ...]) -> list[tuple[str, str]]:
    """Patterns of an opening and a closing tag, for each way of writing each tag."""
    pairs = []
    for tag in tags:
        if not isinstance(tag, str):
            pairs.append((re.escape(tag[0]), re.escape(tag[1])))
            continue
        name = re.escape(tag)
        for left, right in _BRACKETS:
            before, after = re.escape(left), re.escape(right)
            pairs.append((rf"{before}\s?{name}\s?{after}", rf"{before}\s?/\s?{name}\s?{after}"))
    return pairs
