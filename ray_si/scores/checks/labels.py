"""Labels that an instruction offers, and whether the answer is one of them."""

from __future__ import annotations

import re

_WORD = r"[\"'“”‘’]?[\w-]+(?: [\w-]+)?[\"'“”‘’]?"
_LIST = rf"{_WORD}(?:\s*,\s*{_WORD})*,?\s+or\s+{_WORD}"
_OFFERS = (
    re.compile(
        rf"\b(?:classify|label|categori[sz]e|rate|mark|tag)\b[^.?!:\n]{{0,120}}?\bas\s+({_LIST})"
        rf"(?=\s*[.?!:\n]|$)",
        re.I,
    ),
    re.compile(
        r"\b(?:labels|options|choices|classes|categories)\s*(?:are|:)\s*([^.?!\n]{3,200})", re.I
    ),
    re.compile(
        rf"\b(?:answer|reply|respond)\s+(?:only\s+)?(?:with\s+({_LIST})|"
        rf"(yes or no|true or false))(?: only)?(?=\s*[.?!:\n]|$)",
        re.I,
    ),
)
_BETWEEN = re.compile(r"\s*,\s*(?:or\s+|and\s+)?|\s+or\s+|\s+and\s+|\s*/\s*|\s*\|\s*")
_LEAD = re.compile(
    r"^(?:the\s+)?(?:class(?: label)?|label|answer|category|output)(?:\s*:|\s+is:?|(?=\s))\s+", re.I
)
_MARKS = " \t\r\n\"'“”‘’.!:;*`()[]"
_LONGEST = 4
"""Words of an answer beyond which it is an explanation, and not judged."""


def wrong_label(instruction: str, input_: str, output: str) -> str | None:
    """A short answer that is none of the labels that the instruction offers."""
    labels = offered(instruction) or offered(input_)
    answer = _LEAD.sub("", output.strip()).strip(_MARKS).lower()
    if not labels or not answer or len(answer.split()) > _LONGEST:
        return None
    return None if answer in labels else f"{answer!r} is none of {', '.join(labels)}"


def offered(instruction: str) -> list[str]:
    """Labels that the instruction offers, in lower case; none where it offers fewer than two."""
    for pattern in _OFFERS:
        if match := pattern.search(instruction):
            listed = next(filter(None, match.groups()))
            parts = (part.strip(_MARKS).lower() for part in _BETWEEN.split(listed))
            labels = list(dict.fromkeys(filter(None, parts)))
            if len(labels) >= 2:
                return labels
    return []
