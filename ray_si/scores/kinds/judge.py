"""A grade by a language model: expected over all grades, or written."""

from __future__ import annotations

import hashlib
import math
import os
import re
from importlib.resources import files
from pathlib import Path

from ray_si.config.scores import JudgeScore
from ray_si.engines.base import Completion, Request, SamplingParams
from ray_si.errors import ConfigError
from ray_si.records import Prompt
from ray_si.run.ids import score_seed
from ray_si.scores.base import FAILED, Ask, Row, Scored
from ray_si.self_instruct.thoughts import split_thoughts

PLACEHOLDERS = ("instruction", "input", "output")
_IN_BRACES = re.compile(rf"\{{({'|'.join(PLACEHOLDERS)})\}}")
_UNKNOWN = re.compile(r"\{(\w+)\}")
_NUMBER = re.compile(
    r"(?<![\w.])(-?\d+(?:\.\d+)?)"
    r"(?:[\s*_]*(?:/|\bout of\b)[\s*_]*(\d+(?:\.\d+)?))?(?![\w%]|\.\d)"
)
"""A number, and what it is given out of, as in 4/5."""

UNPARSED = "unparsed"
"""Reason of a row whose written grade is none of the grades."""

UNFINISHED = "unfinished"
"""Reason of a row whose judge had no tokens left for the end of its answer, or of its thoughts."""


class Judge:
    """Asks a model for a grade.

    With labels the score is the sum of g p(g) over the grades g, with p normalised over them; they
    stand at the place of the first token, so one forward pass is enough. Where the grade is
    written, the last number of the answer that is a grade counts, alone or out of the highest; what
    the model thought before it does not. A row without one, or whose answer was cut off, has none.
    """

    columns = PLACEHOLDERS

    def __init__(self, settings: JudgeScore) -> None:
        """Raises ConfigError where the prompt cannot be read, or has no place for the output."""
        self.generator = settings.generator
        self._grades, self._by_labels = settings.grades, settings.method == "labels"
        self.version = 1 if self._by_labels else 2
        self._sampling = SamplingParams(
            max_tokens=8 if self._by_labels else settings.max_tokens, temperature=0
        )
        space = "" if self.generator.prompt_style == "chat" else " "
        self._labels = tuple(f"{space}{grade}" for grade in settings.written_grades)
        name = "judge_labels.txt" if self._by_labels else "judge_text.txt"
        self._template = _template(settings.prompt, name)
        self.inputs = {"prompt": hashlib.sha256(self._template.encode()).hexdigest()}

    def trial(self) -> list[Request]:
        """See `AskingScorer`."""
        return [self._request(dict.fromkeys(("id", *PLACEHOLDERS), "x"))]

    async def score(self, row: Row, ask: Ask) -> Scored:
        """See `AskingScorer`."""
        done = await ask(self._request(row))
        if done.finish_reason in ("error", "refused"):
            reason = FAILED if done.finish_reason == "error" else "refused"
            return Scored(None, reason, done.error)
        return self._expected(done) if self._by_labels else self._read(done)

    def _request(self, row: Row) -> Request:
        text = _IN_BRACES.sub(lambda found: row[found[1]], self._template)
        chat = self.generator.prompt_style == "chat"
        prompt: Prompt = [{"role": "user", "content": text}] if chat else text
        labels = self._labels if self._by_labels else ()
        return Request(prompt, self._sampling, score_seed(row["id"]), "classification", labels)

    def _expected(self, done: Completion) -> Scored:
        if done.label_logprobs is None:
            return Scored(None, "no_logprobs")
        highest = max(done.label_logprobs)
        weights = [math.exp(logprob - highest) for logprob in done.label_logprobs]
        value = sum(w * g for w, g in zip(weights, self._grades, strict=True)) / sum(weights)
        return Scored(value)

    def _read(self, done: Completion) -> Scored:
        parts, highest = split_thoughts(done.text), max(self._grades)
        if done.finish_reason == "length" or not parts.is_finished:
            return Scored(None, UNFINISHED, done.text)
        found = _NUMBER.findall(parts.answer)
        numbers = [float(number) for number, of in found if not of or float(of) == highest]
        grades = [number for number in numbers if number in self._grades]
        return Scored(grades[-1], None, done.text) if grades else Scored(None, UNPARSED, done.text)


def _template(path: str | None, ours: str) -> str:
    if path is None:
        return files("ray_si.scores").joinpath("prompts", ours).read_text(encoding="utf-8").strip()
    try:
        text = Path(os.path.expanduser(path)).read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the judge's prompt {path} cannot be read: {error}") from error
    unknown = sorted(set(_UNKNOWN.findall(text)) - set(PLACEHOLDERS))
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise ConfigError(f"{path} has an unknown placeholder {{{unknown[0]}}}; there are {known}")
    if "{output}" not in text:
        raise ConfigError(f"{path} has no place for the answer: write {{output}} into it")
    return text
