"""What rows are scored by: each kind of score with the settings that its values depend on."""

from __future__ import annotations

import difflib
import keyword
from collections.abc import Mapping
from itertools import permutations
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from ray_si.config.sections.base import Section
from ray_si.config.sections.generator import Generator
from ray_si.errors import ConfigError


class ScoreSection(Section):
    """Settings of a score; ``kind`` is what a configuration calls it."""

    kind: ClassVar[str]


class LengthScore(ScoreSection):
    """How long a text of the row is."""

    kind: ClassVar[str] = "length"
    of: Literal["instruction", "input", "output"] = "output"
    """Which text."""
    unit: Literal["words", "characters"] = "words"
    """Words, divided at white space, or characters."""


class LogprobScore(ScoreSection):
    """Mean log-probability of the output's tokens under the model that wrote it, as it was stored.

    Of runs whose instances were asked in steps; elsewhere a completion holds several instances.
    """

    kind: ClassVar[str] = "logprob"


class AgreementScore(ScoreSection):
    """How much the other answers to the same input agree with the output, in the mean."""

    kind: ClassVar[str] = "agreement"
    measure: Literal["auto", "exact", "rouge", "cosine"] = "auto"
    """Share of equal answers, ROUGE-L F, or cosine of embeddings; auto is exact for classification
    tasks and rouge for all others."""
    embedder: str = "all-minilm-l6-v2"
    """For cosine: a bundled name, a folder, or a sentence-transformers name on the hub."""


class ChecksScore(ScoreSection):
    """1 where nothing is wrong of what a program can check in an output, 0 where something is."""

    kind: ClassVar[str] = "checks"
    code: bool = False
    """Also compile Python that was asked for, in a process of its own with little memory and time.
    Nothing generated is ever run."""


class FunctionScore(ScoreSection):
    """A function of your own."""

    kind: ClassVar[str] = "function"
    path: str = Field(pattern=r"^[\w.]+:\w+$")
    """Where it is, as module:function. It takes a list of rows, which are dictionaries with id,
    instruction, input, output, is_classification and instruction_id, and returns a number or None
    for each."""
    version: str = ""
    """To be changed when the function is, so that rows are scored anew."""


class _ChatScore(ScoreSection):
    """Of a model that is asked as a chat, unless its prompt_style says otherwise."""

    generator: Generator = Generator(prompt_style="chat")
    """The model and how it is hosted; prompt_style is chat here, unless it is set."""

    @field_validator("generator", mode="before")
    @classmethod
    def _as_chat(cls, given: Any) -> Any:
        return {"prompt_style": "chat", **given} if isinstance(given, Mapping) else given


class IfdScore(_ChatScore):
    """Perplexity of the output with its instruction over that without, by any causal model.

    Instruction-following difficulty, arXiv 2402.00530: near 1 the instruction hardly helps to guess
    the output, above 1 it misleads.
    """

    kind: ClassVar[str] = "ifd"

    @field_validator("generator")
    @classmethod
    def _scores_texts(cls, generator: Generator) -> Generator:
        if generator.engine != "transformers":
            raise ValueError(
                f"the {generator.engine} engine gives no log-probabilities of whole texts: set "
                "engine to transformers"
            )
        return generator


_OUR_GRADES = (1, 2, 3, 4, 5)
"""What our prompts ask a judge for."""


class JudgeScore(_ChatScore):
    """A grade by a language model."""

    kind: ClassVar[str] = "judge"
    method: Literal["labels", "text"] = "labels"
    """labels: the mean of all grades, weighted by their probabilities, in one forward pass; text:
    the grade that the model writes, for endpoints without log-probabilities."""
    grades: tuple[float, ...] = _OUR_GRADES
    """What it may give. Others need a prompt that asks for them, and method text where one begins
    with another, as 10 does with 1."""
    prompt: str | None = None
    """File with the question, in which {instruction}, {input} and {output} stand for what the row
    has; none takes ours."""
    max_tokens: int = Field(256, ge=1)
    """Longest answer where the grade is written, with what a model thinks before it; one that takes
    more has no grade. The last number in it that is a grade counts."""

    @field_validator("grades")
    @classmethod
    def _several(cls, grades: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(grades)) < 2 or len(set(grades)) < len(grades):
            raise ValueError("name at least two grades, each once")
        return grades

    @field_validator("generator")
    @classmethod
    def _writes(cls, generator: Generator) -> Generator:
        if generator.engine == "reward":
            raise ValueError("the reward engine writes nothing: use a score of the kind reward")
        return generator

    @model_validator(mode="after")
    def _are_asked_for(self) -> JudgeScore:
        for one, other in permutations(self.written_grades, 2):
            if self.method == "labels" and other.startswith(one):
                raise ValueError(
                    f"grades: {other} begins with {one}, so the label {one} counts for {other}, "
                    "too: set method to text"
                )
        if self.prompt is None and set(self.grades) != set(_OUR_GRADES):
            raise ValueError(
                "grades: our prompt asks for 1 to 5; name a prompt of yours that asks for these"
            )
        return self

    @property
    def written_grades(self) -> tuple[str, ...]:
        """The grades as a model writes them."""
        return tuple(f"{grade:g}" for grade in self.grades)


class RewardScore(ScoreSection):
    """What a reward model gives: a sequence-classification model with a scalar head."""

    kind: ClassVar[str] = "reward"
    generator: Generator
    """The model and how it is hosted; engine reward."""

    @field_validator("generator", mode="before")
    @classmethod
    def _rewards(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        if given.get("engine", "reward") != "reward":
            raise ValueError("engine must be reward, or left out")
        if not given.get("model"):
            raise ValueError("name a model")
        return {**given, "engine": "reward"}


KINDS: dict[str, type[ScoreSection]] = {
    section.kind: section
    for section in (
        LengthScore, LogprobScore, AgreementScore, ChecksScore, FunctionScore,
        IfdScore, JudgeScore, RewardScore,
    )
}  # fmt: skip
"""Kind of score -> its settings."""


def scores_of(given: Mapping[str, Any], source: str = "scores") -> dict[str, ScoreSection]:
    """Settings by the names that scores shall have; one named for its kind need not name the kind.

    Raises ConfigError, with all that is wrong in a name's settings on one line.
    """
    return {name: _section(name, values, source) for name, values in given.items()}


def _section(name: str, values: Any, source: str) -> ScoreSection:
    where = f"{source}.{name}"
    if not str(name).isidentifier() or keyword.iskeyword(name):
        raise ConfigError(f"{where} cannot name a score: use letters, digits and underscores")
    settings = {} if values is None else values
    if not isinstance(settings, Mapping):
        raise ConfigError(f"{where}: write a mapping of keys to values")
    kind = settings.get("kind", name)
    if kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(KINDS)}"
        raise ConfigError(f"{where}: there is no kind of score {kind} ({hint})")
    try:
        return KINDS[kind].model_validate({k: v for k, v in settings.items() if k != "kind"})
    except ValidationError as error:
        problems = (_problem(dict(item), KINDS[kind]) for item in error.errors())
        raise ConfigError(f"{where}: {'; '.join(problems)}") from error


def _problem(error: dict[str, Any], section: type[ScoreSection]) -> str:
    key = ".".join(map(str, error["loc"]))
    if error["type"] != "extra_forbidden":
        message = error["msg"].removeprefix("Value error, ")
        return f"{key}: {message}" if key else message
    near = difflib.get_close_matches(key, section.model_fields, n=1, cutoff=0.5)
    known = ", ".join(name for name in section.model_fields if name != "kind") or "none"
    return (
        f"there is no key {key} ({f'did you mean {near[0]}?' if near else f'known here: {known}'})"
    )
