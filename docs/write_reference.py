"""Write the pages that say what the code and the benchmarks say.

commands.md, configuration.md, reasons.md and benchmarks.md are written as a whole, of other pages
the measured numbers. ``make docs`` runs it, and tests/docs/test_reference.py fails while a page
says something else than the classes, the reasons, the verbs or the results do.
"""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import write_benchmarks
from pydantic.fields import FieldInfo

from ray_si.config import Generator, RunConfig
from ray_si.config.scores import KINDS
from ray_si.config.sections.base import Section
from ray_si.report.reasons import REASONS
from ray_si.training.config import Evaluation, Training

ROOT = Path(__file__).parents[1]

CONFIGURATION = """\
# Configuration

Every key, its values, its default and its meaning, written by `make docs` from the classes that
check them. Unknown keys are refused, with the nearest right one. On the command line a key is set
by its dotted name: `--set generator.replicas=2`. Examples are in [configs/](../configs).
"""

REASON_CODES = """\
# Reasons of rejections

Every rejected instruction and instance is kept with one of these codes, and with the text it came
too close to and the score where that is the reason. Written by `make docs` from what the report
explains.

| code | meaning |
| --- | --- |
"""

COMMANDS = """\
# Commands

What `ray-si VERB --help` says, written by `make docs`. Exit statuses are in
[runs.md](runs.md#exit-statuses).
"""

CHAPTERS = (
    (
        "A run",
        "For `ray-si build`, `check`, `preview`, `estimate`, `submit` and `loop`.",
        RunConfig,
    ),
    ("Fine-tuning", "For `finetune`, as `--config FILE` and `--set`.", Training),
    ("Evaluation", "For `evaluate`, as `--config FILE` and `--set`.", Evaluation),
)

SCORES = """\
## Scores

For `ray-si score`: in the section `scores` of the run's configuration or of `--config FILE`, or as
`--set NAME.KEY=VALUE`. What they mean is in [scores.md](scores.md).
"""

BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
HEAD = ("| key | values | default | meaning |", "| --- | --- | --- | --- |")
MANY_WORDS = 8
"""Default texts of more words than this are named, not shown."""

NONE: Mapping[str, Any] = {}
Shown = dict[type, tuple[str, Mapping[str, Any]]]
"""By class, the key of the section that is shown, and its defaults."""


def pages() -> dict[str, str]:
    """Path in this repository -> Markdown."""
    parts = [CONFIGURATION]
    for title, use, section in CHAPTERS:
        parts += [f"## {title}\n\n{use}\n", *_tables(section, "", {})]
    parts.append(SCORES)
    for kind, score in KINDS.items():
        parts.append(f"### Kind `{kind}`\n\n{_text(score.__doc__)}\n")
        parts += _tables(
            score, "scores.NAME.", {Generator: ("generator.", Generator().model_dump())}
        )
    codes = "".join(f"| `{code}` | {_text(meaning)} |\n" for code, meaning in REASONS.items())
    written = {
        "docs/commands.md": COMMANDS + _commands(),
        "docs/configuration.md": "\n".join(parts),
        "docs/reasons.md": REASON_CODES + codes,
        "docs/benchmarks.md": write_benchmarks.page(),
    }
    for page, templates in write_benchmarks.sentences().items():
        text = (ROOT / page).read_text(encoding="utf-8")
        written[page] = write_benchmarks.filled(text, templates)
    return written


def _commands() -> str:
    """Typer's own pages of all verbs, without its table of contents; examples as blocks."""
    command = [sys.executable, "-m", "typer", "ray_si.cli", "utils", "docs", "--name", "ray-si"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    text = html.unescape(done.stdout)
    verbs = text[text.index("\n## ") :]
    return re.sub(r"\[b\](Examples?)\[/b\]\n\n(.*?)\n*(?=\n## |\Z)", _examples, verbs, flags=re.S)


def _examples(match: re.Match[str]) -> str:
    lines = "\n".join(line for line in match[2].splitlines() if line)
    return f"{match[1]}:\n\n```sh\n{lines}\n```\n"


def _tables(
    section: type[Section], prefix: str, shown: Shown, usual: Mapping[str, Any] = NONE
) -> Iterator[str]:
    """The table of a section, then those of the sections in it; a class is shown once.

    ``usual`` has the section's defaults where they are others than its class's.
    """
    shown[section] = prefix, usual
    rows, inner = [], []
    for name, field in section.model_fields.items():
        part, key = _section_of(field.annotation), prefix + name
        if part is None:
            default = _default(field, usual.get(name, field.get_default(call_default_factory=True)))
            rows.append((key, _values(field), default, _text(field.description)))
            continue
        values = field.default.model_dump() if isinstance(field.default, Section) else NONE
        if part not in shown:
            inner.append((part, key, _text(field.description), values))
            shown[part] = key, values
        else:
            first, others = shown[part]
            same = f"A section like `{first.rstrip('.')}`."
            text = " ".join(filter(None, (_text(field.description), same)))
            default = "needed" if field.is_required() else _changes(values, others)
            rows.append((key, "section", default, text))
    if rows:
        lines = [f"| `{key}` | {v} | {default} | {text} |" for key, v, default, text in rows]
        yield "\n".join([*HEAD, *lines]) + "\n"
    for part, key, use, values in inner:
        yield f"### `{key}`\n\n{' '.join(filter(None, (_text(part.__doc__), use)))}\n"
        yield from _tables(part, f"{key}.", shown, values)


def _section_of(annotation: Any) -> type[Section] | None:
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None


def _values(field: FieldInfo) -> str:
    """What a key may be, such as "whole number ≥ 1"; the bounds pydantic checks included."""
    bounds = [
        f"{sign} {getattr(bound, name):g}"
        for bound in field.metadata
        for name, sign in BOUNDS.items()
        if hasattr(bound, name)
    ]
    kind, none, _ = _kind(field.annotation).partition(" or none")
    values = " ".join(filter(None, (kind, ", ".join(bounds))))
    return f"{values} or none" if none else values


def _kind(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        kinds = [_kind(argument) for argument in arguments if argument is not type(None)]
        return " or ".join(kinds + ["none"] * (type(None) in arguments))
    if origin in (tuple, list):
        return f"list of {_kind(arguments[0])}"
    if origin is dict or annotation is dict:
        return "mapping"
    return {bool: "true, false", int: "whole number", float: "number", str: "text"}[annotation]


def _default(field: FieldInfo, value: Any) -> str:
    if field.is_required():
        return "needed"
    if isinstance(value, tuple) and sum(len(str(item).split()) for item in value) > MANY_WORDS:
        return "the paper's"
    return "none" if value is None else f"`{json.dumps(value, ensure_ascii=False)}`"


def _changes(values: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    """A default section's values where they differ from those of the one that is shown."""
    if not values:
        return "none"
    changed = {name: value for name, value in values.items() if value != others[name]}
    return f"`{json.dumps(changed)}`" if changed else "the same"


def _text(description: str | None) -> str:
    """One line, without the marks of docstrings that Markdown has not."""
    return " ".join((description or "").split()).replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    for name, text in pages().items():
        (ROOT / name).write_text(text, encoding="utf-8")
