"""What rows are scored by: each kind of score with the settings that its values depend on."""

from __future__ import annotations

import difflib
import keyword
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationError

from ray_si.config.section import Section
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
    """Where it is, as module:function. It takes a list of rows, which are dictionaries, and returns
    a number or None for each."""
    version: str = ""
    """To be changed when the function is, so that rows are scored anew."""


KINDS: dict[str, type[ScoreSection]] = {
    section.kind: section for section in (LengthScore, ChecksScore, FunctionScore)
}
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
