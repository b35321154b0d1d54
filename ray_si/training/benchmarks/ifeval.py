"""IFEval: prompts with instructions that a program can check, such as a number of words.

Zhou et al. 2023 (arXiv 2311.07911), with the checks as lm-evaluation-harness keeps them: strict,
and loose, by which an answer passes too without its first line, its last, or asterisks.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ray_si.errors import EngineError, TaskError
from ray_si.records import Instance
from ray_si.training.scores import Measure
from ray_si.training.tasks import Example, json_lines

MAX_TOKENS = 1280
"""Longest answer of the harness."""

PROMPTS = 541
"""In the published file."""

_METRICS = {
    "prompt_strict": ("prompt_level_strict_acc", "prompts followed"),
    "instruction_strict": ("inst_level_strict_acc", "instructions followed"),
    "prompt_loose": ("prompt_level_loose_acc", "prompts, loose"),
    "instruction_loose": ("inst_level_loose_acc", "instructions, loose"),
}
"""Metric -> its name in the harness, and title."""


def load_ifeval(path: str) -> list[Example]:
    """The prompts of the published file (input_data.jsonl), each a task of its own.

    Raises TaskError with file and line for anything else, EngineError where a check that they need
    cannot be made here.
    """
    known = _checks().instructions_registry.INSTRUCTION_DICT
    examples = [
        _example(row, where, known) for row, where in json_lines(Path(os.path.expanduser(path)))
    ]
    if len(examples) != PROMPTS:
        raise TaskError(f"{path} holds {len(examples)} prompts and IFEval {PROMPTS}")
    return examples


def followed() -> Measure:
    """Which share of prompts was followed in all, and which of their instructions.

    Raises EngineError where the checks are not installed.
    """
    checks = _checks()

    def score(example: Example, answer: str) -> dict[str, list[float]]:
        found = checks.process_results(example.checked, [answer])
        return {
            metric: [float(part) for part in value] if isinstance(value, list) else [float(value)]
            for metric, value in ((metric, found[name]) for metric, (name, _) in _METRICS.items())
        }

    return Measure({metric: title for metric, (_, title) in _METRICS.items()}, score)


def _checks() -> Any:
    """The harness's module; it would look for what is missing on the internet."""
    missing = [
        name for name in ("lm_eval", "langdetect", "immutabledict") if find_spec(name) is None
    ]
    if missing:
        raise EngineError(f"IFEval needs {', '.join(missing)}: pip install 'ray_si[ifeval]'")
    import langdetect
    import nltk

    langdetect.DetectorFactory.seed = 0  # it draws, and would not say the same twice
    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError as error:
        raise EngineError(
            "IFEval counts sentences with a file of nltk's: python -m nltk.downloader punkt_tab"
        ) from error
    from lm_eval.tasks.ifeval import utils

    return utils


def _example(row: dict[str, Any], where: str, known: Any) -> Example:
    """One line of the file."""
    prompt, ids, options = (row.get(k) for k in ("prompt", "instruction_id_list", "kwargs"))
    if not isinstance(prompt, str) or not isinstance(ids, list) or not isinstance(options, list):
        raise TaskError(f"{where}: not a prompt of IFEval (prompt, instruction_id_list, kwargs)")
    if not ids or len(ids) != len(options) or not all(isinstance(o, dict) for o in options):
        raise TaskError(f"{where}: each instruction must have its kwargs")
    if unknown := [id_ for id_ in ids if id_ not in known]:
        raise TaskError(f"{where}: there is no check {unknown[0]!r} here")
    key = str(row.get("key", where))
    checked = {"key": key, "prompt": prompt, "instruction_id_list": ids, "kwargs": options}
    return Example(key, key, prompt, Instance("", ""), ("",), checked=checked)
