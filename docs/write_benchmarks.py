"""Write what was measured: benchmarks.md, and the sentences of other pages that have a number.

Everything comes from the results in benchmarks/. `write_reference.py` calls this, and
tests/docs/test_reference.py fails while a page says something else.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import jinja2

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
ELSEWHERE = {
    "capacity": "[How large](capacity.md)",
    "quickstart_rows": "[The quick start's rows](instances.md#the-quick-starts-rows)",
}
"""Results that other pages show."""

NUMBER = r"([\d.,]*\d)"


def sentences() -> dict[str, list[str]]:
    """Page -> its sentences with a measured number, as templates, from sentences.jinja."""
    found: dict[str, list[str]] = {}
    for paragraph in (FOLDER / "sentences.jinja").read_text("utf-8").split("\n\n"):
        if paragraph.startswith("page: "):
            page = paragraph.removeprefix("page: ").strip()
        elif not paragraph.startswith("#"):
            found.setdefault(page, []).append(" ".join(paragraph.split()))
    return found


def results() -> dict[str, Any]:
    """Name of a result -> what it holds; ``loop_`` for loop.json, a word of the templates' own."""
    found = sorted((ROOT / "benchmarks").glob("*.json"))
    named = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in found}
    return named | {"loop_": named["loop"]}


def digits(value: float, count: int = 3) -> str:
    """A number with so many significant digits, its thousands set apart."""
    places = count - 1 - math.floor(math.log10(abs(value))) if value else 0
    return f"{round(value, places):,.{max(0, places)}f}"


def whole(value: str | float) -> str:
    return f"{int(value):,}"


def percent(share: float, places: int = 0) -> str:
    return f"{100 * share:.{places}f} %"


def interval(score: dict[str, float]) -> str:
    """A mean and its interval."""
    return f"{score['mean']:.1f} [{score['low']:.1f}, {score['high']:.1f}]"


def source(name: str) -> str:
    script = f"benchmarks/{name}.py"
    return f"[{script}](../{script}), [result](../benchmarks/{name}.json)"


def environment() -> jinja2.Environment:
    """Templates whose words are the results; a word that there is not is an error."""
    made = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    made.filters.update(digits=digits, whole=whole, percent=percent)
    made.globals.update(results(), interval=interval, source=source)
    return made


def page() -> str:
    """benchmarks.md, from benchmarks.jinja; a result without a section is named at the end."""
    text = environment().from_string((FOLDER / "benchmarks.jinja").read_text("utf-8")).render()
    text = re.sub(r" +$", "", text, flags=re.M)
    names = [
        name for name in results() if f"benchmarks/{name}.json" not in text and name != "loop_"
    ]
    lines = [
        f"- {ELSEWHERE.get(name, f'`{name}`')}: [result](../benchmarks/{name}.json)\n"
        for name in names
    ]
    return f"{text}\n## Results shown elsewhere\n\n{''.join(lines)}"


def filled(text: str, templates: list[str]) -> str:
    """A page's text with the numbers of its sentences as they were measured; line breaks stay.

    ValueError where a sentence is not in the text.
    """
    words = environment()
    for sentence in templates:
        match = pattern(sentence).search(text)
        if match is None:
            raise ValueError(f"no such sentence: {sentence}")
        numbers = [words.from_string(part).render() for part in _parts(sentence)[1::2]]
        for place, number in reversed(list(enumerate(numbers, 1))):
            text = text[: match.start(place)] + number + text[match.end(place) :]
    return text


def pattern(sentence: str) -> re.Pattern[str]:
    """Finds a sentence in a page, whatever white space is between its words; a group a number."""
    words = (
        NUMBER if place % 2 else r"\s+".join(re.escape(word) for word in re.split(r"\s+", part))
        for place, part in enumerate(_parts(sentence))
    )
    return re.compile("".join(words))


def _parts(sentence: str) -> list[str]:
    """Words and the templates of numbers in turn."""
    return re.split(r"({{.*?}})", sentence)
