"""Sections that say how answers are read: the words of a language, and thoughts."""

from __future__ import annotations

from pydantic import Field, field_validator

from ray_si.config.sections.base import Section as _Section
from ray_si.self_instruct.filters import KEYWORDS, PROGRAM_OPENINGS
from ray_si.self_instruct.headings import Headings
from ray_si.self_instruct.thoughts import TAGS, Tag


class LanguageHeadings(_Section):
    """Words before a colon in prompts and answers; the English ones are read as well."""

    task: str = Field("Task", min_length=1)
    instruction: str = Field("Instruction", min_length=1)
    example: str = Field("Example", min_length=1)
    input: str = Field("Input", min_length=1)
    output: str = Field("Output", min_length=1)
    label: str = Field("Class label", min_length=1)


class Language(_Section):
    """What depends on the dataset's language; the defaults are for English, from the paper."""

    headings: LanguageHeadings = LanguageHeadings()
    """As the templates have them."""
    labels: tuple[str, str] | None = None
    """The two answers to "is it a classification task?", yes first, as they follow the prompt (in
    completion style with the space before them); none takes those of our templates."""
    keywords: tuple[str, ...] = KEYWORDS
    """Instructions with one of these words are refused; whole words, in any case."""
    program_openings: tuple[str, ...] = PROGRAM_OPENINGS
    """Instructions that begin so are refused."""

    @field_validator("labels", "keywords", "program_openings")
    @classmethod
    def _not_empty(cls, texts: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if texts and not all(text.strip() for text in texts):
            raise ValueError("an empty text is no value here")
        return texts

    def as_headings(self) -> Headings:
        """As prompts and parsing take them."""
        return Headings(**self.headings.model_dump())


class Reasoning(_Section):
    """What a model thinks aloud before it answers; it never becomes content."""

    expected: bool = False
    """The model thinks first: the stop strings of chat templates, which could end its thought, are
    left out, and classification.method labels, which scores where it begins, is refused."""
    keep: bool = False
    """Keep the thought that preceded an instance as a column `reasoning` of the training rows."""
    tags: tuple[Tag, ...] = TAGS
    """Around a thought: a name, for <name> and [NAME], or an opening and a closing text. What an
    endpoint or parser takes apart itself needs none."""
