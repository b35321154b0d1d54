"""Renders the few-shot prompts in templates/, completion style and chat style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from ray_si.records import Prompt

Style = Literal["completion", "chat"]

LABELS = {"completion": (" classification", " generation"), "chat": ("Yes", "No")}
"""The continuations that are scored for "is it classification?", yes first."""


@dataclass(frozen=True)
class RenderedPrompt:
    """A prompt and the strings at which its completion should end."""

    prompt: Prompt
    stop: tuple[str, ...]


@cache
def _template(name: str) -> str:
    return files(__package__).joinpath("templates", f"{name}.txt").read_text(encoding="utf-8")


def _as_turn(text: str) -> Prompt:
    return [{"role": "user", "content": text.strip()}]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def instruction_prompt(
    demonstrations: Sequence[str],
    *,
    style: Style,
    classification_only: bool = False,
    new: int = 8,
) -> RenderedPrompt:
    """Ask for ``new`` further instructions after the numbered demonstrations.

    Completion style ends with the next number, so the completion begins with its text; it stops
    where the number after the last wanted one would begin. Chat style asks in words.
    """
    kind = "instructions_classification" if classification_only else "instructions"
    numbered = "\n".join(f"{i}. {_one_line(text)}" for i, text in enumerate(demonstrations, 1))
    first, last = len(demonstrations) + 1, len(demonstrations) + new
    text = _template(f"{style}_{kind}").strip()
    text = text.replace("{new}", str(new)).replace("{first}", str(first))
    text = text.replace("{last}", str(last)).replace("{demonstrations}", numbered)
    if style == "chat":
        return RenderedPrompt(_as_turn(text), (f"\n{last + 1}.",))
    return RenderedPrompt(f"{text}\n{first}.", ("\n\n", f"\n{last + 1}.", f"\n{last + 1} ."))


def classification_prompt(instruction: str, *, style: Style) -> RenderedPrompt:
    """Ask whether the instruction is a classification task; one of `LABELS` begins the answer."""
    text = _template(f"{style}_classification").strip()
    text = text.replace("{instruction}", _one_line(instruction))
    return RenderedPrompt(_as_turn(text) if style == "chat" else text, ("\n", "Task:"))


def instance_prompt(
    instruction: str, *, style: Style, output_first: bool = False
) -> RenderedPrompt:
    """Ask for instances of the instruction.

    Input-first writes the input and then the output. Output-first (for classification tasks)
    writes a class label and then an input for it, because models asked for inputs first write
    inputs of one label only (paper, section 2.2).
    """
    text = _template(f"{style}_{'output_first' if output_first else 'input_first'}").strip()
    text = text.replace("{instruction}", _one_line(instruction))
    if style == "chat":
        return RenderedPrompt(_as_turn(text), ())
    return RenderedPrompt(text + "\n", ("\nTask:", "\n\nTask", "\n\n\n"))
