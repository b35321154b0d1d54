"""Sections of the phases after the first: classes, and how inputs and outputs are asked for."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from ray_si.config.sections.base import Section as _Section
from ray_si.self_instruct.checks import ANSWER_CHECKS, INPUT_CHECKS, known_checks
from ray_si.self_instruct.prompts import Style


class Classification(_Section):
    """Phase 2: which instructions are classification tasks."""

    method: Literal["labels", "text", "prompt"] = "labels"
    """Compare the log-probabilities of the two answers, read a written one, or ask nothing: what a
    classification-only prompt brought is one, and nothing else."""
    threshold: float = 0.0
    """For labels: how much likelier (in log-probability) yes must be than no."""


class Instances(_Section):
    """Phase 3: inputs and outputs for each instruction."""

    method: Literal["pairs", "steps"] = "pairs"
    """What a completion holds: inputs with their outputs (the paper); or one text, first an input,
    where the instruction needs one, then each of the ``answers`` to it."""
    answers: int = Field(1, ge=1)
    """In steps: answers asked for each input. All are stored; the likeliest of those that pass the
    filters is the row's, by the mean log-probability of its tokens, or the first where the engine
    tells none."""
    greedy_first: bool = False
    """In steps: the first answer is greedy, the others are drawn by sampling.answer."""
    inputs: Literal["asked", "user_turn"] = "asked"
    """In steps: an input is asked for, and may be declined as not needed; or it is what the model
    writes as the user of an assistant with this task, for instructions that refer to a text
    (English only; chat models whose template this process renders)."""
    max_input_words: int | None = Field(None, ge=1)
    """With user_turn: a longer input ends with its last whole sentence within so many words."""
    demonstrations: int = Field(0, ge=0)
    """In steps and chat style: seed tasks without an input, the first so many, that are shown as
    earlier turns where an answer without input is asked for; 0 shows none."""
    input_demonstrations: int = Field(0, ge=0)
    """The same with an input, where an answer to one is asked for; and with user_turn where one
    is."""
    prompt_style: Style | None = None
    """Style of phases 2 and 3; none: the generator's."""
    max_per_instruction: int = Field(5, ge=1)
    """Instances kept of one instruction; in steps also the inputs asked for."""
    block_size: int = Field(16, ge=1)
    """Instructions in a block, the unit of durable work."""
    quality_filters: bool = False
    """Extra heuristics against small models' slips; English only, not in the paper."""

    checks: tuple[str, ...] = ()
    """Further filters by name, English only: those of inputs and answers in
    `ray_si.self_instruct.checks`, explained in docs/reasons.md."""

    @field_validator("checks")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return known_checks(names, {**INPUT_CHECKS, **ANSWER_CHECKS})

    @model_validator(mode="after")
    def _consistent(self) -> Instances:
        if self.method == "pairs":
            for name in (
                *("answers", "greedy_first", "inputs"),
                *("demonstrations", "input_demonstrations", "max_input_words"),
            ):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} needs method steps, in which answers are asked alone")
        return self
