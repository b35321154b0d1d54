"""Super-NaturalInstructions by its own protocol, so that scores can be held against published ones.

Wang et al. 2022 (arXiv 2204.07705) and the code of Tk-Instruct: the test tasks of the official
split, their first 100 instances, the first definition, a fixed wrapper, no or two positive
examples, ROUGE-L and exact match over all instances and by category.
"""

from __future__ import annotations

import json
import os
import string
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from ray_si.errors import TaskError
from ray_si.training.tasks import Example, natural_task

Track = Literal["english", "crosslingual"]

INSTANCES = 100
"""The first ones of a task are its test instances."""

MAX_TOKENS = 128
"""Longest answer of the official runs."""

CATEGORIES = (
    "Textual Entailment",
    "Cause Effect Classification",
    "Coreference Resolution",
    "Dialogue Act Recognition",
    "Answerability Classification",
    "Word Analogy",
    "Overlap Extraction",
    "Keyword Tagging",
    "Question Rewriting",
    "Title Generation",
    "Data to Text",
    "Grammar Error Correction",
)
"""Those of the test tasks."""


def test_tasks(track: Track) -> list[str]:
    """Names of the official split's test tasks: 119 in English, 35 in other languages."""
    text = files("ray_si").joinpath("data", "super_ni_test_tasks.json").read_text("utf-8")
    names: list[str] = json.loads(text)[track]
    return names


def load_super_ni(folder: str, track: Track, *, positive_examples: int) -> list[Example]:
    """The test instances in the published folder, or in its ``tasks``, wrapped as prompts.

    Raises TaskError in one line where it is not a folder of the published version's test tasks.
    """
    place = Path(os.path.expanduser(folder))
    if (place / "tasks").is_dir():
        place /= "tasks"
    if not place.is_dir():
        raise TaskError(f"{folder} is not a folder of Super-NaturalInstructions tasks (*.json)")
    names = test_tasks(track)
    missing = [name for name in names if not (place / f"{name}.json").is_file()]
    if len(missing) == len(names):
        raise TaskError(
            f"{folder} holds none of the {len(names)} test tasks of the {track} track: tasks of a "
            "training split, or no Super-NaturalInstructions"
        )
    if missing:
        raise TaskError(
            f"{folder} lacks {len(missing)} of the {len(names)} test tasks of the {track} track, "
            f"such as {missing[0]}: another version?"
        )
    return [
        example
        for name in names
        for example in _examples(place / f"{name}.json", positive_examples)
    ]


def _examples(path: Path, positive_examples: int) -> list[Example]:
    task, instances = natural_task(path)
    category = next(iter(task.get("Categories") or ()), None)
    shown = task.get("Positive Examples")
    if category not in CATEGORIES or not isinstance(shown, list):
        raise TaskError(
            f"{path} is of another version of Super-NaturalInstructions: its category is "
            f"{category!r}"
        )
    for example in shown[:positive_examples]:
        if not all(isinstance(example.get(name), str) for name in ("input", "output")):
            raise TaskError(f"{path}: a positive example must have an input and an output")
    definition = task["Definition"]
    first = definition if isinstance(definition, str) else definition[0]
    return [
        replace(
            example,
            instruction=first,
            category=category,
            prompt=wrapped(first, shown[:positive_examples], example.instance.input),
        )
        for example in instances[:INSTANCES]
    ]


def wrapped(definition: str, shown: Sequence[dict[str, Any]], input_: str) -> str:
    """The prompt of the official code, word for word, without the space at its end."""
    parts = [f"Definition: {_ended(definition)}\n\n"]
    for number, example in enumerate(shown, 1):
        parts.append(f" Positive Example {number} -\n")
        parts.append(f"Input: {_ended(example['input'])}\n")
        parts.append(f" Output: {_ended(example['output'])}\n\n")
    # an empty text leaves "Input: ", whose last character the official code looks at
    return (
        "".join(parts) + f"Now complete the following example -\nInput: {_ended(input_)}\nOutput:"
    )


def _ended(text: str) -> str:
    """A text that ends in punctuation, as the official code has it."""
    text = text.strip()
    return text if text and text[-1] in string.punctuation else f"{text}."
