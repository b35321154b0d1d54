"""How the first phase goes: prompts, rounds, and what is refused of them."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ray_si.config.sections.base import Section as _Section
from ray_si.self_instruct.checks import INSTRUCTION_CHECKS, known_checks
from ray_si.self_instruct.prompts import REWRITES, Method

_OF_METHOD: dict[str, dict[str, Any]] = {
    "plan": {"new_instructions": 1},
    "evolve": {"new_instructions": 1, "demonstrations": 1},
    "template": {"new_instructions": 1, "demonstrations": 0, "machine_demonstrations": 0},
}
"""By method, what it takes, which may as well be left out."""

_DEFAULTS: dict[str, dict[str, Any]] = {
    "evolve": {"machine_demonstrations": 1, "rewrites": REWRITES},
}
"""By method, defaults that are others than those of list."""

MOST_PROMPTS = 100_000
"""Of a round."""

MOST_AHEAD = 64
"""Rounds of a new run, each of which takes a thread of the driver and an execution of Ray Data."""


class Bootstrap(_Section):
    """Phase 1: new instructions, round by round."""

    mode: Literal["instructions", "joint"] = "instructions"
    """What a completion holds: instructions alone (the paper), or whole tasks with input and output
    (Alpaca); then phases 2 and 3 ask the model only about those that came without an output."""
    method: Method = "list"
    """How instructions are asked for: a list goes on (the paper); or one at a time: after a plan
    for it that is no part of it (CoT-Self-Instruct); by evolve, another task rewritten
    (Evol-Instruct); by template, as a chat model's own user writes, with nothing before it
    (Magpie)."""
    demonstrations: int = Field(8, ge=0)
    """Examples in a prompt."""
    machine_demonstrations: int = Field(2, ge=0)
    """How many of them are machine-written, once there are any; in classification-only prompts,
    from earlier such prompts. In joint mode only tasks with an output can be."""
    demonstration_sampling: Literal["uniform", "diverse"] = "uniform"
    """Machine-written examples are drawn uniformly (the paper), or weighted toward thin regions of
    the pool: clusters of its embeddings, by k-means in single precision, each equally likely. Needs
    the cosine gate."""
    same_demonstrations: bool = False
    """All prompts of a round that ask for the same kind of task show the same examples, whose keys
    and values an engine computes once; each round shows others."""
    max_demonstration_words: int | None = Field(None, ge=4)
    """Leave longer ones (in joint mode, with input and output) out of prompts; none keeps all. A
    new run needs as many shorter seed tasks, of each kind that it shows, as a prompt has examples.
    """
    new_instructions: int = Field(8, ge=1)
    """How many a completion is asked for."""
    prompts_per_round: int = Field(64, ge=1, le=MOST_PROMPTS)
    """Requests in a round; machine-written examples come from finished rounds."""
    classification_share: float = Field(0.0, ge=0, le=1)
    """Share of prompts with classification seeds only, asking for more of those: of each round, so
    a round of a new run has one at the least."""
    openings: tuple[str, ...] = ()
    """Words that the next instruction begins with in a prompt, which the model completes; in YAML
    also a text file with one a line. Used in turn, so the model no longer chooses what kind of task
    it writes. Those that refer to a text follow demonstrations with an input, the others follow
    demonstrations without."""
    prompts_per_opening: int | None = Field(None, ge=1)
    """Most prompts with the same opening; when that is reached, phase 1 ends as at a plateau."""
    topics: tuple[str, ...] = ()
    """What new tasks are to be about, one topic or person a prompt, used in turn; in YAML also a
    text file with one a line. The prompt says so by the template topic."""
    rewrites: tuple[str, ...] = ()
    """Of method evolve: what to change of a task, used in turn; in YAML also a text file with one a
    line. Ours make it harder in four ways and vary it in two."""
    lookahead: int = Field(1, ge=0)
    """Rounds generated while an earlier one is still being gated; at most 64 in a new run."""
    fit_to_slots: bool = False
    """Choose prompts_per_round and lookahead, where they are not set, so that rounds keep every
    slot busy: from generator's slots, how latencies spread, and the target. What they come to is
    part of the run, so a run goes on with them on other hardware; a new one there has others."""
    block_size: int = Field(32, ge=1)
    """Requests in a block, the unit of durable work."""
    drop_unfinished: Literal["last", "all"] = "last"
    """What is dropped when the model ran out of tokens: the last item, or (the paper) all."""
    sentence_case: bool = False
    """Lower-case all but the first letter (the paper)."""
    min_words: int = Field(4, ge=1)
    """Shortest instruction, in words by white space; every letter of a script written without
    spaces counts as a word, but for dedup.tokenizer reference."""
    max_words: int = Field(150, ge=1)
    """Longest instruction, in words."""
    ascii_start: bool = True
    """Refuse instructions whose first character is not ASCII; turn off for other scripts."""
    quality_filters: bool = False
    """Extra heuristics against small models' slips; English only, not in the paper."""
    checks: tuple[str, ...] = ()
    """Further filters by name, English only: those of instructions in
    `ray_si.self_instruct.checks`, explained in docs/reasons.md."""
    stall_rounds: int = Field(5, ge=1)
    """This many rounds in a row that accept almost nothing are a plateau."""
    stall_acceptance: float = Field(0.01, ge=0, lt=1)
    """Share of candidates up to which a round counts as accepting almost nothing."""
    on_stall: Literal["stop", "finish"] = "stop"
    """At a plateau, stop with an error; or finish: end phase 1 and go on to the instances."""

    @field_validator("checks")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return known_checks(names, INSTRUCTION_CHECKS)

    @model_validator(mode="before")
    @classmethod
    def _of_method(cls, values: Any) -> Any:
        """What a method takes, and its own defaults, need not be given."""
        method = values.get("method") if isinstance(values, dict) else None
        if not isinstance(method, str):
            return values
        return _OF_METHOD.get(method, {}) | _DEFAULTS.get(method, {}) | values

    @model_validator(mode="after")
    def _consistent(self) -> Bootstrap:
        if self.machine_demonstrations > self.demonstrations:
            raise ValueError("machine_demonstrations is more than demonstrations")
        if not self.demonstrations and self.method != "template":
            raise ValueError(f"method {self.method} shows demonstrations: set them to 1 or more")
        if self.min_words > self.max_words:
            raise ValueError("min_words is more than max_words")
        for name in ("openings", "topics", "rewrites"):
            texts = getattr(self, name)
            if len(set(texts)) < len(texts) or not all(text.strip() for text in texts):
                raise ValueError(f"{name}: one is empty or there twice")
        if bool(self.rewrites) != (self.method == "evolve"):
            raise ValueError("rewrites are those of method evolve, which needs one at least")
        if self.method != "list":
            self._check_method()
        if self.openings:
            self._check_openings()
        elif self.prompts_per_opening is not None:
            raise ValueError("prompts_per_opening needs openings")
        return self

    def _check_method(self) -> None:
        """Raise ValueError for what a method other than list has no use for."""
        if self.mode == "joint" or self.classification_share or self.openings:
            raise ValueError(
                f"method {self.method} asks for one instruction of any kind: set mode to "
                "instructions, classification_share to 0, and openings to none"
            )
        for name, value in _OF_METHOD[self.method].items():
            if getattr(self, name) != value:
                raise ValueError(f"method {self.method} takes {name} {value}: leave it out")

    def _check_openings(self) -> None:
        """Raise ValueError for openings that no run can use."""
        if self.mode == "joint" or self.new_instructions != 1 or self.classification_share:
            raise ValueError(
                "openings begin one instruction of a completion: set new_instructions to 1, mode "
                "to instructions, and classification_share to 0"
            )
        is_fitted = self.fit_to_slots and "prompts_per_round" not in self.model_fields_set
        prompts = self.prompts_of_openings
        if prompts is not None and prompts < self.prompts_per_round and not is_fitted:
            raise ValueError(
                f"prompts_per_opening: {len(self.openings)} openings make {prompts} prompts, "
                f"less than a round ({self.prompts_per_round})"
            )

    @property
    def least_prompts(self) -> int:
        """Of a round, of which ``classification_share`` then makes one."""
        share = self.classification_share
        if not share:
            return 1
        least = math.ceil(1 / share)
        return least if int(least * share) else least + 1  # as floating-point numbers have it

    @property
    def prompts_of_openings(self) -> int | None:
        """Prompts after which every opening has been used as often as it may; None: without end."""
        if self.prompts_per_opening is None:
            return None
        return self.prompts_per_opening * len(self.openings)
